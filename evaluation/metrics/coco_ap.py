"""Instance AP by COCO's rules: masks are kept as run lengths, pycocotools does the scoring."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.instance_ap import InstanceAPResult

# COCOeval.params: the area ranges all, small, medium, large, and the last of maxDets, 100.
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_MOST_DETECTIONS = -1


class CocoApRules:
    """Which detections met a true instance, image by image, as pycocotools matches them.

    Detections are matched within their image, so a few bits of each are all that the curve over the data set
    needs: the memory does not grow with masks.
    """

    def __init__(self, info: DatasetInfo) -> None:
        """Starts without images."""
        self._info = info
        self._images: list[Mapping[str, Any]] = []

    def count(self, truth: np.ndarray, masks: np.ndarray, class_ids: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        """Returns, for each class that occurs, the scores of its detections and, for each range of areas, three lists.

        They are, for each detection, the IoU thresholds at which it is matched and those at which it does
        not count, as the bits of two integers, and for each true instance whether it need not be found.
        """
        true = []
        for panoptic_id, run_lengths in encode_segments(truth).items():
            class_id, instance = divmod(panoptic_id, self._info.label_divisor)
            if class_id in self._info.thing_ids:
                true.append({**_annotation(class_id, run_lengths), "iscrowd": int(instance == 0)})
        detected = []
        for instance, run_lengths in encode_segments(masks).items():
            if instance > 0:
                annotation = _annotation(int(class_ids[instance - 1]), run_lengths)
                detected.append({**annotation, "iscrowd": 0, "score": float(scores[instance - 1])})
        classes = sorted({annotation["category_id"] for annotation in (*true, *detected)})
        if not classes:
            return {}
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            evaluation = COCOeval(_dataset(true, truth.shape), _dataset(detected, truth.shape), iouType="segm")
            evaluation.params.catIds = classes
            evaluation.evaluate()
        # By class, then by range of areas; the one image is the last axis.
        ranges = len(evaluation.params.areaRng)
        found = [evaluation.evalImgs[i : i + ranges] for i in range(0, len(evaluation.evalImgs), ranges)]
        return {str(class_id): _matches(of_class) for class_id, of_class in zip(classes, found, strict=True)}

    def add(self, counts: Mapping[str, Any]) -> None:
        """Adds what an image counts."""
        self._images.append(counts)

    def extend(self, other: CocoApRules) -> None:
        """Adds the images of another object, after those seen here."""
        self._images += other._images

    def result(self) -> InstanceAPResult:
        """Returns the figures, from pycocotools' `COCOeval.accumulate` over the images."""
        evaluation = COCOeval(iouType="segm")
        parameters = evaluation.params
        parameters.catIds = list(self._info.thing_ids)
        parameters.imgIds = list(range(len(self._images)))
        thresholds = len(parameters.iouThrs)
        evaluation.evalImgs = [
            _evaluated(image.get(str(class_id)), area, thresholds)
            for class_id in parameters.catIds
            for area in range(len(parameters.areaRng))
            for image in self._images
        ]
        evaluation._paramsEval = parameters
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        # [thresholds, recalls, classes, areas, detections]; -1 where the truth has no instance.
        precision = evaluation.eval["precision"][..., _MOST_DETECTIONS]
        precision = np.where(precision < 0, np.nan, precision)
        per_class, per_class_50 = np.full((2, self._info.num_classes), np.nan)
        for column, class_id in enumerate(parameters.catIds):
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


def _dataset(annotations: list[dict[str, Any]], size: tuple[int, int]) -> COCO:
    """Returns a data set of one image."""
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": 0, "height": size[0], "width": size[1]}],
        "categories": [{"id": i} for i in sorted({annotation["category_id"] for annotation in annotations})],
        # COCOeval marks annotations as it goes and reads id 0 as "no match".
        "annotations": [{**annotation, "id": i + 1} for i, annotation in enumerate(annotations)],
    }
    dataset.createIndex()
    return dataset


def _matches(of_class: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Packs what COCOeval found of a class in one image; there is something in each range of areas."""
    areas = []
    for found in of_class:
        bits = 1 << np.arange(len(found["dtMatches"]))
        matched, ignored = ((bits @ (np.asarray(found[key]) != 0)).tolist() for key in ("dtMatches", "dtIgnore"))
        areas.append([matched, ignored, np.asarray(found["gtIgnore"]).astype(int).tolist()])
    return {"scores": list(map(float, of_class[_ALL]["dtScores"])), "areas": areas}


def _evaluated(of_class: Mapping[str, Any] | None, area: int, thresholds: int) -> dict[str, Any] | None:
    """Unpacks what `_matches` packed, as far as `COCOeval.accumulate` reads it."""
    if of_class is None:
        return None
    matched, ignored, truth_ignored = of_class["areas"][area]
    bits = np.arange(thresholds)[:, None]
    return {
        "dtScores": of_class["scores"],
        "dtMatches": np.array(matched, np.int64) >> bits & 1,
        "dtIgnore": (np.array(ignored, np.int64) >> bits & 1).astype(bool),
        "gtIgnore": np.array(truth_ignored),
    }


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


def _annotation(class_id: int, run_lengths: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_id": 0,
        "category_id": class_id,
        "segmentation": run_lengths,
        "area": float(mask_utils.area(run_lengths)),
        "bbox": mask_utils.toBbox(run_lengths).tolist(),
    }


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
