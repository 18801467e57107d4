"""One evaluation: predictions and labels in, image by image; figures and pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.instance_ap import InstanceAP
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

    def __init__(self, info: DatasetInfo, pictures_dir: str | Path | None = None, pictures: int = 0) -> None:
        """Starts an evaluation.

        Args:
            info: Label space of truth and predictions.
            pictures_dir: Where pictures go; made when the first is written.
            pictures: How many; -1 for every image.
        """
        self._info = info
        self._pictures_dir = None if pictures_dir is None else Path(pictures_dir)
        self._pictures = pictures
        self._panoptic = PanopticQuality(info)
        self._semantic = MeanIoU(info)
        self._instance = InstanceAP(info, rules="coco")
        self._has_panoptic = False
        self.num_images = 0

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
        self._semantic.update(truth // self._info.label_divisor, prediction.semantic)
        if prediction.panoptic is not None:
            self._has_panoptic = True
            self._panoptic.update(truth, prediction.panoptic)
            self._instance.update(truth, prediction.instance, prediction.class_id, prediction.score)
        if self.wants_picture():
            self._draw(image, truth, prediction, name)
        self.num_images += 1

    def report(self, step: int) -> EvaluationReport:
        """Returns the figures so far.

        Args:
            step: Training step of the weights.

        Returns:
            PQ, mIoU and AP; of a network without instances, mIoU alone.
        """
        semantic = self._semantic.result()
        if not self._has_panoptic:
            return EvaluationReport(self._info, step, self.num_images, semantic=semantic)
        panoptic = self._panoptic.result()
        return EvaluationReport(self._info, step, self.num_images, panoptic, semantic, self._instance.result())

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
