"""One evaluation: predictions and labels in, image by image; figures and pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.boundary_iou import BoundaryIoU
from deeplab2_lite.evaluation.metrics.boundary_quality import BoundaryPanopticQuality
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts
from deeplab2_lite.evaluation.metrics.instance_ap import InstanceAP, InstanceRules
from deeplab2_lite.evaluation.metrics.instance_iou import InstanceIoU, has_average_areas
from deeplab2_lite.evaluation.metrics.mean_iou import MeanIoU
from deeplab2_lite.evaluation.metrics.overlaps import Overlaps, overlaps_of_maps, sum_pairs
from deeplab2_lite.evaluation.metrics.panoptic_quality import PanopticQuality, match_segments
from deeplab2_lite.evaluation.report import EvaluationReport, format_table, write_csv, write_json
from deeplab2_lite.visualize import overlay_panoptic, save_image, side_by_side


class ImagePrediction(NamedTuple):
    """What a network says of one image. Parts that it has no heads for are None.

    Attributes:
        semantic: Class ids, int32 [height, width]; None takes the classes of `panoptic`.
        panoptic: Panoptic ids, int32 [height, width].
        instance: Rows of the instances, 1 + row or 0, int32 [height, width].
        class_id: Class of each row, int32 [rows].
        score: Confidence of each row, float32 [rows].
        confusion: All that mean IoU reads of `semantic`, which it then stands for; as `MeanIoU.count_matrix` takes it.
    """

    semantic: np.ndarray | None
    panoptic: np.ndarray | None = None
    instance: np.ndarray | None = None
    class_id: np.ndarray | None = None
    score: np.ndarray | None = None
    confusion: np.ndarray | None = None


class Evaluation:
    """Collects figures over images, and writes pictures of the first ones."""

    def __init__(
        self,
        info: DatasetInfo,
        pictures_dir: str | Path | None = None,
        pictures: int = 0,
        instance_rules: Sequence[InstanceRules] = ("coco",),
        boundary: bool = False,
        dilation_ratio: float | None = None,
    ) -> None:
        """Starts an evaluation.

        Args:
            info: Label space of truth and predictions.
            pictures_dir: Where pictures go; made when the first is written.
            pictures: How many; -1 for every image.
            instance_rules: By whose rules instances are scored; the figures of the first stand in tables.
            boundary: Also measure boundary PQ and boundary IoU, which takes some 30 ms for 1024x2048 pixels.
            dilation_ratio: Width of boundaries as a share of the image's diagonal; None takes what is usual for the
                data set, see `BoundaryPanopticQuality`.
        """
        self._info = info
        self._pictures_dir = None if pictures_dir is None else Path(pictures_dir)
        self._pictures = pictures
        self._panoptic = PanopticQuality(info)
        self._semantic = MeanIoU(info)
        self._instance = {rules: InstanceAP(info, rules) for rules in instance_rules}
        self._instance_iou = InstanceIoU(info) if has_average_areas(info).any() else None
        self._boundary = BoundaryPanopticQuality(info, dilation_ratio) if boundary else None
        self._boundary_iou = BoundaryIoU(info, dilation_ratio) if boundary else None
        self._images: list[ImageCounts] = []

    @property
    def num_images(self) -> int:
        """Images so far."""
        return len(self._images)

    @property
    def images(self) -> tuple[ImageCounts, ...]:
        """What each image counts, in the order in which they came."""
        return tuple(self._images)

    @property
    def needs_semantic_maps(self) -> bool:
        """Whether a figure reads more of a semantic map than its confusion with the truth."""
        return self._instance_iou is not None or self._boundary_iou is not None

    @property
    def needs_panoptic_maps(self) -> bool:
        """Whether a figure reads more of panoptic maps than which ids meet on how many pixels."""
        return self._boundary is not None or self._boundary_iou is not None

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
        counts: dict[str, Any] = {}
        if prediction.panoptic is not None:
            pairs = overlaps_of_maps(truth, prediction.panoptic)
            counts["panoptic"] = match_segments(pairs, self._info)
            if prediction.semantic is None and prediction.confusion is None:
                classes = pairs.prediction // self._info.label_divisor
                counts.update(self._count_semantic(sum_pairs(pairs.truth, classes, pairs.pixels)))
        if prediction.semantic is not None:
            counts.update(self._count_semantic(overlaps_of_maps(truth, prediction.semantic)))
        elif prediction.confusion is not None:
            counts["semantic"] = self._semantic.count_matrix(prediction.confusion)
        if prediction.instance is not None:
            table = (prediction.instance, prediction.class_id, prediction.score)
            counts["instance"] = {rules: metric.count(truth, *table) for rules, metric in self._instance.items()}
        return ImageCounts(name, **counts, **self._count_boundaries(truth, prediction))

    def count_overlaps(self, pairs: Overlaps, name: str = "") -> ImageCounts:
        """Counts an image of which is known what meets in it, without adding it.

        Args:
            pairs: Which panoptic ids of truth and prediction meet on how many pixels.
            name: File name of the image.

        Returns:
            What `count` returns for a prediction that is a panoptic map alone; boundaries need the maps themselves.
        """
        classes = pairs.prediction // self._info.label_divisor
        semantic = self._count_semantic(sum_pairs(pairs.truth, classes, pairs.pixels))
        return ImageCounts(name, match_segments(pairs, self._info), **semantic)

    def _count_semantic(self, pairs: Overlaps) -> dict[str, Any]:
        """Returns what pairs of true panoptic ids and predicted classes count."""
        counts: dict[str, Any] = {"semantic": self._semantic.count_pairs(pairs)}
        if self._instance_iou is not None:
            counts["instance_iou"] = self._instance_iou.count_pairs(pairs)
        return counts

    def _count_boundaries(self, truth: np.ndarray, prediction: ImagePrediction) -> dict[str, Any]:
        counts: dict[str, Any] = {}
        semantic = prediction.semantic
        if self._boundary is not None and prediction.panoptic is not None:
            counts["boundary"] = self._boundary.count(truth, prediction.panoptic)
            semantic = prediction.panoptic // self._info.label_divisor if semantic is None else semantic
        if self._boundary_iou is not None and semantic is not None:
            counts["boundary_iou"] = self._boundary_iou.count(truth // self._info.label_divisor, semantic)
        return counts

    def add(self, counts: ImageCounts) -> None:
        """Adds what an image counts.

        Args:
            counts: Of `count`, by an evaluation of the same label space and rules.
        """
        for metric, part in (
            (self._panoptic, counts.panoptic),
            (self._semantic, counts.semantic),
            (self._instance_iou, counts.instance_iou),
            (self._boundary, counts.boundary),
            (self._boundary_iou, counts.boundary_iou),
        ):
            if metric is not None and part is not None:
                metric.add(part)
        if counts.instance is not None:
            for rules, metric in self._instance.items():
                metric.add(counts.instance[rules])
        self._images.append(counts)

    def report(self, step: int | None) -> EvaluationReport:
        """Returns the figures so far.

        Args:
            step: Training step of the weights; None where no single one is known.

        Returns:
            Figures of all that the predictions hold.
        """

        def result(metric: Any, part: str) -> Any:
            counted = any(getattr(counts, part) is not None for counts in self._images)
            return metric.result() if metric is not None and counted else None

        return EvaluationReport(
            self._info,
            step,
            self.num_images,
            panoptic=result(self._panoptic, "panoptic"),
            semantic=self._semantic.result(),
            instance=result(next(iter(self._instance.values()), None), "instance"),
            images=tuple(self._images),
            boundary=result(self._boundary, "boundary"),
            boundary_iou=result(self._boundary_iou, "boundary_iou"),
            instance_iou=result(self._instance_iou, "instance_iou"),
        )

    def _draw(self, image: np.ndarray, truth: np.ndarray, prediction: ImagePrediction, name: str) -> None:
        predicted = prediction.panoptic
        if predicted is None and prediction.semantic is None:
            return
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
