"""Average precision of instance masks, by COCO's rules or by those of Cityscapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError, nearest_name
from deeplab2_lite.evaluation.metrics.overlaps import check_mergeable, check_same_shape, check_semantic_ids, integer_map

InstanceRules = Literal["coco", "cityscapes"]


@dataclass(frozen=True)
class InstanceAPResult:
    """Average precision over a data set, as fractions in 0..1; NaN where there is nothing to average.

    Attributes:
        ap: Mean over IoU thresholds 0.5, 0.55, ..., 0.95 and over classes that occur in the truth.
        ap50: At IoU 0.5.
        ap75: At IoU 0.75.
        ap_small: Of instances of fewer than 32^2 pixels; COCO rules only, else NaN.
        ap_medium: Of 32^2 to 96^2 pixels, likewise.
        ap_large: Of more than 96^2 pixels, likewise.
        per_class_ap: float64 [classes]; NaN for stuff and for classes without instances in the truth.
        per_class_ap50: float64 [classes], likewise.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    per_class_ap: np.ndarray
    per_class_ap50: np.ndarray


class ApRules(Protocol):
    """What a set of rules keeps of the images, and how it scores them."""

    def count(self, truth: np.ndarray, masks: np.ndarray, class_ids: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        """Returns what an image whose values have been checked adds, as JSON can hold it."""

    def add(self, counts: Mapping[str, Any]) -> None:
        """Adds what an image counts."""

    def extend(self, other: Any) -> None:
        """Adds the images of another object of the same rules, after those seen here."""

    def result(self) -> InstanceAPResult:
        """Returns the figures."""


class InstanceAP:
    """Streaming AP of scored, disjoint instance masks.

    "coco" are pycocotools' rules (at most 100 detections of a class an image; true crowd is COCO's `iscrowd`). True
    masks are those of the panoptic label, which do not overlap, while COCO's own instance annotations
    may. "cityscapes" are those of cityscapesScripts' instance-level evaluation.
    """

    def __init__(self, info: DatasetInfo, rules: InstanceRules = "coco") -> None:
        """Makes an empty metric.

        Args:
            info: The label space of truth and prediction.
            rules: Whose rules.

        Raises:
            UserError: There are no such rules.
        """
        if rules not in ("coco", "cityscapes"):
            raise UserError(f"rules '{rules}': unknown{nearest_name(str(rules), ('coco', 'cityscapes'))}")
        self._info = info
        self.rules = rules
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        # Either module is only loaded where its rules are asked for: pycocotools is a compiled package.
        if self.rules == "coco":
            from deeplab2_lite.evaluation.metrics.coco_ap import CocoApRules

            self._images: ApRules = CocoApRules(self._info)
        else:
            from deeplab2_lite.evaluation.metrics.cityscapes_ap import CityscapesApRules

            self._images = CityscapesApRules(self._info)

    def update(self, truth: Any, masks: Any, class_ids: Any, scores: Any) -> None:
        """Adds an image.

        Args:
            truth: Panoptic ids, integers [height, width]; a thing class with instance 0 is crowd.
            masks: Predicted instances, integers [height, width]: 0 is none, i + 1 is row i.
            class_ids: Contiguous id of each row's class, integers [rows]; a row without pixels may have any.
            scores: Confidence of each row, floats [rows].

        Raises:
            UserError: Types, shapes or ids do not fit, or a score is not finite; nothing is counted then.
        """
        self.add(self.count(truth, masks, class_ids, scores))

    def count(self, truth: Any, masks: Any, class_ids: Any, scores: Any) -> dict[str, Any]:
        """Counts one image, without adding it.

        Args:
            truth: As for `update`.
            masks: Likewise.
            class_ids: Likewise.
            scores: Likewise.

        Returns:
            What `add` takes, here or in another process; JSON can hold it. It has a few numbers for each
            detection, and no masks.

        Raises:
            UserError: As for `update`.
        """
        truth, masks = integer_map(truth, "truth", (2,)), integer_map(masks, "masks", (2,))
        check_same_shape(truth, masks, "masks")
        class_ids, scores = np.asarray(class_ids), np.asarray(scores, np.float64)
        if class_ids.ndim != 1 or scores.shape != class_ids.shape:
            raise UserError(
                "class_ids and scores: expected one value for each row, "
                f"got the shapes {list(class_ids.shape)} and {list(scores.shape)}"
            )
        self._check_rows(masks, class_ids, scores)
        check_semantic_ids(np.unique(truth) // self._info.label_divisor, self._info, "truth")
        return self._images.count(truth, masks, class_ids.astype(np.int64), scores)

    def add(self, counts: Mapping[str, Any]) -> None:
        """Adds what an image counts.

        Args:
            counts: Of `count`, by a metric of the same label space and rules.
        """
        self._images.add(counts)

    def merge(self, other: InstanceAP) -> None:
        """Adds what another metric has seen, as if its images had been seen here, after those of this one.

        Args:
            other: A metric of the same label space and rules; it stays as it is.

        Raises:
            UserError: It is of another label space, or of other rules.
        """
        check_mergeable(self, other, self._info, other._info)
        if self.rules != other.rules:
            raise UserError(f"merge: expected an InstanceAP by the rules of '{self.rules}', got '{other.rules}'")
        self._images.extend(other._images)

    def result(self) -> InstanceAPResult:
        """Returns the figures over all images so far; the metric stays as it is."""
        return self._images.result()

    def _check_rows(self, masks: np.ndarray, class_ids: np.ndarray, scores: np.ndarray) -> None:
        present = np.unique(masks)
        if present.size and (present[0] < 0 or present[-1] > class_ids.size):
            raise UserError(
                f"masks: expected instances in 0..{class_ids.size}, the number of rows, got {present[0]}..{present[-1]}"
            )
        for row in present[present > 0].astype(np.int64) - 1:
            if class_ids[row] not in self._info.thing_ids:
                raise UserError(
                    f"class_ids[{row}]: expected the id of a thing class of '{self._info.name}', got {class_ids[row]}"
                )
            if not np.isfinite(scores[row]):
                raise UserError(f"scores[{row}]: expected a finite number, got {scores[row]}")
