"""Mean IoU of the boundaries of classes, from semantic maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.boundary import (
    boundary_distance,
    check_dilation_ratio,
    count_boundary_overlaps,
    dilation_ratio_of,
)
from deeplab2_lite.evaluation.metrics.class_counts import ClassCountMetric, counts_from_json, counts_to_json
from deeplab2_lite.evaluation.metrics.mean_iou import mean_of_numbers
from deeplab2_lite.evaluation.metrics.overlaps import (
    check_same_shape,
    check_semantic_ids,
    integer_map,
    sum_by,
)


class BoundaryCounts(NamedTuple):
    """Boundary pixels of classes outside void; each is int64 [classes].

    Attributes:
        intersection: On the true and on the predicted boundary of the class.
        truth: On its true boundary.
        prediction: On its predicted boundary.
    """

    intersection: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray

    def to_json(self) -> dict[str, list[int]]:
        """Returns the counts of the classes that have any, by class id, as JSON can hold them."""
        return counts_to_json(self)

    @classmethod
    def from_json(cls, content: Mapping[str, list[int]], num_classes: int) -> BoundaryCounts:
        """Reads what `to_json` returned."""
        return counts_from_json(cls, content, num_classes)


@dataclass(frozen=True)
class BoundaryIoUResult:
    """Boundary IoU over a data set, as fractions in 0..1.

    Attributes:
        mean_iou: Mean over the classes that have a boundary; NaN where there is none.
        per_class_iou: float64 [classes]; NaN where a class has no boundary in truth or prediction.
    """

    mean_iou: float
    per_class_iou: np.ndarray


class BoundaryIoU(ClassCountMetric[BoundaryCounts]):
    """Streaming boundary IoU of classes (Cheng et al., "Boundary IoU", CVPR 2021, section 5).

    The mask of a class is where the semantic map says it. The pixels on the boundaries of true and predicted masks
    are counted over all images, void left out, and the IoU of a class is their intersection over their union: what
    `MeanIoU` does with whole masks. (The paper defines the IoU for a pair of masks; to count over the data set
    before dividing is mIoU's way.)
    """

    def __init__(self, info: DatasetInfo, dilation_ratio: float | None = None) -> None:
        """Makes an empty metric.

        Args:
            info: The label space of truth and prediction.
            dilation_ratio: As for `BoundaryPanopticQuality`.

        Raises:
            UserError: The ratio is not in (0, 1].
        """
        self._ratio = check_dilation_ratio(dilation_ratio_of(info) if dilation_ratio is None else dilation_ratio)
        super().__init__(info, BoundaryCounts)

    def count(self, truth: Any, prediction: Any) -> BoundaryCounts:
        """Counts one image, without adding it.

        Args:
            truth: Semantic ids, integers [height, width]; `ignore_label` is void.
            prediction: Semantic ids of the same shape; likewise.

        Returns:
            What `add` takes, here or in another process.

        Raises:
            UserError: Types, shapes or ids do not fit.
        """
        truth, prediction = integer_map(truth, "truth", (2,)), integer_map(prediction, "prediction", (2,))
        check_same_shape(truth, prediction)
        rows = count_boundary_overlaps(truth, prediction, boundary_distance(*truth.shape, self._ratio))
        check_semantic_ids(rows.truth, self._info, "truth")
        check_semantic_ids(rows.prediction, self._info, "prediction")
        labelled, classes = rows.truth != self._info.ignore_label, self._info.num_classes
        true = labelled & rows.on_truth
        predicted = labelled & rows.on_prediction & (rows.prediction != self._info.ignore_label)
        both = true & predicted & (rows.truth == rows.prediction)
        return BoundaryCounts(
            intersection=sum_by(rows.truth[both], rows.pixels[both], classes),
            truth=sum_by(rows.truth[true], rows.pixels[true], classes),
            prediction=sum_by(rows.prediction[predicted], rows.pixels[predicted], classes),
        )

    def result(self) -> BoundaryIoUResult:
        """Returns the figures over all images so far; the metric stays as it is."""
        intersection, truth, prediction = self._counts
        union = truth + prediction - intersection
        iou = np.where(union > 0, intersection / np.maximum(union, 1), np.nan)
        return BoundaryIoUResult(mean_of_numbers(iou), iou)
