"""Cityscapes' iIoU: the IoU of classes in which every true instance weighs the same, whatever its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.class_counts import ClassCountMetric, counts_from_json, counts_to_json
from deeplab2_lite.evaluation.metrics.exact_sums import fraction_sums, sum_fractions
from deeplab2_lite.evaluation.metrics.mean_iou import mean_of_numbers
from deeplab2_lite.evaluation.metrics.overlaps import (
    Overlaps,
    check_same_shape,
    check_semantic_ids,
    count_overlaps,
    integer_map,
    sum_by,
)


class InstanceIoUCounts(NamedTuple):
    """What images add to iIoU; sums of them are exact. Each is int64 [classes].

    Attributes:
        instances: True instances.
        found_high: Upper part of the sum over instances of the share of their pixels with the right class.
        found_low: Its lower part.
        category_found_high: Upper part of the sum of the shares with a class of the right category.
        category_found_low: Its lower part.
        wrong: Labelled pixels of other classes that were predicted as this one.
        category_wrong: Labelled pixels of other categories that were predicted as this class.
    """

    instances: np.ndarray
    found_high: np.ndarray
    found_low: np.ndarray
    category_found_high: np.ndarray
    category_found_low: np.ndarray
    wrong: np.ndarray
    category_wrong: np.ndarray

    def to_json(self) -> dict[str, list[int]]:
        """Returns the counts of the classes that have any, by class id, as JSON can hold them."""
        return counts_to_json(self)

    @classmethod
    def from_json(cls, content: Mapping[str, list[int]], num_classes: int) -> InstanceIoUCounts:
        """Reads what `to_json` returned."""
        return counts_from_json(cls, content, num_classes)


@dataclass(frozen=True)
class InstanceIoUResult:
    """iIoU over a data set, as fractions in 0..1.

    Attributes:
        mean_iou: Mean over the weighed classes that occur; NaN where there is none.
        per_class_iou: float64 [classes]; NaN for classes without `average_area` and for those that occur nowhere.
        mean_category_iou: Mean over the categories of weighed classes alone that occur; NaN where there is none.
        per_category_iou: float64 [categories], in the order of the label space's `categories`; NaN likewise.
    """

    mean_iou: float
    per_class_iou: np.ndarray
    mean_category_iou: float
    per_category_iou: np.ndarray


class InstanceIoU(ClassCountMetric[InstanceIoUCounts]):
    """Streaming iIoU; the figures are those of cityscapesScripts' pixel-level evaluation.

    A pixel of a true instance weighs the average area of its class over the area of the instance, in true positives
    and in false negatives; false positives are plain pixels. Crowds do not count. Only things whose `average_area`
    the label space tells have a figure, and only categories all of whose classes are of that kind.
    """

    def __init__(self, info: DatasetInfo) -> None:
        """Makes an empty metric.

        Args:
            info: The label space of truth and prediction.
        """
        self._area = np.array([c.average_area or 0.0 for c in info.classes], np.float64)
        self._is_weighed = has_average_areas(info)
        order = {category: i for i, category in enumerate(info.categories)}
        # Classes without a category get one of their own each, which no other class shares.
        self._category = np.array([order.get(c.category, len(order) + i) for i, c in enumerate(info.classes)])
        super().__init__(info, InstanceIoUCounts)

    def count(self, truth: Any, prediction: Any) -> InstanceIoUCounts:
        """Counts one image, without adding it.

        Args:
            truth: Panoptic ids, integers [height, width].
            prediction: Semantic ids of the same shape.

        Returns:
            What `add` takes, here or in another process.

        Raises:
            UserError: Types, shapes or ids do not fit.
        """
        truth, prediction = integer_map(truth, "truth", (2,)), integer_map(prediction, "prediction", (2,))
        check_same_shape(truth, prediction)
        return self.count_pairs(count_overlaps(truth, prediction))

    def count_pairs(self, pairs: Overlaps) -> InstanceIoUCounts:
        """Counts an image of which is known what meets in it, without adding it.

        Args:
            pairs: Which panoptic ids of the truth and semantic ids of the prediction meet.

        Returns:
            What `count` returns.

        Raises:
            UserError: An id is of no class.
        """
        info = self._info
        true_class = pairs.truth // info.label_divisor
        check_semantic_ids(true_class, info, "truth")
        check_semantic_ids(pairs.prediction, info, "prediction")
        chosen = (true_class != info.ignore_label) & (pairs.prediction != info.ignore_label)
        true, predicted, pixels = true_class[chosen], pairs.prediction[chosen], pairs.pixels[chosen]
        other = true != predicted
        other_category = self._category[true] != self._category[predicted]

        ids, instance = np.unique(pairs.truth, return_inverse=True)
        id_class = ids // info.label_divisor
        is_instance = (id_class != info.ignore_label) & (ids % info.label_divisor > 0)
        is_instance[is_instance] = self._is_weighed[id_class[is_instance]]
        area = sum_by(instance, pairs.pixels, ids.size)
        right = sum_by(instance[chosen][~other], pixels[~other], ids.size)
        right_category = sum_by(instance[chosen][~other_category], pixels[~other_category], ids.size)
        classes, size = id_class[is_instance], info.num_classes
        shares = ((found / np.maximum(area, 1))[is_instance] for found in (right, right_category))
        (high, low), (category_high, category_low) = (sum_fractions(classes, share, size) for share in shares)
        return InstanceIoUCounts(
            instances=np.bincount(classes, minlength=size),
            found_high=high,
            found_low=low,
            category_found_high=category_high,
            category_found_low=category_low,
            wrong=sum_by(predicted[other], pixels[other], size),
            category_wrong=sum_by(predicted[other_category], pixels[other_category], size),
        )

    def result(self) -> InstanceIoUResult:
        """Returns the figures over all images so far; the metric stays as it is."""
        counts = self._counts
        found = fraction_sums(counts.found_high, counts.found_low) * self._area
        category_found = fraction_sums(counts.category_found_high, counts.category_found_low) * self._area
        # Found and missed pixels of an instance weigh the average area together.
        true = counts.instances * self._area
        per_class = _ratios(found, true + counts.wrong, self._is_weighed)
        members = [self._category == i for i in range(len(self._info.categories))]
        sums = [
            (category_found[m].sum(), (true + counts.category_wrong)[m].sum(), self._is_weighed[m].all())
            for m in members
        ]
        per_category = _ratios(*(np.array(column) for column in zip(*sums, strict=True))) if sums else np.zeros(0)
        return InstanceIoUResult(mean_of_numbers(per_class), per_class, mean_of_numbers(per_category), per_category)


def has_average_areas(info: DatasetInfo) -> np.ndarray:
    """Returns which classes are things whose average area is known, bool [classes]."""
    return np.array([c.isthing and c.average_area is not None for c in info.classes], bool)


def _ratios(numerator: np.ndarray, denominator: np.ndarray, exists: np.ndarray) -> np.ndarray:
    return np.where(exists & (denominator > 0), numerator / np.maximum(denominator, np.finfo(float).tiny), np.nan)
