"""The `shapes` data set: procedural street scenes, so that everything runs without a download.

A scene is a street in perspective: sky, buildings, trees, road and sidewalks, on which cars, people,
balls and signs stand one before the other. It is a function of (seed, split, index) alone.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from deeplab2_lite.config import ShapesConfig
from deeplab2_lite.data import shapes_street, shapes_things
from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord, count_label
from deeplab2_lite.data.conversion.output import Conversion
from deeplab2_lite.data.record_format import encode_png, make_record
from deeplab2_lite.data.shapes_canvas import BALL, CAR, PERSON, SIGN, Canvas
from deeplab2_lite.data.shapes_street import Street
from deeplab2_lite.dataset_info import DatasetInfo, load_preset
from deeplab2_lite.errors import UserError

MIN_SIDE = 33
# Instances of which less is to be seen are left out of the scene; nobody could find them.
MIN_VISIBLE_PIXELS = 12

# Pictures are drawn at twice their size and averaged down, which smooths their edges.
_OVERSAMPLING = 2
_DRAW = {
    PERSON: shapes_things.draw_person,
    CAR: shapes_things.draw_car,
    BALL: shapes_things.draw_ball,
    SIGN: shapes_things.draw_sign,
}
_CLASS_SHARES = {PERSON: 0.3, CAR: 0.3, BALL: 0.2, SIGN: 0.2}


class _Thing(NamedTuple):
    """Something on the street: class, where it touches the ground (fractions), and the seed of its looks."""

    class_id: int
    x: float
    depth: float
    look: int
    iscrowd: bool


class _Layers(NamedTuple):
    """A drawn scene: RGB uint8 [height, width, 3], semantic and object ids int32 [height, width]."""

    image: np.ndarray
    semantic: np.ndarray
    objects: np.ndarray


class ShapesItem(NamedTuple):
    """The coordinates of a scene."""

    split: str
    index: int


@dataclass(frozen=True)
class ShapesConverter:
    """Makes a record of a scene."""

    info: DatasetInfo
    config: ShapesConfig

    def __call__(self, item: ShapesItem) -> ConvertedRecord:
        """Returns the record of one scene."""
        config = self.config
        image, panoptic = generate_scene(config.seed, item.split, item.index, config.height, config.width)
        serialized = make_record(encode_png(image), "png", f"{item.split}_{item.index:06d}.png", panoptic)
        return ConvertedRecord(serialized, count_label(panoptic, self.info))

    def files(self, item: ShapesItem) -> tuple[Path, ...]:
        """Returns nothing: a scene is made of no file."""
        return ()


def build(output: str | Path, config: ShapesConfig, *, num_processes: int = 1) -> Path:
    """Writes the data set as TFRecords, with the splits "train" and "val".

    Args:
        output: Folder for the records; scenes that are already there are kept.
        config: Counts, size and seed.
        num_processes: See `conversion.convert`.

    Returns:
        The path of its `dataset_info.yaml`.

    Raises:
        UserError: The scenes are too small, or the folder holds other records.
    """
    _check_size(config.height, config.width)
    counts = {"train": config.train_images, "val": config.val_images}
    splits = {split: [ShapesItem(split, i) for i in range(count)] for split, count in counts.items()}
    return convert(Conversion(ShapesConverter(_label_space(), config), splits), output, num_processes=num_processes)


def generate_scene(seed: int, split: str, index: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one scene.

    Args:
        seed: Of the data set.
        split: Name of the split.
        index: Number of the scene in its split.
        height: In pixels.
        width: In pixels.

    Returns:
        The image, RGB uint8 [height, width, 3], and panoptic ids, int32 [height, width], in the label
        space "shapes" (ignore_label 255, label_divisor 1000).

    Raises:
        UserError: The size is too small.
    """
    _check_size(height, width)
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    street = shapes_street.draw_of_street(rng)
    things = _place_things(rng, street, width / height)
    layers = _render(street, things, height, width)
    visible = np.bincount(layers.objects.ravel(), minlength=len(things) + 1)[1:]
    large_enough = [thing for thing, pixels in zip(things, visible, strict=True) if pixels >= MIN_VISIBLE_PIXELS]
    if len(large_enough) < len(things):
        things = large_enough
        layers = _render(street, things, height, width)
    image = _photograph(rng, layers)
    return image, _panoptic(layers, things)


@functools.cache
def _label_space() -> DatasetInfo:
    return load_preset("shapes")


def _check_size(height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise UserError(f"data.shapes: expected scenes of at least {MIN_SIDE}x{MIN_SIDE} pixels, got {height}x{width}")


def _place_things(rng: np.random.Generator, street: Street, aspect: float) -> list[_Thing]:
    """Returns what stands on the street, far to near."""
    count = round(rng.integers(5, 12) * np.clip(aspect / 2, 0.5, 2))
    classes = rng.choice(list(_CLASS_SHARES), size=count, p=list(_CLASS_SHARES.values()))
    placed: list[_Thing] = []
    for class_id in classes.tolist():
        # Some tries to stand clear of others of the class; then overlap is life.
        for _ in range(6):
            depth = float(rng.uniform(0.16, 0.92))
            x = street.place(rng, class_id, depth)
            if all(abs(x - o.x) > 0.16 / aspect * (0.5 + depth) for o in placed if abs(o.depth - depth) < 0.35):
                break
        placed.append(_Thing(class_id, x, depth, int(rng.integers(2**31)), iscrowd=False))
    if rng.random() < 0.12:
        placed.extend(_place_crowd(rng))
    return sorted(placed, key=lambda thing: thing.depth)


def _place_crowd(rng: np.random.Generator) -> list[_Thing]:
    middle = rng.uniform(0.15, 0.85)
    spots = middle + np.linspace(-0.06, 0.06, int(rng.integers(6, 9)))
    return [_Thing(PERSON, float(x), float(rng.uniform(0.1, 0.14)), int(rng.integers(2**31)), True) for x in spots]


def _render(street: Street, things: list[_Thing], height: int, width: int) -> _Layers:
    canvas = Canvas(height * _OVERSAMPLING, width * _OVERSAMPLING)
    shapes_street.draw_street(canvas, street)
    for number, thing in enumerate(things, start=1):
        looks = np.random.default_rng(thing.look)
        canvas.begin(thing.class_id, number)
        x, y = thing.x * canvas.width, street.ground(thing.depth) * canvas.height
        _DRAW[thing.class_id](canvas, looks, x, y, street.scale(thing.depth))
    shapes_street.draw_bonnet(canvas, street)
    image = canvas.image.resize((width, height), Image.Resampling.BOX)
    semantic, objects = (np.asarray(ids)[::_OVERSAMPLING, ::_OVERSAMPLING] for ids in (canvas.semantic, canvas.objects))
    return _Layers(np.asarray(image), semantic, objects)


def _photograph(rng: np.random.Generator, layers: _Layers) -> np.ndarray:
    """Adds what a camera sees: texture, light and noise."""
    height, width = layers.semantic.shape
    image = layers.image.astype(np.float32)
    coarse = Image.fromarray(rng.normal(0, 1, (height // 4 + 1, width // 4 + 1)).astype(np.float32))
    coarse = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    fine = rng.normal(0, 1, (height, width)).astype(np.float32)
    strength = shapes_street.texture_strength(layers.semantic)
    image += (strength[..., 0] * coarse + strength[..., 1] * fine)[..., None]
    # The light falls from one side, and is warm or cold.
    slope = np.linspace(-1, 1, width, dtype=np.float32)[:, None] * rng.uniform(-0.12, 0.12)
    tint = rng.uniform(0.8, 1.12) * (1 + rng.uniform(-0.07, 0.07) * np.array([1, 0, -1], np.float32))
    image = image * (tint * (1 + slope)).astype(np.float32)
    image += rng.normal(0, rng.uniform(1.5, 4), image.shape).astype(np.float32)
    photograph = Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    return np.asarray(photograph.filter(ImageFilter.GaussianBlur(0.35)))


def _panoptic(layers: _Layers, things: list[_Thing]) -> np.ndarray:
    info = _label_space()
    counts = dict.fromkeys(info.thing_ids, 0)
    instance_of_object = np.zeros(len(things) + 1, np.int32)
    # From near to far, so that numbers begin with what is seen best.
    for number in range(len(things), 0, -1):
        thing = things[number - 1]
        if not thing.iscrowd:
            counts[thing.class_id] += 1
            instance_of_object[number] = counts[thing.class_id]
    return layers.semantic * info.label_divisor + instance_of_object[layers.objects]
