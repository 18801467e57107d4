"""Drawn maps as submissions: what a model double says of images that hold the answer in their colours; and faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from deeplab2_lite.evaluation.submission.check import check_submission
from deeplab2_lite.evaluation.submission.formats import FORMATS
from deeplab2_lite.evaluation.submission.images import ExpectedImage
from deeplab2_lite.evaluation.submission.writers import submission_writer
from deeplab2_lite.postprocessing.instances import InstanceTable
from deeplab2_lite.postprocessing.segmentation import PanopticResult

SIZE = (12, 20)
CITIES = ("aachen_000000_000019", "bad-honnef_000001_000019")
COCO = ("000000000139", "000000000285")
VISTAS = ("-A_1", "q.z")
STEMS = {"coco_panoptic": "panoptic_val2017_double_results"}


def keys_of(name):
    return CITIES if name.startswith("cityscapes") else COCO if name.startswith("coco") else VISTAS


def small_format(name):
    """A format whose images may be small."""
    return replace(FORMATS[name], size=SIZE) if FORMATS[name].size else FORMATS[name]


def drawn_map(info, seed, size=SIZE):
    """Stuff above and below, things before it."""
    rng = np.random.default_rng(seed)
    panoptic = np.full(size, info.stuff_ids[0] * info.label_divisor, np.int32)
    panoptic[size[0] // 2 :] = info.stuff_ids[-1] * info.label_divisor
    for number in (1, 2):
        for class_id in (info.thing_ids[1], info.thing_ids[-1]):
            top, left = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 6)
            panoptic[top : top + 4, left : left + 5] = class_id * info.label_divisor + number
    panoptic[:1, :3] = info.void_id
    return panoptic


def result_of(panoptic, info):
    """The result that a model gives with this map, and scores; void is stuff to the semantic head."""
    ids = [i for i in np.unique(panoptic).tolist() if i // info.label_divisor in info.thing_ids]
    boxes = [np.argwhere(panoptic == i) for i in ids]
    table = InstanceTable(
        valid=np.array([True] * len(ids) + [False]),
        class_id=np.array([i // info.label_divisor for i in ids] + [-1], np.int32),
        panoptic_id=np.array([*ids, -1], np.int32),
        center=np.zeros((len(ids) + 1, 2), np.int32),
        center_score=np.zeros(len(ids) + 1, np.float32),
        area=np.array([len(b) for b in boxes] + [0], np.int32),
        box=np.array([[*b.min(0), *(b.max(0) + 1)] for b in boxes] + [[0] * 4], np.int32),
    )
    rows = np.arange(len(ids))
    scores = np.append(np.float32(1) / (1 + rows), 0).astype(np.float32)
    semantic = panoptic // info.label_divisor
    semantic = np.where(semantic == info.ignore_label, info.stuff_ids[0], semantic).astype(np.int32)
    return PanopticResult(panoptic, semantic, np.zeros_like(panoptic), table), scores


def write_submission(folder, name):
    """Writes a good submission of two images, and returns its format and the images."""
    form = small_format(name)
    folder.mkdir()
    expected, entries = {}, []
    writer = submission_writer(form, form.info, folder, STEMS.get(name, name))
    for seed, key in enumerate(keys_of(name)):
        expected[key] = ExpectedImage(key, form.image_id_of(key), SIZE, folder.parent / f"{key}.jpg")
        entries.append(writer.write(expected[key], *result_of(drawn_map(form.info, seed), form.info)))
    writer.finish(entries)
    return form, expected


class DoublePredictor:
    """Reads class and instance out of red and green; at one image it can be stopped."""

    seen: list[int] = []  # noqa: RUF012
    stop_at: int | None = None

    def __init__(self, info):
        self.info = info

    def __call__(self, image):
        red, green = image[..., 0].astype(np.int32), image[..., 1].astype(np.int32)
        number = int(image[0, 0, 2])
        if number == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append(number)
        result, self.instance_scores = result_of(red * self.info.label_divisor + green, self.info)
        return result


def save_answer(path, panoptic, info, number=0):
    """Saves the image to which the double says this map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = [panoptic // info.label_divisor, panoptic % info.label_divisor, np.full_like(panoptic, number)]
    Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(path, format="PNG")


# ---- looking at submissions, and breaking them


def check(folder, form, expected):
    findings = check_submission(folder, form, expected).findings
    assert all("\n" not in str(finding) for finding in findings)
    return findings


def array_of(path):
    with Image.open(path) as image:
        return np.array(image)


def save(path, array, mode=None):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array, mode=mode).save(path, format="PNG")


def cut(path, length=None):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 if length is None else length])
