"""Precision against recall of scored instances, class by class, from what the images count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.evaluation.metrics.cityscapes_ap import average_precision
from deeplab2_lite.evaluation.metrics.instance_ap import InstanceRules

# Recalls at which COCO reads a curve.
RECALLS = np.linspace(0.0, 1.0, 101)
_FIRST_THRESHOLD, _THRESHOLD_STEP = 0.5, 0.05


class PrecisionRecall(NamedTuple):
    """The curve of one class at one IoU threshold. Its points are what detections of at least a score do.

    Attributes:
        class_id: The class.
        instances: True instances that have to be found, at least 1.
        scores: The distinct scores, float64 [points], descending.
        precision: Share of the detections of at least that score that are right, float64 [points].
        recall: Share of the true instances that they find, float64 [points].
        average_precision: By the rules of the counts, 0..1.
    """

    class_id: int
    instances: int
    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    average_precision: float

    def best_f1(self) -> int | None:
        """Returns the point of the best F1 score, the one of the highest score among equals; None without points."""
        total = self.precision + self.recall
        f1 = 2 * self.precision * self.recall / np.where(total > 0, total, 1)
        return int(f1.argmax()) if f1.size else None

    def interpolated(self) -> np.ndarray:
        """Returns the best precision at each of COCO's 101 recalls or beyond, float64 [101]; 0 beyond the last."""
        return _interpolated(self.precision, self.recall)


def precision_recall(
    images: Iterable[Mapping[str, Any]], rules: InstanceRules, threshold: float
) -> list[PrecisionRecall]:
    """Draws the curves of all classes that have instances in the truth.

    Args:
        images: What each image counts by these rules, as `InstanceAP.count` gives it.
        rules: Whose.
        threshold: IoU at which a detection is right: 0.5, 0.55, ..., 0.95.

    Returns:
        A curve for each class, by class id.
    """
    pooled: dict[int, _Detections] = {}
    collect = _collect_coco if rules == "coco" else _collect_cityscapes
    for counts in images:
        collect(counts, threshold, pooled)
    return [_curve(class_id, pooled[class_id], rules) for class_id in sorted(pooled) if pooled[class_id].instances]


class _Detections:
    """Detections of a class over the images, and how many instances there are to be found."""

    def __init__(self) -> None:
        self.instances = 0
        self.scores: list[float] = []
        self.right: list[bool] = []


def _collect_coco(counts: Mapping[str, Any], threshold: float, pooled: dict[int, _Detections]) -> None:
    bit = 1 << round((threshold - _FIRST_THRESHOLD) / _THRESHOLD_STEP)
    for class_id, of_class in counts.items():
        detections = pooled.setdefault(int(class_id), _Detections())
        matched, ignored, truth_ignored = of_class["areas"][0]  # of instances of any size
        detections.instances += sum(not value for value in truth_ignored)
        for score, matches, ignores in zip(of_class["scores"], matched, ignored, strict=True):
            if not ignores & bit:
                detections.scores.append(score)
                detections.right.append(bool(matches & bit))


def _collect_cityscapes(counts: Mapping[str, Any], threshold: float, pooled: dict[int, _Detections]) -> None:
    for class_id, instances in counts["instances"].items():
        pooled.setdefault(int(class_id), _Detections()).instances += instances
    for class_id, score, iou, meets_counted, ignorable in counts["detections"]:
        meets = iou > threshold
        if meets_counted if meets else ignorable <= threshold:
            detections = pooled.setdefault(int(class_id), _Detections())
            detections.scores.append(score)
            detections.right.append(meets)


def _curve(class_id: int, detections: _Detections, rules: InstanceRules) -> PrecisionRecall:
    scores, right = np.array(detections.scores, np.float64), np.array(detections.right, bool)
    # Stable, as pycocotools sorts: detections of one score stay in the order of the images.
    order = np.argsort(-scores, kind="stable")
    found, kept = np.cumsum(right[order]), np.arange(1, scores.size + 1)
    precision, recall = found / kept, found / detections.instances
    if rules == "coco":
        area = float(_interpolated(precision, recall).mean())
    else:
        area = average_precision(scores, right, detections.instances)
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)[: scores.size]
    return PrecisionRecall(class_id, detections.instances, ranked[last], precision[last], recall[last], area)


def _interpolated(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    best_beyond = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best_beyond[np.searchsorted(recall, RECALLS, side="left")]
