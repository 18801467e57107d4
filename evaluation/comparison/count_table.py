"""The counts of many images as arrays: figures of each image, or of any choice of images, all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.boundary_iou import BoundaryCounts
from deeplab2_lite.evaluation.metrics.exact_sums import fraction_sums
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts
from deeplab2_lite.evaluation.metrics.instance_iou import InstanceIoUCounts, has_average_areas
from deeplab2_lite.evaluation.metrics.mean_iou import ConfusionCounts
from deeplab2_lite.evaluation.metrics.panoptic_quality import PanopticCounts

# How the tags of figures begin, and the columns of classes, by part of `ImageCounts`.
_PANOPTIC = {"panoptic": ("panoptic_quality", ""), "boundary": ("boundary_panoptic_quality", "boundary ")}
# Of means of right / union: the tag, and the column of classes, which categories have not.
_RATIOS = {
    "semantic": ("semantic/mIoU", "IoU"),
    "category": ("semantic/category_mIoU", None),
    "instance_iou": ("semantic/iIoU", "iIoU"),
    "instance_category": ("semantic/category_iIoU", None),
    "boundary_iou": ("semantic/boundary_mIoU", "boundary IoU"),
}
_Kinds = dict[str, np.ndarray]


class Figures(NamedTuple):
    """Figures as fractions in 0..1; NaN where there is nothing to average.

    Attributes:
        overall: By the tag that `metrics.json` has; each [...].
        classes: By the column that `metrics.csv` has; each [..., classes].
    """

    overall: dict[str, np.ndarray]
    classes: dict[str, np.ndarray]


@dataclass(frozen=True)
class CountTable:
    """Counts by metric and kind, float64 [..., classes]. A metric is there if all images have it.

    Attributes:
        isthing: Thing classes, bool [classes].
        columns: For "panoptic" and "boundary" `tp`, `fp`, `fn` and the sum `iou`; for others `right` and `union`,
            of classes or of categories; for "semantic" `truth`, too.
    """

    isthing: np.ndarray
    columns: Mapping[str, Mapping[str, np.ndarray]]

    @classmethod
    def of(cls, images: Sequence[ImageCounts], info: DatasetInfo) -> CountTable:
        """Stacks the counts of images.

        Args:
            images: At least one.
            info: Their label space.

        Returns:
            A row for each image.
        """
        columns: dict[str, _Kinds] = {}
        for part, stack in (
            ("panoptic", _stack_segments),
            ("boundary", _stack_segments),
            ("semantic", _stack_pixels),
            ("instance_iou", _stack_instances),
            ("boundary_iou", _stack_boundaries),
        ):
            counts = [getattr(image, part) for image in images]
            if all(of_image is not None for of_image in counts):
                columns.update(stack(part, counts, info))
        return cls(np.array([c.isthing for c in info.classes], bool), columns)

    def summed(self, weights: np.ndarray) -> CountTable:
        """Sums up images, each as often as its weight says.

        Args:
            weights: float64 [draws, images], whole numbers.

        Returns:
            A row for each draw.
        """
        columns = {
            metric: {kind: weights @ values for kind, values in kinds.items()} for metric, kinds in self.columns.items()
        }
        return CountTable(self.isthing, columns)

    def keeping(self, metrics: Sequence[str]) -> CountTable:
        """Returns the same table with some of its metrics alone."""
        return CountTable(self.isthing, {metric: self.columns[metric] for metric in metrics})

    def occurrences(self) -> dict[str, np.ndarray]:
        """Returns, by the columns of `Figures.classes`, in how many rows a class is counted; int64 [classes]."""
        return {column: np.isfinite(values).sum(axis=0) for column, values in self.figures().classes.items()}

    def figures(self) -> Figures:
        """Returns the figures of each row."""
        overall, classes = {}, {}
        for metric, kinds in self.columns.items():
            if metric in _PANOPTIC:
                tag, prefix = _PANOPTIC[metric]
                qualities = _qualities(kinds)
                classes.update({f"{prefix}{key}": values for key, values in qualities.items()})
                for name, chosen in (("All", slice(None)), ("Things", self.isthing), ("Stuff", ~self.isthing)):
                    for key, values in qualities.items():
                        overall[f"{tag}/{name}/{key}"] = _mean(values[..., chosen])
            else:
                tag, column = _RATIOS[metric]
                values = _ratio(kinds["right"], kinds["union"])
                overall[tag] = _mean(values)
                if column is not None:
                    classes[column] = values
            if metric == "panoptic":
                tp, fp, fn = (kinds[kind][..., self.isthing].sum(axis=-1) for kind in ("tp", "fp", "fn"))
                overall["detection/AP50"] = _ratio(tp, tp + fp + fn)
            elif metric == "semantic":
                overall["semantic/pixel_accuracy"] = _ratio(kinds["right"].sum(axis=-1), kinds["truth"].sum(axis=-1))
        return Figures(overall, classes)


def _qualities(kinds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    tp, fp, fn, iou = (kinds[kind] for kind in ("tp", "fp", "fn", "iou"))
    weight = tp + 0.5 * fp + 0.5 * fn
    sq = np.where(weight > 0, iou / np.maximum(tp, 1), np.nan)
    return {"PQ": _ratio(iou, weight), "SQ": sq, "RQ": _ratio(tp, weight)}


def _stack_segments(metric: str, images: Sequence[PanopticCounts], info: DatasetInfo) -> dict[str, _Kinds]:
    kinds = {name: np.array([getattr(image, name) for image in images], np.float64) for name in ("tp", "fp", "fn")}
    kinds["iou"] = np.array([fraction_sums(image.iou_high, image.iou_low) for image in images])
    return {metric: kinds}


def _stack_pixels(metric: str, images: Sequence[ConfusionCounts], info: DatasetInfo) -> dict[str, _Kinds]:
    classes = np.arange(info.num_classes)
    stacked = {metric: _confusions(images, classes, info.num_classes)}
    if len(info.categories) > 1:
        # A class without a category counts for none.
        order = {category: i for i, category in enumerate(info.categories)}
        category = np.array([order.get(c.category, len(order)) for c in info.classes])
        stacked["category"] = _confusions(images, category, len(order))
    return stacked


def _confusions(images: Sequence[ConfusionCounts], group: np.ndarray, groups: int) -> _Kinds:
    """Counts by groups of classes, whose number stands for none of them."""
    group = np.append(group, groups)
    right, truth, predicted = np.zeros((3, len(images), groups + 1))
    for row, counts in enumerate(images):
        true, found = group[counts.truth], group[counts.prediction]
        same = true == found
        np.add.at(right[row], true[same], counts.pixels[same])
        np.add.at(truth[row], true, counts.pixels)
        np.add.at(predicted[row], found, counts.pixels)
    right, truth, predicted = (values[:, :groups] for values in (right, truth, predicted))
    return {"right": right, "truth": truth, "union": truth + predicted - right}


def _stack_instances(metric: str, images: Sequence[InstanceIoUCounts], info: DatasetInfo) -> dict[str, _Kinds]:
    is_weighed = has_average_areas(info)
    area = np.array([c.average_area or 0.0 for c in info.classes], np.float64)
    true = area * np.array([image.instances for image in images])
    kinds = []
    for found, wrong in (("found", "wrong"), ("category_found", "category_wrong")):
        sums = [fraction_sums(getattr(image, f"{found}_high"), getattr(image, f"{found}_low")) for image in images]
        union = true + np.array([getattr(image, wrong) for image in images])
        kinds.append({"right": np.where(is_weighed, area * np.array(sums), 0), "union": np.where(is_weighed, union, 0)})
    stacked = {metric: kinds[0]}
    if len(info.categories) > 1:
        members = [np.array([c.category == category for c in info.classes]) for category in info.categories]
        weighed = [chosen for chosen in members if is_weighed[chosen].all()]
        stacked["instance_category"] = {
            kind: np.stack([values[:, chosen].sum(axis=1) for chosen in weighed], axis=1)
            if weighed
            else np.zeros((len(images), 0))
            for kind, values in kinds[1].items()
        }
    return stacked


def _stack_boundaries(metric: str, images: Sequence[BoundaryCounts], info: DatasetInfo) -> dict[str, _Kinds]:
    right, truth, predicted = (np.array([image[i] for image in images], np.float64) for i in range(3))
    return {metric: {"right": right, "union": truth + predicted - right}}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Means over the classes that are counted."""
    counted = np.isfinite(values)
    return _ratio(np.where(counted, values, 0).sum(axis=-1), counted.sum(axis=-1))
