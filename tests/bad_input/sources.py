"""Small data sets in the current folder, as the commands read them, with one fault or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from deeplab2_lite.data.record_format import make_record

HEIGHT, WIDTH = 33, 49


def write_masks(count: int = 2) -> None:
    """Images with masks of `count` instances."""
    for name in ("images", "masks"):
        Path("raw/train", name).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("raw/train/images/a.jpg")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[0, :count] = np.arange(1, count + 1)
    Image.fromarray(mask).save("raw/train/masks/a.png")


def write_coco(category: int = 3, in_json: tuple[int, ...] = (7, 9), in_png: tuple[int, ...] = (7, 9)) -> None:
    """One image in the COCO panoptic format."""
    for name in ("images", "panoptic"):
        Path("raw", name).mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save("raw/images/a.jpg")
    ids = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    ids[..., 0] = np.resize(in_png, (HEIGHT, WIDTH))
    Image.fromarray(ids).save("raw/panoptic/a.png")
    segments = [{"id": i, "category_id": category, "iscrowd": 0} for i in in_json]
    content = {
        "images": [{"id": "a", "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"image_id": "a", "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 3, "name": "cat", "isthing": 1}],
    }
    Path("raw/panoptic.json").write_text(json.dumps(content))


def write_maps(value: int) -> None:
    for name in ("images", "labels"):
        Path("raw/train", name).mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save("raw/train/images/a.jpg")
    Image.new("L", (WIDTH, HEIGHT), value).save("raw/train/labels/a.png")


def write_shard(*serialized: bytes, split: str = "val") -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(f"records/{split}-00000-of-00001.tfrecord") as writer:
        for content in serialized:
            writer.write(content)


def write_record(panoptic_id: int = 0, keep: float = 1.0) -> None:
    """One record, of whose JPEG a share is kept."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("x.jpg")
    jpeg = Path("x.jpg").read_bytes()
    label = np.full((HEIGHT, WIDTH), panoptic_id, np.int32)
    write_shard(make_record(jpeg[: int(keep * len(jpeg))], "jpeg", "x.jpg", label))


def nothing() -> None:
    """The folder is sound."""


def edit_yaml(path: str, change: Callable[[dict], object]) -> None:
    content = yaml.safe_load(Path(path).read_text())
    change(content)
    Path(path).write_text(yaml.safe_dump(content))


def shorten(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def remove_shards() -> None:
    for path in Path("records").glob("*.tfrecord"):
        path.unlink()
