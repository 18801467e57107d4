"""Instance AP of any choice of images, many choices at once, from what each image counts.

An image that is drawn several times weighs its detections and its instances so often: the curves are those of a
data set in which it stands so many times, without making that data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.comparison.count_table import Figures
from deeplab2_lite.evaluation.metrics.cityscapes_ap import THRESHOLDS
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts
from deeplab2_lite.evaluation.metrics.instance_ap import InstanceRules

# Recalls at which COCO reads a curve.
_RECALLS = np.linspace(0.0, 1.0, 101)
_ALL_AREAS = 0


class _Class(NamedTuple):
    """The detections of one class, best first, and what there was to be found.

    Attributes:
        image: Position of each detection's image, int64 [detections].
        score: float64 [detections], descending.
        right: Whether it found an instance, bool [thresholds, detections].
        wrong: Whether it counts as found where nothing is, likewise; what is neither does not count.
        instances: How many each image has, float64 [images].
    """

    image: np.ndarray
    score: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    instances: np.ndarray


@dataclass(frozen=True)
class InstanceTables:
    """The detections of all images, by rules and by class.

    Attributes:
        num_classes: Of the label space.
        rules: By whose rules, in their order in the counts; None for a class that never occurs.
    """

    num_classes: int
    rules: Mapping[InstanceRules, tuple[_Class | None, ...]]

    @classmethod
    def of(cls, images: Sequence[ImageCounts], info: DatasetInfo) -> InstanceTables:
        """Collects the detections of images.

        Args:
            images: At least one.
            info: Their label space.

        Returns:
            The tables of the rules by which all of them were counted.
        """
        first = images[0].instance or {}
        names = [name for name in first if all(name in (image.instance or {}) for image in images)]
        found = {}
        for name in names:
            read = _coco_detections if name == "coco" else _cityscapes_detections
            found[name] = _classes([read(image.instance[name]) for image in images], info.num_classes)
        return cls(info.num_classes, found)

    def keeping(self, rules: Sequence[InstanceRules]) -> InstanceTables:
        """Returns the same tables by some of the rules alone."""
        return InstanceTables(self.num_classes, {name: self.rules[name] for name in rules})

    def occurrences(self) -> dict[str, np.ndarray]:
        """Returns, by the columns of `Figures.classes`, how many images have instances of a class; int64 [classes]."""
        found = {}
        for name, classes in self.rules.items():
            images = np.array([0 if c is None else np.count_nonzero(c.instances) for c in classes])
            found.update(dict.fromkeys(_columns(name), images))
        return found

    def figures(self, weights: np.ndarray) -> Figures:
        """Returns AP and AP50.

        Args:
            weights: How often each image counts, float64 [draws, images], whole numbers.

        Returns:
            A row for each draw; NaN where it has no instance.
        """
        overall, of_classes = {}, {}
        for name, classes in self.rules.items():
            average = _coco_average if name == "coco" else _cityscapes_average
            table = np.full((len(weights), self.num_classes, THRESHOLDS.size), np.nan)
            for class_id, of_class in enumerate(classes):
                if of_class is not None and of_class.instances.any():
                    table[:, class_id] = _averages(of_class, weights, average)
            tag = "instance" if not overall else f"instance_{name}"
            for key, column, values in zip(
                ("AP", "AP50"), _columns(name), (table.mean(axis=2), table[..., 0]), strict=True
            ):
                of_classes[column] = values
                occurs = np.isfinite(values)
                count = occurs.sum(axis=1)
                total = np.where(occurs, values, 0).sum(axis=1)
                overall[f"{tag}/{key}"] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return Figures(overall, of_classes)


class _Detection(NamedTuple):
    score: float
    right: np.ndarray
    wrong: np.ndarray


def _columns(rules: InstanceRules) -> tuple[str, str]:
    return ("AP", "AP50") if rules == "coco" else ("Cityscapes AP", "Cityscapes AP50")


def _coco_detections(counts: Mapping[str, Any]) -> dict[int, tuple[int, list[_Detection]]]:
    """What one image counts, by class: instances, and detections in their order."""
    bits = np.arange(THRESHOLDS.size)
    found = {}
    for class_id, of_class in counts.items():
        matched, ignored, truth_ignored = of_class["areas"][_ALL_AREAS]
        detections = []
        for score, matches, ignores in zip(of_class["scores"], matched, ignored, strict=True):
            met, counted = (matches >> bits & 1).astype(bool), ~(ignores >> bits & 1).astype(bool)
            detections.append(_Detection(score, met & counted, ~met & counted))
        found[int(class_id)] = (sum(not value for value in truth_ignored), detections)
    return found


def _cityscapes_detections(counts: Mapping[str, Any]) -> dict[int, tuple[int, list[_Detection]]]:
    found = {int(class_id): (instances, []) for class_id, instances in counts["instances"].items()}
    for class_id, score, iou, meets_counted, ignorable in counts["detections"]:
        meets = iou > THRESHOLDS
        detection = _Detection(score, meets & bool(meets_counted), ~meets & (ignorable <= THRESHOLDS))
        found.setdefault(class_id, (0, []))[1].append(detection)
    return found


def _classes(
    images: Sequence[Mapping[int, tuple[int, list[_Detection]]]], num_classes: int
) -> tuple[_Class | None, ...]:
    classes: list[_Class | None] = [None] * num_classes
    for class_id in {class_id for image in images for class_id in image}:
        of_images = [image.get(class_id, (0, [])) for image in images]
        detections = [detection for _, of_image in of_images for detection in of_image]
        # Stable, as pycocotools sorts: detections of one score stay in the order of the images.
        order = np.argsort([-detection.score for detection in detections], kind="stable")
        shape = (len(detections), THRESHOLDS.size)
        right, wrong = (np.array([d[i] for d in detections], bool).reshape(shape)[order].T for i in (1, 2))
        classes[class_id] = _Class(
            np.repeat(np.arange(len(images)), [len(of_image) for _, of_image in of_images])[order],
            np.array([detection.score for detection in detections], np.float64)[order],
            right,
            wrong,
            np.array([instances for instances, _ in of_images], np.float64),
        )
    return tuple(classes)


def _averages(of_class: _Class, weights: np.ndarray, average: Callable[..., np.ndarray]) -> np.ndarray:
    """Average precision of a class, float64 [draws, thresholds]; NaN in draws without its instances."""
    instances = weights @ of_class.instances
    result = np.zeros((len(weights), THRESHOLDS.size))
    of_detection = weights[:, of_class.image]
    all_drawn = np.cumsum(of_detection, axis=1)
    for column, (right, wrong) in enumerate(zip(of_class.right, of_class.wrong, strict=True)):
        kept = right | wrong
        if right.any():
            drawn = all_drawn if kept.all() else np.cumsum(of_detection * kept, axis=1)
            result[:, column] = average(of_detection, drawn, np.maximum(instances, 1), of_class.score, right, kept)
    result[instances == 0] = np.nan
    return result


def _coco_average(
    of_detection: np.ndarray,
    drawn: np.ndarray,
    instances: np.ndarray,
    _score: np.ndarray,
    right: np.ndarray,
    _kept: np.ndarray,
) -> np.ndarray:
    """Mean over 101 recalls of the best precision there or beyond, float64 [draws]."""
    # Precision is best where an instance is found: no other detection is looked at.
    found = np.cumsum(of_detection[:, right], axis=1)
    precision = found / np.maximum(drawn[:, right], 1)
    best_beyond = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = found / instances[:, None]
    # How many of the recalls are reached; where the product is rounded to a whole number, division decides.
    reached = (recall * 100 + 1e-9).astype(np.int64)
    reached += _RECALLS[reached] <= recall
    return (best_beyond * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / _RECALLS.size


def _cityscapes_average(
    of_detection: np.ndarray,
    drawn: np.ndarray,
    instances: np.ndarray,
    score: np.ndarray,
    right: np.ndarray,
    kept: np.ndarray,
) -> np.ndarray:
    """The area of `cityscapes_ap.average_precision`, float64 [draws]."""
    score = score[kept]
    last = np.flatnonzero(kept)[np.append(score[1:] != score[:-1], True)]
    # From the lowest score on. Scores that are not drawn repeat a point of the curve, which adds no area.
    found = np.cumsum(of_detection * right, axis=1)[:, last[::-1]]
    drawn = drawn[:, last[::-1]]
    precision = np.where(drawn > 0, found / np.maximum(drawn, 1), 1.0)
    ends = np.ones((len(found), 1))
    precision = np.concatenate([precision, ends], axis=1)
    recall = np.concatenate([found / instances[:, None], 0 * ends], axis=1)
    padded = np.concatenate([recall[:, :1], recall, 0 * ends], axis=1)
    return (precision * (padded[:, :-2] - padded[:, 2:])).sum(axis=1) / 2
