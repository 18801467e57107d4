"""Instance AP by COCO's rules: masks are kept as run lengths, pycocotools does the scoring."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.instance_ap import InstanceAPResult

# COCOeval.params: the area ranges all, small, medium, large, and the last of maxDets, 100.
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_MOST_DETECTIONS = -1


class CocoApRules:
    """COCO annotations of truth and detections, gathered image by image."""

    def __init__(self, info: DatasetInfo) -> None:
        """Starts without images."""
        self._info = info
        self._sizes: list[tuple[int, int]] = []
        self._truth: list[dict[str, Any]] = []
        self._detections: list[dict[str, Any]] = []

    def add(self, truth: np.ndarray, masks: np.ndarray, class_ids: np.ndarray, scores: np.ndarray) -> None:
        """Adds an image whose values have been checked."""
        image_id = len(self._sizes) + 1
        self._sizes.append(truth.shape)
        for panoptic_id, run_lengths in encode_segments(truth).items():
            class_id, instance = divmod(panoptic_id, self._info.label_divisor)
            if class_id in self._info.thing_ids:
                annotation = _annotation(image_id, class_id, run_lengths)
                self._truth.append({**annotation, "iscrowd": int(instance == 0)})
        for instance, run_lengths in encode_segments(masks).items():
            if instance > 0:
                row = instance - 1
                annotation = _annotation(image_id, int(class_ids[row]), run_lengths)
                self._detections.append({**annotation, "iscrowd": 0, "score": float(scores[row])})

    def extend(self, other: CocoApRules) -> None:
        """Adds the images of another object, after those seen here."""
        shift = len(self._sizes)
        self._sizes += other._sizes
        self._truth += [{**a, "image_id": a["image_id"] + shift} for a in other._truth]
        self._detections += [{**a, "image_id": a["image_id"] + shift} for a in other._detections]

    def result(self) -> InstanceAPResult:
        """Returns the figures, from pycocotools' `COCOeval` on segmentation masks."""
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            evaluation = COCOeval(self._dataset(self._truth), self._dataset(self._detections), iouType="segm")
            evaluation.evaluate()
            evaluation.accumulate()
        # [thresholds, recalls, classes, areas, detections]; -1 where the truth has no instance.
        precision = evaluation.eval["precision"][..., _MOST_DETECTIONS]
        precision = np.where(precision < 0, np.nan, precision)
        per_class, per_class_50 = np.full((2, self._info.num_classes), np.nan)
        for column, class_id in enumerate(evaluation.params.catIds):
            per_class[class_id] = _mean(precision[:, :, column, _ALL])
            per_class_50[class_id] = _mean(precision[0, :, column, _ALL])
        return InstanceAPResult(
            ap=_mean(precision[..., _ALL]),
            ap50=_mean(precision[0, ..., _ALL]),
            ap75=_mean(precision[5, ..., _ALL]),
            ap_small=_mean(precision[..., _SMALL]),
            ap_medium=_mean(precision[..., _MEDIUM]),
            ap_large=_mean(precision[..., _LARGE]),
            per_class_ap=per_class,
            per_class_ap50=per_class_50,
        )

    def _dataset(self, annotations: list[dict[str, Any]]) -> COCO:
        dataset = COCO()
        dataset.dataset = {
            "images": [{"id": i + 1, "height": h, "width": w} for i, (h, w) in enumerate(self._sizes)],
            "categories": [{"id": i, "name": self._info.classes[i].name} for i in self._info.thing_ids],
            # COCOeval marks annotations as it goes and reads id 0 as "no match".
            "annotations": [{**annotation, "id": i + 1} for i, annotation in enumerate(annotations)],
        }
        dataset.createIndex()
        return dataset


def encode_segments(ids: np.ndarray) -> dict[int, dict[str, Any]]:
    """Encodes every id of a map as a COCO run-length mask, in one pass over the map.

    Args:
        ids: Integers [height, width].

    Returns:
        For each id its compressed run lengths, as `pycocotools.mask.encode` gives them for `ids == id`.
    """
    if ids.size == 0:
        return {}
    height, width = ids.shape
    columns = ids.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(columns[1:] != columns[:-1]) + 1])
    ends = np.append(starts[1:], columns.size)
    order = np.argsort(columns[starts], kind="stable")
    run_ids = columns[starts][order]
    groups = np.split(order, np.flatnonzero(run_ids[1:] != run_ids[:-1]) + 1)
    encoded = {}
    for runs in groups:
        # Run lengths alternate between outside and inside, from outside.
        edges = np.stack([starts[runs], ends[runs]], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=columns.size)
        counts = counts[:-1] if counts[-1] == 0 else counts
        uncompressed = {"counts": counts.tolist(), "size": [height, width]}
        encoded[int(columns[starts[runs[0]]])] = mask_utils.frPyObjects(uncompressed, height, width)
    return encoded


def _annotation(image_id: int, class_id: int, run_lengths: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": class_id,
        "segmentation": run_lengths,
        "area": float(mask_utils.area(run_lengths)),
        "bbox": mask_utils.toBbox(run_lengths).tolist(),
    }


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
