"""One evaluation: predictions and labels in, image by image; figures and pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.image_counts import ImageCounts
from deeplab2_lite.evaluation.instance_ap import InstanceAP, InstanceRules
from deeplab2_lite.evaluation.mean_iou import MeanIoU
from deeplab2_lite.evaluation.panoptic_quality import PanopticQuality
from deeplab2_lite.evaluation.report import EvaluationReport, format_table, write_csv, write_json
from deeplab2_lite.visualize import overlay_panoptic, save_image, side_by_side


class ImagePrediction(NamedTuple):
    """What a network says of one image. Parts that it has no heads for are None.

    Attributes:
        semantic: Class ids, int32 [height, width].
        panoptic: Panoptic ids, int32 [height, width].
        instance: Rows of the instances, 1 + row or 0, int32 [height, width].
        class_id: Class of each row, int32 [rows].
        score: Confidence of each row, float32 [rows].
    """

    semantic: np.ndarray
    panoptic: np.ndarray | None = None
    instance: np.ndarray | None = None
    class_id: np.ndarray | None = None
    score: np.ndarray | None = None


class Evaluation:
    """Collects figures over images, and writes pictures of the first ones."""

    def __init__(
        self,
        info: DatasetInfo,
        pictures_dir: str | Path | None = None,
        pictures: int = 0,
        instance_rules: Sequence[InstanceRules] = ("coco",),
    ) -> None:
        """Starts an evaluation.

        Args:
            info: Label space of truth and predictions.
            pictures_dir: Where pictures go; made when the first is written.
            pictures: How many; -1 for every image.
            instance_rules: By whose rules instances are scored; the figures of the first stand in tables.
        """
        self._info = info
        self._pictures_dir = None if pictures_dir is None else Path(pictures_dir)
        self._pictures = pictures
        self._panoptic = PanopticQuality(info)
        self._semantic = MeanIoU(info)
        self._instance = {rules: InstanceAP(info, rules) for rules in instance_rules}
        self._images: list[ImageCounts] = []

    @property
    def num_images(self) -> int:
        """Images so far."""
        return len(self._images)

    def wants_picture(self) -> bool:
        """Whether the next image is one of those to be drawn, and so needs a name."""
        return self._pictures_dir is not None and (self._pictures < 0 or self.num_images < self._pictures)

    def update(self, image: np.ndarray, truth: np.ndarray, prediction: ImagePrediction, name: str = "") -> None:
        """Adds an image.

        Args:
            image: RGB, uint8 [height, width, 3].
            truth: Panoptic ids, int32 [height, width].
            prediction: Of the same size.
            name: File name, for its picture.
        """
        counts = self.count(truth, prediction, name)
        if self.wants_picture():
            self._draw(image, truth, prediction, name)
        self.add(counts)

    def count(self, truth: np.ndarray, prediction: ImagePrediction, name: str = "") -> ImageCounts:
        """Counts an image, without adding it.

        Args:
            truth: Panoptic ids, int32 [height, width].
            prediction: Of the same size.
            name: File name of the image.

        Returns:
            What `add` takes, here or in another process.
        """
        panoptic = instance = None
        if prediction.panoptic is not None:
            panoptic = self._panoptic.count(truth, prediction.panoptic)
        if prediction.instance is not None:
            table = (prediction.instance, prediction.class_id, prediction.score)
            instance = {rules: metric.count(truth, *table) for rules, metric in self._instance.items()}
        semantic = self._semantic.count(truth // self._info.label_divisor, prediction.semantic)
        return ImageCounts(name, panoptic, semantic, instance=instance)

    def add(self, counts: ImageCounts) -> None:
        """Adds what an image counts.

        Args:
            counts: Of `count`, by an evaluation of the same label space and rules.
        """
        self._semantic.add(counts.semantic)
        if counts.panoptic is not None:
            self._panoptic.add(counts.panoptic)
        if counts.instance is not None:
            for rules, metric in self._instance.items():
                metric.add(counts.instance[rules])
        self._images.append(counts)

    def report(self, step: int) -> EvaluationReport:
        """Returns the figures so far.

        Args:
            step: Training step of the weights.

        Returns:
            Figures of all that the predictions hold.
        """
        has_panoptic = any(counts.panoptic is not None for counts in self._images)
        has_instances = any(counts.instance is not None for counts in self._images)
        return EvaluationReport(
            self._info,
            step,
            self.num_images,
            panoptic=self._panoptic.result() if has_panoptic else None,
            semantic=self._semantic.result(),
            instance=next(iter(self._instance.values())).result() if has_instances else None,
            images=tuple(self._images),
        )

    def _draw(self, image: np.ndarray, truth: np.ndarray, prediction: ImagePrediction, name: str) -> None:
        predicted = prediction.panoptic
        if predicted is None:
            predicted = prediction.semantic * self._info.label_divisor
        panels = [image, overlay_panoptic(image, predicted, self._info), overlay_panoptic(image, truth, self._info)]
        self._pictures_dir.mkdir(parents=True, exist_ok=True)
        stem = Path(name).stem or f"{self.num_images:06d}"
        save_image(self._pictures_dir / f"{stem}.png", side_by_side(panels, ["image", "prediction", "truth"]))


def write_report(report: EvaluationReport, folder: str | Path) -> str:
    """Writes `metrics.json` and `metrics.csv` into a folder.

    Args:
        report: The figures.
        folder: An existing folder.

    Returns:
        The table for the terminal.
    """
    write_json(report, Path(folder) / "metrics.json")
    write_csv(report, Path(folder) / "metrics.csv")
    return format_table(report)
