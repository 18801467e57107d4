"""Panoptic labels to make targets of: drawn ones, and those of data sets in the layout of their downloads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab2_lite.dataset_info import DatasetInfo


def count_instances(panoptic: np.ndarray, info: DatasetInfo) -> int:
    """The number of a label's instances."""
    ids = np.unique(panoptic)
    return int(np.sum(np.isin(ids // info.label_divisor, info.thing_ids) & (ids % info.label_divisor != 0)))


def draw_label(info: DatasetInfo, height: int, width: int, instances: int, seed: int) -> np.ndarray:
    """Draws ellipses of things, the nearer and larger first, over bands of stuff and above a hood of void."""
    generator = np.random.default_rng(seed)
    bands = np.sort(generator.choice(height, 11, replace=False))
    stuff = generator.choice(info.stuff_ids, 12)[np.searchsorted(bands, np.arange(height))]
    panoptic = np.repeat(stuff[:, np.newaxis] * info.label_divisor, width, axis=1).astype(np.int32)
    panoptic[-height // 12 :] = info.void_id
    half = np.sort(np.exp(generator.uniform(np.log(height / 150), np.log(height / 6), instances)))[::-1]
    for number, size in enumerate(half):
        center_y, center_x = generator.uniform(0, height * 11 / 12), generator.uniform(0, width)
        size_y, size_x = size * generator.uniform(0.6, 1.6, 2)
        top, left = max(0, int(center_y - size_y)), max(0, int(center_x - size_x))
        box = panoptic[top : int(center_y + size_y) + 2, left : int(center_x + size_x) + 2]
        y, x = np.indices(box.shape) + np.array([top - center_y, left - center_x])[:, np.newaxis, np.newaxis]
        class_id = generator.choice(info.thing_ids)
        box[(y / size_y) ** 2 + (x / size_x) ** 2 <= 1] = class_id * info.label_divisor + number + 1
    return panoptic


def cityscapes_labels(folder: Path, info: DatasetInfo) -> Iterator[np.ndarray]:
    """Gives the labels of `gtFine/*/*/*_instanceIds.png`, padded to 1025x2049."""
    class_of = np.full(256, info.ignore_label)
    for class_id, description in enumerate(info.classes):
        class_of[description.original_id] = class_id
    for file in sorted(folder.glob("gtFine/*/*/*_instanceIds.png")):
        values = np.asarray(Image.open(file)).astype(np.int32)
        has_instance = values >= 1000
        semantic = class_of[np.where(has_instance, values // 1000, values)]
        instance = np.where(has_instance & np.isin(semantic, info.thing_ids), values % 1000 + 1, 0)
        yield _fit(semantic * info.label_divisor + instance, 1025, 2049, info)


def coco_labels(folder: Path, info: DatasetInfo) -> Iterator[np.ndarray]:
    """Gives the labels of `annotations/panoptic_*2017`, cut and padded to 641x641."""
    class_of = {description.original_id: class_id for class_id, description in enumerate(info.classes)}
    for source in sorted((folder / "annotations").glob("panoptic_*2017.json")):
        for annotation in json.loads(source.read_text(encoding="utf-8"))["annotations"]:
            png = Image.open(source.with_suffix("") / annotation["file_name"]).convert("RGB")
            segment_ids = np.asarray(png).astype(np.int32) @ np.array([1, 2**8, 2**16])
            panoptic = np.full(segment_ids.shape, info.void_id)
            for number, segment in enumerate(annotation["segments_info"], start=1):
                class_id = class_of[segment["category_id"]]
                is_instance = info.classes[class_id].isthing and not segment["iscrowd"]
                panoptic[segment_ids == segment["id"]] = class_id * info.label_divisor + number * is_instance
            yield _fit(panoptic, 641, 641, info)


def _fit(panoptic: np.ndarray, height: int, width: int, info: DatasetInfo) -> np.ndarray:
    fitted = np.full((height, width), info.void_id, np.int32)
    part = panoptic[:height, :width]
    fitted[: part.shape[0], : part.shape[1]] = part
    return fitted
