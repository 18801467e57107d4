"""Which segments of an image were found, missed or made up, and what that makes of each pixel."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.overlaps import check_same_shape, check_semantic_ids, count_overlaps


class PixelError(IntEnum):
    """What is wrong at a pixel, by the segments that meet there."""

    IGNORED = 0
    MATCHED = 1
    OUTLINE = 2
    FALSE_POSITIVE = 3
    FALSE_NEGATIVE = 4
    WRONG_CLASS = 5
    POOR_OVERLAP = 6


class SegmentGroup(NamedTuple):
    """Segments of one class that were missed, or that were made up.

    Attributes:
        class_id: Their class.
        segments: How many.
        pixels: Pixels of them all.
        other_class: The class that covers most of them in the other map; None is void.
        other_pixels: Pixels that it covers.
    """

    class_id: int
    segments: int
    pixels: int
    other_class: int | None
    other_pixels: int


class SegmentErrors(NamedTuple):
    """The errors of one image.

    Attributes:
        pixels: `PixelError`, uint8 [height, width].
        missed: True segments without a match, the most pixels first.
        spurious: Predicted segments without a match that are not forgiven, likewise.
        matched: Number of matches.
    """

    pixels: np.ndarray
    missed: tuple[SegmentGroup, ...]
    spurious: tuple[SegmentGroup, ...]
    matched: int


class _Meetings(NamedTuple):
    """All true and predicted ids of an image, and how many pixels each pair shares."""

    truth_ids: np.ndarray
    predicted_ids: np.ndarray
    truth_class: np.ndarray
    predicted_class: np.ndarray
    pixels: np.ndarray


def segment_errors(truth: np.ndarray, prediction: np.ndarray, info: DatasetInfo) -> SegmentErrors:
    """Finds the errors of an image by the rules of panoptic quality.

    Args:
        truth: Panoptic ids, int32 [height, width].
        prediction: Likewise.
        info: The label space.

    Returns:
        Which segments are right or wrong, as `PanopticQuality` counts them. A pixel is MATCHED where a true
        segment and its match meet. Elsewhere it is a FALSE_POSITIVE on a segment that is made up, a
        FALSE_NEGATIVE on one that is missed; where both meet it is WRONG_CLASS, or POOR_OVERLAP if they are of
        one class. Where neither segment is wrong as a whole it is OUTLINE. Void is IGNORED, and so is crowd
        unless something of another class is predicted there.

    Raises:
        UserError: Sizes or ids do not fit.
    """
    meetings = _meetings(truth, prediction, info)
    truth_class, predicted_class, shared = meetings.truth_class, meetings.predicted_class, meetings.pixels
    isthing = np.array([*(c.isthing for c in info.classes), False])
    void, predicted_void = truth_class == info.num_classes, predicted_class == info.num_classes
    crowd = isthing[truth_class] & (meetings.truth_ids % info.label_divisor == 0)
    same = truth_class[:, None] == predicted_class[None]
    truth_area, predicted_area = shared.sum(axis=1), shared.sum(axis=0)
    on_void = shared[void].sum(axis=0)

    union = truth_area[:, None] + (predicted_area - on_void)[None] - shared
    match = same & ~(void | crowd)[:, None] & ~predicted_void[None] & (2 * shared > union)
    missed = ~(void | crowd | match.any(axis=1))
    forgiven = on_void + (shared * (same & crowd[:, None])).sum(axis=0)
    spurious = ~(predicted_void | match.any(axis=0)) & (2 * forgiven <= predicted_area)

    kinds = np.full(shared.shape, PixelError.OUTLINE, np.uint8)
    kinds[:, spurious] = PixelError.FALSE_POSITIVE
    kinds[missed] = PixelError.FALSE_NEGATIVE
    both = missed[:, None] & spurious[None]
    kinds[both & same] = PixelError.POOR_OVERLAP
    kinds[both & ~same] = PixelError.WRONG_CLASS
    kinds[match] = PixelError.MATCHED
    kinds[void] = PixelError.IGNORED
    kinds[crowd[:, None] & (same | predicted_void[None])] = PixelError.IGNORED
    return SegmentErrors(
        _paint(kinds, meetings, truth, prediction),
        _groups(missed, truth_class, predicted_class, shared, info),
        _groups(spurious, predicted_class, truth_class, shared.T, info),
        int(match.sum()),
    )


def class_errors(truth: np.ndarray, prediction: np.ndarray, info: DatasetInfo) -> SegmentErrors:
    """Finds the errors of an image pixel by pixel, for a prediction without instances.

    Args:
        truth: Panoptic ids, int32 [height, width].
        prediction: Likewise; their instances do not count.
        info: The label space.

    Returns:
        A pixel is MATCHED, WRONG_CLASS, FALSE_NEGATIVE where void is predicted, or IGNORED where the truth is
        void. `missed` has the pixels of each class that are wrong, with one "segment" each; `spurious` is empty.

    Raises:
        UserError: Sizes or ids do not fit.
    """
    divisor = info.label_divisor
    truth, prediction = truth // divisor * divisor, prediction // divisor * divisor
    meetings = _meetings(truth, prediction, info)
    truth_class, predicted_class = meetings.truth_class, meetings.predicted_class
    right = truth_class[:, None] == predicted_class[None]
    kinds = np.where(right, PixelError.MATCHED, PixelError.WRONG_CLASS).astype(np.uint8)
    kinds[:, predicted_class == info.num_classes] = PixelError.FALSE_NEGATIVE
    kinds[truth_class == info.num_classes] = PixelError.IGNORED
    wrong = np.where(right, 0, meetings.pixels)
    groups = _groups((truth_class < info.num_classes) & wrong.any(axis=1), truth_class, predicted_class, wrong, info)
    return SegmentErrors(_paint(kinds, meetings, truth, prediction), groups, (), 0)


def _meetings(truth: np.ndarray, prediction: np.ndarray, info: DatasetInfo) -> _Meetings:
    check_same_shape(truth, prediction)
    pairs = count_overlaps(truth, prediction)
    truth_ids, truth_index = np.unique(pairs.truth, return_inverse=True)
    predicted_ids, predicted_index = np.unique(pairs.prediction, return_inverse=True)
    pixels = np.zeros((truth_ids.size, predicted_ids.size), np.int64)
    pixels[truth_index, predicted_index] = pairs.pixels
    classes = []
    for ids, name in ((truth_ids, "truth"), (predicted_ids, "prediction")):
        class_id = ids // info.label_divisor
        check_semantic_ids(class_id, info, name)
        classes.append(np.minimum(class_id, info.num_classes))  # the number of classes stands for void
    return _Meetings(truth_ids, predicted_ids, *classes, pixels)


def _paint(kinds: np.ndarray, meetings: _Meetings, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Returns the kind of each pixel, from the kind of each pair of ids."""
    if not truth.size:
        return np.zeros(truth.shape, np.uint8)
    return kinds[np.searchsorted(meetings.truth_ids, truth), np.searchsorted(meetings.predicted_ids, prediction)]


def _groups(
    chosen: np.ndarray, classes: np.ndarray, other_classes: np.ndarray, shared: np.ndarray, info: DatasetInfo
) -> tuple[SegmentGroup, ...]:
    """Collects segments (rows of `shared`) by class; the columns are the segments of the other map."""
    groups = []
    for class_id in np.unique(classes[chosen]).tolist():
        rows = shared[chosen & (classes == class_id)]
        covered = np.bincount(other_classes, rows.sum(axis=0), info.num_classes + 1)
        other = int(covered.argmax())
        name = other if other < info.num_classes else None
        groups.append(SegmentGroup(class_id, len(rows), int(rows.sum()), name, int(covered[other])))
    return tuple(sorted(groups, key=lambda group: -group.pixels))
