"""Instance AP by the rules of cityscapesScripts' instance-level evaluation, in NumPy.

Source: cityscapesScripts, evaluation/evalInstanceLevelSemanticLabeling.py (version 2.3), without its
distance-dependent figures. One difference remains: there, single objects of classes that are not
evaluated (caravan, trailer) are no void, so that a detection on them is wrong; a panoptic label holds
them as void, so that such a detection is forgiven.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.instance_ap import InstanceAPResult
from deeplab2_lite.evaluation.metrics.overlaps import count_overlaps

# The script's own expression: its rounding decides when an IoU equals a threshold.
THRESHOLDS = np.arange(0.5, 1.0, 0.05)
MIN_PIXELS = 100

_DETECTION = np.dtype(
    [
        ("class_id", np.int64),
        ("score", np.float64),
        ("iou", np.float64),  # with the true segment, group or not, that it meets best
        ("meets_counted", bool),  # whether that segment is one that has to be found
        ("ignorable", np.float64),  # share of it that lies on void, groups and tiny instances
    ]
)


class CityscapesApRules:
    """What each detection meets in the truth: all that the rules ask for, a few bytes a detection.

    Masks are disjoint, so above an IoU of 0.5 a detection and a true instance meet at most once, and the
    best true segment of a detection decides at all thresholds.
    """

    def __init__(self, info: DatasetInfo) -> None:
        """Starts without images."""
        self._info = info
        self._instances = np.zeros(info.num_classes, np.int64)
        self._detections: list[np.ndarray] = []

    def count(self, truth: np.ndarray, masks: np.ndarray, class_ids: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        """Returns the true instances of each class, and for each detection the values of its fields."""
        info = self._info
        pairs = count_overlaps(truth, masks)
        truth_ids, truth_index = np.unique(pairs.truth, return_inverse=True)
        truth_area = np.bincount(truth_index, pairs.pixels, truth_ids.size)
        truth_class = truth_ids // info.label_divisor
        group = truth_ids % info.label_divisor == 0
        counted = np.isin(truth_class, info.thing_ids) & ~group & (truth_area >= MIN_PIXELS)

        rows = np.unique(pairs.prediction)
        rows = rows[rows > 0]
        detections = np.zeros(rows.size, _DETECTION)
        for detection, row in zip(detections, rows, strict=True):
            meets = pairs.prediction == row
            index, pixels = truth_index[meets], pairs.pixels[meets]
            area = pixels.sum()
            class_id = class_ids[row - 1]
            same = truth_class[index] == class_id
            on_void = pixels[truth_class[index] == info.ignore_label].sum()
            index, pixels = index[same], pixels[same]
            detection["class_id"], detection["score"] = class_id, scores[row - 1]
            # A tiny group counts twice here, as it does in the script.
            forgiven = pixels * group[index] + pixels * (truth_area[index] < MIN_PIXELS)
            detection["ignorable"] = (on_void + forgiven.sum()) / area
            if index.size:
                iou = pixels / (truth_area[index] + area - pixels)
                best = iou.argmax()
                detection["iou"], detection["meets_counted"] = iou[best], counted[index[best]]
        instances = np.bincount(truth_class[counted], minlength=info.num_classes)
        return {
            "instances": {str(class_id): int(instances[class_id]) for class_id in np.flatnonzero(instances)},
            "detections": [list(detection) for detection in detections.tolist()],
        }

    def add(self, counts: Mapping[str, Any]) -> None:
        """Adds what an image counts."""
        for class_id, instances in counts["instances"].items():
            self._instances[int(class_id)] += instances
        self._detections.append(np.array([tuple(values) for values in counts["detections"]], _DETECTION))

    def extend(self, other: CityscapesApRules) -> None:
        """Adds the images of another object, after those seen here."""
        self._instances += other._instances
        self._detections += other._detections

    def result(self) -> InstanceAPResult:
        """Returns the figures."""
        table = np.full((self._info.num_classes, THRESHOLDS.size), np.nan)
        detections = np.concatenate([np.zeros(0, _DETECTION), *self._detections])
        for class_id in np.flatnonzero(self._instances):
            of_class = detections[detections["class_id"] == class_id]
            for column, threshold in enumerate(THRESHOLDS):
                table[class_id, column] = self._average_precision(of_class, int(self._instances[class_id]), threshold)
        occurring = table[self._instances > 0]
        mean, ap50, ap75 = (
            (float(values.mean()) if values.size else float("nan"))
            for values in (occurring, occurring[:, 0], occurring[:, 5])
        )
        nan = float("nan")
        return InstanceAPResult(mean, ap50, ap75, nan, nan, nan, table.mean(axis=1), table[:, 0].copy())

    @staticmethod
    def _average_precision(detections: np.ndarray, instances: int, threshold: float) -> float:
        """Returns the AP of one class at one IoU threshold."""
        meets = detections["iou"] > threshold
        right = meets & detections["meets_counted"]
        wrong = ~meets & (detections["ignorable"] <= threshold)
        kept = right | wrong
        return average_precision(detections["score"][kept], right[kept], instances)


def average_precision(scores: np.ndarray, right: np.ndarray, instances: int) -> float:
    """Returns the area under the precision-recall curve as cityscapesScripts integrates it.

    Args:
        scores: Confidences, float [detections].
        right: Whether each detection found an instance, bool [detections].
        instances: Number of true instances, at least 1.

    Returns:
        The area: each precision weighs half the recall between its two neighbours on the curve, which
        runs over the distinct scores from the lowest on and ends at precision 1, recall 0.
    """
    if scores.size == 0:
        return 0.0
    order = np.argsort(scores)
    _, first = np.unique(scores[order], return_index=True)
    right_before = np.concatenate([[0], np.cumsum(right[order])])
    found = right_before[-1] - right_before[first]
    kept = scores.size - first
    precision = np.append(found / kept, 1.0)
    recall = np.append(found / instances, 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (padded[:-2] - padded[2:]) / 2)
