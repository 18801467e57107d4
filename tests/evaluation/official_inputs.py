"""Truths and predictions in the label space of Cityscapes, and the files that the official evaluators read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import deeplab2_lite as dl

INFO = dl.load_dataset_info("cityscapes")
ORIGINAL = np.array([*(c.original_id for c in INFO.classes), 0])
_VOID = INFO.void_id
# Stuff, and things with and without a category all of whose classes have instances.
_CLASSES = (0, 1, 2, 8, 10, 11, 12, 13, 14, 17, 18)


class Pair(NamedTuple):
    """Panoptic ids of truth and prediction, int32 [height, width]."""

    truth: np.ndarray
    prediction: np.ndarray


class Instances(NamedTuple):
    """What an instance head says, as `InstanceAP.update` takes it."""

    masks: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray


def random_pairs(count: int, seed: int) -> Iterator[Pair]:
    """Small maps of blocks with crowds, void, segments of a few pixels, and now and then nothing at all."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        blocks = _random_ids(rng, (4, 5))
        size = rng.integers(4, 20, size=2)
        truth = blocks.repeat(size[0], axis=0).repeat(size[1], axis=1)
        prediction = np.where(rng.random(blocks.shape) < 0.3, _random_ids(rng, (4, 5)), blocks)
        # Networks predict no crowds: their pixels become an instance.
        is_crowd = np.isin(prediction // 1000, INFO.thing_ids) & (prediction % 1000 == 0)
        prediction = (prediction + is_crowd * rng.integers(0, 2)).repeat(size[0], axis=0).repeat(size[1], axis=1)
        prediction = np.roll(prediction, rng.integers(-2, 3, size=2), axis=(0, 1))
        noise = rng.random(truth.shape) < (0.02 if i % 4 == 0 else 0)
        prediction = np.where(noise, _random_ids(rng, truth.shape), prediction)
        if i % 25 == 7:
            truth = np.full_like(truth, _VOID)
        if i % 25 == 11:
            prediction = np.full_like(prediction, _VOID)
        if i % 25 == 19:
            truth = np.full_like(truth, 13000)  # a crowd alone
        yield Pair(truth.astype(np.int32), prediction.astype(np.int32))


def _random_ids(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    classes = rng.choice(_CLASSES, shape)
    ids = classes * 1000 + np.isin(classes, INFO.thing_ids) * rng.integers(0, 4, shape)
    return np.where(rng.random(shape) < 0.15, _VOID, ids)


def drawn_prediction(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a fair network might say: wavy outlines, instances missed, joined, misnamed and made up, some void."""
    height, width = truth.shape
    y, x = np.ogrid[:height, :width]
    phase = rng.uniform(0, 2 * np.pi, 4)
    rows = y + np.rint(3 * np.sin(x / 23 + phase[0]) + 3 * np.sin(y / 31 + phase[1])).astype(int)
    columns = x + np.rint(3 * np.sin(y / 19 + phase[2]) + 3 * np.sin(x / 37 + phase[3])).astype(int)
    prediction = truth[rows.clip(0, height - 1), columns.clip(0, width - 1)].astype(np.int64)
    ids, inverse = np.unique(prediction, return_inverse=True)
    changed = ids.copy()
    for i, panoptic_id in enumerate(ids.tolist()):
        class_id, instance = divmod(panoptic_id, 1000)
        if class_id not in INFO.thing_ids:
            continue
        kind = rng.random()
        if kind < 0.1 or not instance:
            changed[i] = 2000  # taken for a building
        elif kind < 0.2:
            changed[i] = rng.choice(INFO.thing_ids) * 1000 + 500 + instance
        elif kind < 0.3:
            changed[i] = class_id * 1000 + 1
    prediction = changed[inverse].reshape(truth.shape)
    for number in range(4):
        top, left = rng.integers(0, height - 40), rng.integers(0, width - 60)
        prediction[top : top + rng.integers(8, 40), left : left + rng.integers(8, 60)] = 13900 + number
    prediction[prediction == _VOID] = 0
    prediction[-9:, :30] = _VOID
    return prediction.astype(np.int32)


def instances_of(prediction: np.ndarray, rng: np.random.Generator) -> Instances:
    """The instances of a panoptic map as rows, with scores among which some are equal."""
    ids = [v for v in np.unique(prediction).tolist() if v // 1000 in INFO.thing_ids and v % 1000]
    masks = np.zeros_like(prediction)
    for row, panoptic_id in enumerate(ids):
        masks[prediction == panoptic_id] = row + 1
    return Instances(masks, np.array(ids, np.int64) // 1000, rng.choice([0.25, 0.5, 0.75, 1.0], size=len(ids)))


def label_ids(panoptic: np.ndarray) -> np.ndarray:
    """Cityscapes label ids, uint8; void becomes 0, unlabeled."""
    return ORIGINAL[np.minimum(panoptic // 1000, INFO.num_classes)].astype(np.uint8)


def instance_ids(panoptic: np.ndarray) -> np.ndarray:
    """The values of Cityscapes' `instanceIds`, in which instances count from 0."""
    labels, instance = label_ids(panoptic).astype(np.int64), panoptic % 1000
    is_instance = np.isin(panoptic // 1000, INFO.thing_ids) & (instance > 0)
    return np.where(is_instance, labels * 1000 + instance - 1, labels).astype(np.uint16)


def write_panoptic(path: Path, panoptic: np.ndarray, image_id: str) -> dict[str, Any]:
    """Writes a PNG of segment ids; returns its annotation, category ids being those of the label space's classes."""
    ids = np.where(panoptic // 1000 == INFO.ignore_label, 0, panoptic + 1)  # void is 0 there
    channels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    Image.fromarray(channels.astype(np.uint8)).save(path)
    segments = []
    for value, area in zip(*np.unique(ids[ids > 0], return_counts=True), strict=True):
        class_id, instance = divmod(int(value) - 1, 1000)
        is_crowd = int(INFO.classes[class_id].isthing and instance == 0)
        category = INFO.classes[class_id].original_id
        segments.append({"id": int(value), "category_id": category, "area": int(area), "iscrowd": is_crowd})
    return {"image_id": image_id, "file_name": path.name, "segments_info": segments}


def write_truth(folder: Path, name: str, panoptic: np.ndarray) -> tuple[Path, Path]:
    """Writes the `labelIds` and `instanceIds` of an image; returns their paths."""
    paths = folder / f"{name}_gtFine_labelIds.png", folder / f"{name}_gtFine_instanceIds.png"
    Image.fromarray(label_ids(panoptic)).save(paths[0])
    Image.fromarray(instance_ids(panoptic)).save(paths[1])
    return paths


def write_instances(folder: Path, name: str, instances: Instances) -> Path:
    """Writes the masks of an image, and the text that lists them; returns its path."""
    lines = []
    for row, class_id in enumerate(instances.class_ids):
        mask = f"{name}_{row}.png"
        Image.fromarray((255 * (instances.masks == row + 1)).astype(np.uint8)).save(folder / mask)
        lines.append(f"{mask} {ORIGINAL[class_id]} {instances.scores[row]}\n")
    path = folder / f"{name}.txt"
    path.write_text("".join(lines))
    return path


def real_truths(real_data: Path, count: int) -> list[Path]:
    """The `instanceIds` of validation images."""
    paths = sorted((real_data / "cityscapes/gtFine/val").rglob("*_gtFine_instanceIds.png"))
    assert len(paths) >= count
    return paths[:count]


def panoptic_of_instance_ids(path: Path) -> np.ndarray:
    """Reads `instanceIds` as panoptic ids."""
    values = np.asarray(Image.open(path)).astype(np.int64)
    labels = np.where(values >= 1000, values // 1000, values)
    class_of = np.full(256, INFO.ignore_label)
    class_of[ORIGINAL[:-1]] = np.arange(INFO.num_classes)
    classes = class_of[labels]
    instance = np.where((values >= 1000) & np.isin(classes, INFO.thing_ids), values % 1000 + 1, 0)
    return (classes * 1000 + instance).astype(np.int32)
