"""Panoptic quality by the rules of the official COCO panoptic script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.class_counts import ClassCountMetric, counts_from_json, counts_to_json
from deeplab2_lite.evaluation.metrics.exact_sums import fraction_sums, sum_fractions
from deeplab2_lite.evaluation.metrics.overlaps import (
    Overlaps,
    check_same_shape,
    check_semantic_ids,
    count_overlaps,
    integer_map,
    sum_by,
)


class PanopticCounts(NamedTuple):
    """What images add to panoptic quality; sums of them are exact. Each is int64 [classes].

    Attributes:
        tp: Matched segments.
        fp: Unmatched predicted segments.
        fn: Unmatched true segments.
        iou_high: Upper part of the sum of the IoUs of matched segments.
        iou_low: Its lower part.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    iou_high: np.ndarray
    iou_low: np.ndarray

    def to_json(self) -> dict[str, list[int]]:
        """Returns the counts of the classes that have any, by class id, as JSON can hold them."""
        return counts_to_json(self)

    @classmethod
    def from_json(cls, content: Mapping[str, list[int]], num_classes: int) -> PanopticCounts:
        """Reads what `to_json` returned."""
        return counts_from_json(cls, content, num_classes)


class QualityAverage(NamedTuple):
    """Means over classes, as fractions in 0..1; NaN where no class is counted.

    Attributes:
        pq: Panoptic quality.
        sq: Segmentation quality, the mean IoU of matches.
        rq: Recognition quality, the F1 score of segments.
        num_classes: Number of classes that are counted.
    """

    pq: float
    sq: float
    rq: float
    num_classes: int


@dataclass(frozen=True)
class PanopticQualityResult:
    """Panoptic quality over a data set, as fractions in 0..1.

    Attributes:
        all: Means over all counted classes.
        things: Means over counted thing classes.
        stuff: Means over counted stuff classes.
        per_class_pq: float64 [classes]; NaN where the class is not counted.
        per_class_sq: float64 [classes], likewise; 0 where nothing matched.
        per_class_rq: float64 [classes], likewise.
        tp: Matched segments, int64 [classes].
        fp: Unmatched predicted segments, int64 [classes].
        fn: Unmatched true segments, int64 [classes].
        iou_sum: Sum of the IoUs of matched segments, float64 [classes].
        counted: Classes with tp + fp + fn > 0, bool [classes].
        isthing: Thing classes, bool [classes].
    """

    all: QualityAverage
    things: QualityAverage
    stuff: QualityAverage
    per_class_pq: np.ndarray
    per_class_sq: np.ndarray
    per_class_rq: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    iou_sum: np.ndarray
    counted: np.ndarray
    isthing: np.ndarray

    @property
    def pq(self) -> float:
        """Panoptic quality over all counted classes."""
        return self.all.pq

    @property
    def sq(self) -> float:
        """Segmentation quality over all counted classes."""
        return self.all.sq

    @property
    def rq(self) -> float:
        """Recognition quality over all counted classes."""
        return self.all.rq

    def detection_ap50(self, class_ids: Sequence[int] | None = None) -> float:
        """Returns microscopy's AP50: TP / (TP + FP + FN) at IoU > 0.5, pooled over the data set.

        Args:
            class_ids: Classes to pool; None takes all things.

        Returns:
            A fraction in 0..1; NaN where there are no segments at all.
        """
        chosen = np.flatnonzero(self.isthing) if class_ids is None else np.asarray(class_ids, np.int64)
        tp, fp, fn = (int(counts[chosen].sum()) for counts in (self.tp, self.fp, self.fn))
        return tp / (tp + fp + fn) if tp + fp + fn else float("nan")


class PanopticQuality(ClassCountMetric[PanopticCounts]):
    """Streaming panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019).

    The figures are those of panopticapi's `pq_compute`. Every id of a class is one segment, whatever
    its instance number, and void is none. A predicted and a true segment of one class match if their
    IoU, void left out of the union, is above 0.5. True crowd (a thing class with instance 0) neither
    matches nor counts as missed; an unmatched predicted segment is forgiven if more than half of it
    lies on void and on crowd of its class. Means run over classes with tp + fp + fn > 0.
    """

    def __init__(self, info: DatasetInfo) -> None:
        """Makes an empty metric.

        Args:
            info: The label space of truth and prediction.
        """
        self._isthing = np.array([c.isthing for c in info.classes], bool)
        super().__init__(info, PanopticCounts)

    def update(self, truth: Any, prediction: Any) -> None:
        """Adds an image or a batch of images.

        Args:
            truth: Panoptic ids, integers [height, width] or [batch, height, width].
            prediction: Panoptic ids of the same shape.

        Raises:
            UserError: Types, shapes or ids do not fit; nothing of the batch is counted then.
        """
        truth, prediction = integer_map(truth, "truth", (2, 3)), integer_map(prediction, "prediction", (2, 3))
        check_same_shape(truth, prediction)
        if truth.ndim == 2:
            truth, prediction = truth[None], prediction[None]
        for counts in [self._count(*pair) for pair in zip(truth, prediction, strict=True)]:
            self.add(counts)

    def count(self, truth: Any, prediction: Any) -> PanopticCounts:
        """Counts one image, without adding it.

        Args:
            truth: Panoptic ids, integers [height, width].
            prediction: Panoptic ids of the same shape.

        Returns:
            What `add` takes, here or in another process.

        Raises:
            UserError: Types, shapes or ids do not fit.
        """
        truth, prediction = integer_map(truth, "truth", (2,)), integer_map(prediction, "prediction", (2,))
        check_same_shape(truth, prediction)
        return self._count(truth, prediction)

    def result(self) -> PanopticQualityResult:
        """Returns the figures over all images so far; the metric stays as it is."""
        tp, fp, fn, iou_high, iou_low = self._counts
        iou_sum = fraction_sums(iou_high, iou_low)
        counted = (tp + fp + fn) > 0
        weight = np.where(counted, tp + 0.5 * fp + 0.5 * fn, np.nan)
        pq, rq = iou_sum / weight, tp / weight
        sq = np.where(counted, iou_sum / np.maximum(tp, 1), np.nan)

        def average(classes: np.ndarray) -> QualityAverage:
            chosen = counted & classes
            if not chosen.any():
                return QualityAverage(float("nan"), float("nan"), float("nan"), 0)
            return QualityAverage(*(float(values[chosen].mean()) for values in (pq, sq, rq)), int(chosen.sum()))

        return PanopticQualityResult(
            all=average(np.ones_like(counted)),
            things=average(self._isthing),
            stuff=average(~self._isthing),
            per_class_pq=pq,
            per_class_sq=sq,
            per_class_rq=rq,
            tp=tp.copy(),
            fp=fp.copy(),
            fn=fn.copy(),
            iou_sum=iou_sum,
            counted=counted,
            isthing=self._isthing.copy(),
        )

    def _count(self, truth: np.ndarray, prediction: np.ndarray) -> PanopticCounts:
        return match_segments(count_overlaps(truth, prediction), self._info)


def match_segments(
    pairs: Overlaps, info: DatasetInfo, second_iou: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
) -> PanopticCounts:
    """Matches the segments of an image by the rules of `PanopticQuality`.

    Args:
        pairs: Which panoptic ids of truth and prediction meet on how many pixels.
        info: Their label space.
        second_iou: Gives another IoU, float64 [pairs], for pairs of ids in truth and prediction, int64 [pairs] each;
            the smaller of the two IoUs then counts.

    Returns:
        What the image adds.

    Raises:
        UserError: An id is of no class.
    """
    truth_ids, truth_index = np.unique(pairs.truth, return_inverse=True)
    predicted_ids, predicted_index = np.unique(pairs.prediction, return_inverse=True)
    truth_class, predicted_class = truth_ids // info.label_divisor, predicted_ids // info.label_divisor
    check_semantic_ids(truth_class, info, "truth")
    check_semantic_ids(predicted_class, info, "prediction")

    void = truth_class == info.ignore_label
    isthing = np.array([c.isthing for c in info.classes], bool)
    crowd = np.zeros_like(void)
    crowd[~void] = isthing[truth_class[~void]] & (truth_ids[~void] % info.label_divisor == 0)
    predicted_void = predicted_class == info.ignore_label

    same_class = truth_class[truth_index] == predicted_class[predicted_index]
    pair_void, pair_crowd = void[truth_index], crowd[truth_index] & same_class
    truth_area = sum_by(truth_index, pairs.pixels, truth_ids.size)
    predicted_area = sum_by(predicted_index, pairs.pixels, predicted_ids.size)
    on_void = sum_by(predicted_index[pair_void], pairs.pixels[pair_void], predicted_ids.size)
    on_crowd = sum_by(predicted_index[pair_crowd], pairs.pixels[pair_crowd], predicted_ids.size)

    candidates = np.flatnonzero(same_class & ~(void | crowd)[truth_index] & ~predicted_void[predicted_index])
    i, j = truth_index[candidates], predicted_index[candidates]
    intersection = pairs.pixels[candidates]
    iou = intersection / (truth_area[i] + predicted_area[j] - on_void[j] - intersection)
    if second_iou is not None:
        iou = np.minimum(iou, second_iou(truth_ids[i], predicted_ids[j]))
    i, j, iou = i[iou > 0.5], j[iou > 0.5], iou[iou > 0.5]

    missed = ~(void | crowd)
    missed[i] = False
    wrong = ~predicted_void & (on_void + on_crowd <= 0.5 * predicted_area)
    wrong[j] = False
    iou_high, iou_low = sum_fractions(truth_class[i], iou, info.num_classes)
    return PanopticCounts(
        tp=np.bincount(truth_class[i], minlength=info.num_classes),
        fp=np.bincount(predicted_class[wrong], minlength=info.num_classes),
        fn=np.bincount(truth_class[missed], minlength=info.num_classes),
        iou_high=iou_high,
        iou_low=iou_low,
    )
