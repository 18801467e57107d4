"""Mean intersection over union of classes and categories by the rules of the official Cityscapes script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.metrics.overlaps import (
    Overlaps,
    check_mergeable,
    check_same_shape,
    check_semantic_ids,
    count_overlaps,
    integer_map,
    sum_pairs,
)


class ConfusionCounts(NamedTuple):
    """Which classes meet on how many pixels; each is int64 [pairs].

    Attributes:
        truth: True class.
        prediction: Predicted class; the number of classes stands for void.
        pixels: Pixels that have both.
    """

    truth: np.ndarray
    prediction: np.ndarray
    pixels: np.ndarray

    def to_json(self) -> list[list[int]]:
        """Returns the counts as JSON can hold them."""
        return [values.tolist() for values in self]

    @classmethod
    def from_json(cls, content: list[list[int]]) -> ConfusionCounts:
        """Reads what `to_json` returned."""
        return cls(*(np.array(values, np.int64) for values in content))


@dataclass(frozen=True)
class MeanIoUResult:
    """IoU over a data set, as fractions in 0..1.

    Attributes:
        mean_iou: Mean over the classes that occur; NaN where there is none.
        pixel_accuracy: Share of labelled pixels whose class is right; NaN without labelled pixels.
        per_class_iou: float64 [classes]; NaN where the class occurs neither in the truth nor in the
            prediction of a labelled pixel.
        confusion: Pixels of true class (row) and predicted class (column), int64
            [classes, classes + 1]; the last column holds labelled pixels that were predicted void.
        mean_category_iou: Mean over the categories that occur; NaN where there is none.
        per_category_iou: float64 [categories], in the order of the label space's `categories`: a pixel is right if its
            class is of the true category. NaN as for classes.
    """

    mean_iou: float
    pixel_accuracy: float
    per_class_iou: np.ndarray
    confusion: np.ndarray
    mean_category_iou: float
    per_category_iou: np.ndarray


class MeanIoU:
    """Streaming mean IoU; the figures are those of cityscapesScripts' pixel-level evaluation.

    Pixels whose truth is void are left out. A labelled pixel that is predicted void is missed by its
    class. A class that is predicted somewhere but never true has IoU 0 and is part of the mean; a class
    that is neither is not.
    """

    def __init__(self, info: DatasetInfo) -> None:
        """Makes an empty metric.

        Args:
            info: The label space of truth and prediction.
        """
        self._info = info
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._confusion = np.zeros((self._info.num_classes, self._info.num_classes + 1), np.int64)

    def update(self, truth: Any, prediction: Any) -> None:
        """Adds an image or a batch of images.

        Args:
            truth: Semantic ids, integers [height, width] or [batch, height, width]; `ignore_label` is void.
            prediction: Semantic ids of the same shape; likewise.

        Raises:
            UserError: Types, shapes or ids do not fit; nothing is counted then.
        """
        self.add(self.count(truth, prediction))

    def count(self, truth: Any, prediction: Any) -> ConfusionCounts:
        """Counts an image or a batch of images, without adding them.

        Args:
            truth: As for `update`.
            prediction: Likewise.

        Returns:
            What `add` takes, here or in another process.

        Raises:
            UserError: Types, shapes or ids do not fit.
        """
        truth, prediction = integer_map(truth, "truth", (2, 3)), integer_map(prediction, "prediction", (2, 3))
        check_same_shape(truth, prediction)
        return self._count(count_overlaps(truth, prediction))

    def count_pairs(self, pairs: Overlaps) -> ConfusionCounts:
        """Counts an image of which is known what meets in it, without adding it.

        Args:
            pairs: Which panoptic ids of the truth and semantic ids of the prediction meet.

        Returns:
            What `count` returns.

        Raises:
            UserError: An id is of no class.
        """
        return self._count(sum_pairs(pairs.truth // self._info.label_divisor, pairs.prediction, pairs.pixels))

    def count_matrix(self, confusion: np.ndarray) -> ConfusionCounts:
        """Takes the counts of an image from where they were made, without adding them.

        Args:
            confusion: Pixels of true class (row) and predicted class (column; the last is void), integers
                [classes + 1, classes + 1]; the last row has pixels of no class, of which there should be none.

        Returns:
            What `count` returns.

        Raises:
            UserError: There are pixels whose truth is neither a class nor void.
        """
        confusion = np.asarray(confusion)
        unknown = int(confusion[-1].sum())
        if unknown:
            raise UserError(
                f"truth: {unknown} pixels are of an unknown class; expected 0..{self._info.num_classes - 1} or "
                f"{self._info.ignore_label} (void), the ids of '{self._info.name}'"
            )
        truth, prediction = np.nonzero(confusion)
        return ConfusionCounts(truth, prediction, confusion[truth, prediction].astype(np.int64))

    def _count(self, pairs: Overlaps) -> ConfusionCounts:
        check_semantic_ids(pairs.truth, self._info, "truth")
        check_semantic_ids(pairs.prediction, self._info, "prediction")
        labelled = pairs.truth != self._info.ignore_label
        columns = np.minimum(pairs.prediction, self._info.num_classes)
        return ConfusionCounts(pairs.truth[labelled], columns[labelled], pairs.pixels[labelled])

    def add(self, counts: ConfusionCounts) -> None:
        """Adds what images count.

        Args:
            counts: Of `count`, by a metric of the same label space.
        """
        np.add.at(self._confusion, (counts.truth, counts.prediction), counts.pixels)

    def merge(self, other: MeanIoU) -> None:
        """Adds what another metric has seen, exactly as if its images had been seen here.

        Args:
            other: A metric of the same label space; it stays as it is.

        Raises:
            UserError: It is of another label space.
        """
        check_mergeable(self, other, self._info, other._info)
        self._confusion += other._confusion

    def result(self) -> MeanIoUResult:
        """Returns the figures over all images so far; the metric stays as it is."""
        right = np.diagonal(self._confusion)
        union = self._confusion.sum(axis=1) + self._confusion[:, :-1].sum(axis=0) - right
        iou = np.where(union > 0, right / np.maximum(union, 1), np.nan)
        category_iou = self._category_iou()
        labelled = int(self._confusion.sum())
        return MeanIoUResult(
            mean_iou=mean_of_numbers(iou),
            pixel_accuracy=int(right.sum()) / labelled if labelled else float("nan"),
            per_class_iou=iou,
            confusion=self._confusion.copy(),
            mean_category_iou=mean_of_numbers(category_iou),
            per_category_iou=category_iou,
        )

    def _category_iou(self) -> np.ndarray:
        iou = []
        for category in self._info.categories:
            inside = np.array([c.category == category for c in self._info.classes])
            columns = self._confusion[:, :-1][:, inside]
            right = int(columns[inside].sum())
            union = int(self._confusion[inside].sum()) + int(columns[~inside].sum())
            iou.append(right / union if union else float("nan"))
        return np.array(iou, np.float64)


def mean_of_numbers(values: np.ndarray) -> float:
    """Returns the mean of the values that are numbers; NaN where none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
