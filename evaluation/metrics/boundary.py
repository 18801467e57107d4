"""The boundaries of segments, all of a label map in one pass.

Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (CVPR 2021, arXiv
2103.16562), section 5: the boundary of a mask is made of its pixels within a distance d of its contour.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.metrics.overlaps import checked_ids, run_starts, sum_pairs

# Share of the image's diagonal: COCO's in the paper's own code, and what it takes for finer annotations.
_DILATION_RATIO = 0.02
_FINE_DILATION_RATIOS = {"cityscapes": 0.005}


class BoundaryOverlaps(NamedTuple):
    """Which ids meet on how many pixels, on their boundaries and inside; each combination once.

    Attributes:
        truth: Ids in the truth, int64 [rows].
        prediction: Ids in the prediction, int64 [rows].
        on_truth: Whether these pixels are on the boundary of the true segment, bool [rows].
        on_prediction: Whether they are on that of the predicted segment, bool [rows].
        pixels: How many there are, int64 [rows].
    """

    truth: np.ndarray
    prediction: np.ndarray
    on_truth: np.ndarray
    on_prediction: np.ndarray
    pixels: np.ndarray


def dilation_ratio_of(info: DatasetInfo) -> float:
    """Returns the width of boundaries as a share of the image's diagonal, as official code has it for a data set."""
    return _FINE_DILATION_RATIOS.get(info.name, _DILATION_RATIO)


def check_dilation_ratio(ratio: float) -> float:
    """Returns the ratio; raises UserError unless it is a share above 0."""
    if not 0 < ratio <= 1:
        raise UserError(f"dilation_ratio: expected a share of the image's diagonal in (0, 1], got {ratio}")
    return ratio


def boundary_distance(height: int, width: int, dilation_ratio: float) -> int:
    """Returns the width of boundaries in an image, in whole pixels, at least 1.

    Args:
        height: Of the image.
        width: Of the image.
        dilation_ratio: Share of its diagonal.
    """
    return max(1, round(dilation_ratio * math.sqrt(height**2 + width**2)))


def segment_boundaries(ids: np.ndarray, distance: int) -> np.ndarray:
    """Finds the pixels on the boundary of their segment, for all segments at once.

    A pixel is one of them if a pixel of another id, or the outside of the image, lies in the square window of
    2 * distance + 1 pixels round it: what `distance` erosions of each segment's mask by 3x3 pixels take away.

    Args:
        ids: Integers [height, width]; pixels of one id are one segment.
        distance: Width of the boundary in pixels, 1 or more.

    Returns:
        bool [height, width].
    """
    height, width = ids.shape
    boundaries = np.ones((height, width), bool)
    if min(height, width) <= 2 * distance:
        return boundaries
    # A window has one id if neighbours are equal along each of its rows, and the rows are along its middle column.
    rows = _all_in_window(ids[:, 1:] == ids[:, :-1], 2 * distance)
    inside = slice(distance, width - distance)
    same_below = ids[1:, inside] == ids[:-1, inside]
    columns = _all_in_window((rows[:-1] & same_below).T, 2 * distance).T
    boundaries[distance : height - distance, inside] = ~(columns & rows[2 * distance :])
    return boundaries


def count_boundary_overlaps(truth: np.ndarray, prediction: np.ndarray, distance: int) -> BoundaryOverlaps:
    """Counts the pixels shared by every pair of ids, on boundaries and inside.

    Args:
        truth: Integers in 0..2^24-1, [height, width].
        prediction: Likewise, of the same shape.
        distance: Width of boundaries in pixels.

    Returns:
        The combinations that occur.

    Raises:
        UserError: An id is out of range.
    """
    maps = [truth, prediction, segment_boundaries(truth, distance), segment_boundaries(prediction, distance)]
    maps = [values.ravel() for values in maps]
    starts = run_starts(*maps)
    lengths = np.diff(starts, append=truth.size)
    true, predicted = (
        checked_ids(values[starts], name, limit=2**24 - 1) << 1 | on_boundary[starts]
        for values, on_boundary, name in zip(maps[:2], maps[2:], ("truth", "prediction"), strict=True)
    )
    pairs = sum_pairs(true, predicted, lengths)
    return BoundaryOverlaps(
        pairs.truth >> 1, pairs.prediction >> 1, pairs.truth % 2 == 1, pairs.prediction % 2 == 1, pairs.pixels
    )


def _all_in_window(flags: np.ndarray, length: int) -> np.ndarray:
    """Returns whether all of the `length` flags from each one to the right are set, [rows, columns - length + 1]."""
    covered = 1
    while 2 * covered <= length:
        flags = flags[:, :-covered] & flags[:, covered:]
        covered *= 2
    rest = length - covered
    return flags[:, :-rest] & flags[:, rest:] if rest else flags
