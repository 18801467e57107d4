"""Scale and crop never separate an image from its label: every pixel against a plain reading of the sampling grid.

Pixel i of n lies at (i + 1/2) * m / n - 1/2 of m source pixels, in the image and in the label alike. The image
holds the coordinates of its pixels, so that its colours say where they were sampled, and the label says where it was.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, DataConfig
from deeplab2_lite.data.augment import augment
from deeplab2_lite.data.draws import Draw, draw_integer

VOID = 2**24 - 1
SLACK = 1e-3
SIZES = [(60, 90), (61, 91), (60, 91), (85, 64), (21, 30)]
CITYSCAPES = [0.5 + 0.1 * i for i in range(16)]
COCO = CITYSCAPES[:11]


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of ramps in y (red), x (green) and against y (blue), and a label that numbers its pixels."""
    rows, columns = np.indices((height, width))
    image = np.stack([rows, columns, 255 - rows], axis=-1).astype(np.uint8)
    return image, (1000 * rows + columns).astype(np.int32)


def augmenter(config: DataConfig, dtype: tf.DType = tf.uint8):
    """`augment`, traced once for images of any size."""
    spec = (
        tf.TensorSpec([None, None, 3], dtype),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([2], tf.int64),
    )
    return tf.function(lambda image, label, seed: augment(image, label, seed, config, VOID), input_signature=spec)


class Drawn(NamedTuple):
    """What is drawn at a position of the run."""

    left_right: int
    up_down: int
    turns: int
    scale: int
    y: int
    x: int


@tf.function(input_signature=[tf.TensorSpec([2], tf.int64), *(tf.TensorSpec([], tf.int32) for _ in range(3))])
def draws(seed, scales, height_room, width_room):
    counts = {
        Draw.FLIP_LEFT_RIGHT: 2,
        Draw.FLIP_UP_DOWN: 2,
        Draw.ROTATION: 4,
        Draw.SCALE: scales,
        Draw.CROP_Y: height_room + 1,
        Draw.CROP_X: width_room + 1,
    }
    return [draw_integer(seed, draw, count) for draw, count in counts.items()]


def drawn_at(seed, scales: int, room=(0, 0)) -> Drawn:
    return Drawn(*(int(value) for value in draws(seed, scales, *room)))


def seeds_of_every_scale(scales: int) -> list[tf.Tensor]:
    """A seed for each scale, in their order."""
    found: dict[int, tf.Tensor] = {}
    for position in range(1000):
        seed = tf.constant([11, position], tf.int64)
        found.setdefault(drawn_at(seed, scales).scale, seed)
        if len(found) == scales:
            return [found[i] for i in range(scales)]
    raise AssertionError("some scale is never drawn")


# ---- the sampling grids, axis by axis: source coordinates of n pixels over m


def half_pixel(size: int, source: int) -> np.ndarray:
    return np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)


def align_corners(size: int, source: int) -> np.ndarray:
    return np.arange(size) * (source - 1) / max(size - 1, 1)


def top_left(size: int, source: int) -> np.ndarray:
    return np.minimum(np.arange(size) * source / size, source - 1)


def pixel_under(size: int, source: int) -> np.ndarray:
    """The source pixel that each pixel's centre lies in, without rounding errors."""
    return (2 * np.arange(size) + 1) * source // (2 * size)


def bilinear(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    image = image.astype(np.float64)
    for axis, at in enumerate((rows, columns)):
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, image.shape[axis] - 1)
        weight = np.expand_dims(at - low, tuple({0, 1, 2} - {axis}))
        image = np.take(image, low, axis) * (1 - weight) + np.take(image, high, axis) * weight
    return image


class Crop(NamedTuple):
    """The part of a crop that lies in the image: its pixels, and where they come from."""

    image: np.ndarray
    label: np.ndarray
    size: tuple[int, int]


def reference(image, label, seed, config: DataConfig, scales: list[float]) -> Crop:
    """What `augment` says that it does, for what was drawn."""
    settings, drawn = config.augmentation, drawn_at(seed, len(scales))
    if settings.flip_left_right and drawn.left_right:
        image, label = image[:, ::-1], label[:, ::-1]
    if settings.flip_up_down and drawn.up_down:
        image, label = image[::-1], label[::-1]
    if settings.rotate_90:
        image, label = np.rot90(image, drawn.turns), np.rot90(label, drawn.turns)
    source = label.shape
    size = source
    if config.longest_side is not None:
        size = [(2 * side * config.longest_side + max(source)) // (2 * max(source)) for side in source]
    size = [int(np.floor(side * scales[drawn.scale] + 0.5)) for side in size]
    inside = [min(side, crop) for side, crop in zip(size, config.crop_size, strict=True)]
    room = [side - crop for side, crop in zip(size, inside, strict=True)]
    drawn = drawn_at(seed, len(scales), room)
    window = [slice(first, first + count) for first, count in zip((drawn.y, drawn.x), inside, strict=True)]
    at = [half_pixel(*sides)[part] for sides, part in zip(zip(size, source, strict=True), window, strict=True)]
    under = [pixel_under(*sides)[part] for sides, part in zip(zip(size, source, strict=True), window, strict=True)]
    return Crop(bilinear(image, *at), label[np.ix_(*under)], tuple(inside))


def separation(image: np.ndarray, label: np.ndarray) -> float:
    """How far apart image and label are at most, in source pixels."""
    rows, columns = label // 1000, label % 1000
    return max(np.abs(image[..., 0] - rows).max(), np.abs(image[..., 1] - columns).max())


FLIPS = {"flip_left_right": True, "flip_up_down": True}
SETTINGS = [
    (CITYSCAPES, DataConfig(crop_size=(33, 49))),
    (CITYSCAPES, DataConfig(crop_size=(32, 48), augmentation=AugmentationConfig(**FLIPS))),
    (CITYSCAPES, DataConfig(crop_size=(33, 33), augmentation=AugmentationConfig(**FLIPS, rotate_90=True))),
    (CITYSCAPES, DataConfig(crop_size=(64, 32), longest_side=77)),
    (COCO, DataConfig(crop_size=(65, 65), longest_side=101, augmentation=AugmentationConfig(max_scale=1.5))),
    (
        COCO,
        DataConfig(
            crop_size=(48, 48),
            longest_side=76,
            augmentation=AugmentationConfig(max_scale=1.5, **FLIPS, rotate_90=True),
        ),
    ),
]


@pytest.mark.parametrize(("scales", "config"), SETTINGS)
def test_image_and_label_come_from_one_place_at_every_scale(scales, config):
    augmented = augmenter(config)
    for seed in seeds_of_every_scale(len(scales)):
        for size in SIZES:
            image, label = coordinates(*size)
            crop = augmented(image, label, seed)
            expected = reference(image, label, seed, config, scales)
            rows, columns = expected.size
            valid = np.zeros(config.crop_size, bool)
            valid[:rows, :columns] = True
            # The padding begins at one row and column.
            np.testing.assert_array_equal(crop.panoptic.numpy() != VOID, valid)
            np.testing.assert_array_equal(crop.image.numpy()[~valid], 127.5)
            image_inside, label_inside = crop.image.numpy()[:rows, :columns], crop.panoptic.numpy()[:rows, :columns]
            np.testing.assert_array_equal(label_inside, expected.label)
            np.testing.assert_allclose(image_inside, expected.image, atol=SLACK)
            assert separation(image_inside, label_inside) <= 0.5 + SLACK
            np.testing.assert_allclose(image_inside[..., 0] + image_inside[..., 2], 255, atol=SLACK)


# ---- what the checks above see. Larger than every scaled image, so that all of it is seen.
WHOLE = DataConfig(crop_size=(193, 193), augmentation=AugmentationConfig(flip_left_right=False))


def moved(grid: np.ndarray, pixels: int) -> np.ndarray:
    """A grid whose every pixel is that of a neighbour."""
    return grid[np.clip(np.arange(len(grid)) + pixels, 0, len(grid) - 1)]


OTHER_LABELS = {
    "a pixel before": lambda size, source: moved(pixel_under(size, source), -1),
    "a pixel after": lambda size, source: moved(pixel_under(size, source), 1),
    "a source pixel before": lambda size, source: np.maximum(pixel_under(size, source) - 1, 0),
    "a source pixel after": lambda size, source: np.minimum(pixel_under(size, source) + 1, source - 1),
    "aligned corners": lambda size, source: np.floor(align_corners(size, source) + 0.5).astype(int),
    "top left corners": lambda size, source: np.floor(top_left(size, source)).astype(int),
}
OTHER_IMAGES = {
    "a pixel before": lambda size, source: moved(half_pixel(size, source), -1),
    "a pixel after": lambda size, source: moved(half_pixel(size, source), 1),
    "aligned corners": align_corners,
    "top left corners": top_left,
}


@pytest.mark.parametrize("grid", OTHER_LABELS)
def test_a_label_on_another_grid_would_be_seen(grid):
    augmented = augmenter(WHOLE)
    image, label = coordinates(61, 90)
    for scale, seed in zip(CITYSCAPES, seeds_of_every_scale(16), strict=True):
        crop = augmented(image, label, seed)
        rows, columns = reference(image, label, seed, WHOLE, CITYSCAPES).size
        other = label[np.ix_(OTHER_LABELS[grid](rows, 61), OTHER_LABELS[grid](columns, 90))]
        is_same = np.array_equal(other, crop.panoptic.numpy()[:rows, :columns])
        apart = separation(crop.image.numpy()[:rows, :columns], other)
        if "corners" in grid:
            # These conventions take the same pixels at whole scales.
            assert is_same == (scale in (1.0, 2.0)), scale
        else:
            assert apart > 0.5 + 10 * SLACK and not is_same, scale


@pytest.mark.parametrize("grid", OTHER_IMAGES)
def test_an_image_on_another_grid_would_be_seen(grid):
    augmented = augmenter(WHOLE)
    image, label = coordinates(61, 90)
    for scale, seed in zip(CITYSCAPES, seeds_of_every_scale(16), strict=True):
        rows, columns = reference(image, label, seed, WHOLE, CITYSCAPES).size
        other = bilinear(image, OTHER_IMAGES[grid](rows, 61), OTHER_IMAGES[grid](columns, 90))
        difference = np.abs(augmented(image, label, seed).image.numpy()[:rows, :columns] - other).max()
        assert (difference > 10 * SLACK) == ("corners" not in grid or scale != 1), scale


# ---- structures of one pixel


def checkerboard(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    label = np.indices((height, width)).sum(axis=0) % 2
    return np.repeat(255 * label[..., None], 3, axis=2).astype(np.uint8), label.astype(np.int32)


@pytest.mark.parametrize("size", [(20, 31), (21, 30)])
def test_a_checkerboard_of_single_pixels_keeps_its_label_at_every_scale(size):
    """The pixel that a sampling point lies in has more than half of the weight: its colour always wins."""
    augmented = augmenter(WHOLE)
    image, label = checkerboard(*size)
    for seed in seeds_of_every_scale(16):
        crop = augmented(image, label, seed)
        valid = crop.panoptic.numpy() != VOID
        colour, wanted = crop.image.numpy()[valid][:, 0], crop.panoptic.numpy()[valid]
        is_between = np.abs(colour - 127.5) < SLACK
        np.testing.assert_array_equal((colour > 127.5)[~is_between], wanted[~is_between] == 1)


def test_whole_scales_repeat_every_pixel():
    scales = [1.0, 2.0, 3.0, 4.0]
    config = DataConfig(crop_size=(128, 129), augmentation=AugmentationConfig(1.0, 4.0, 1.0))
    augmented = augmenter(config)
    dot = np.zeros((31, 32, 3), np.uint8)
    dot[13, 18] = 255
    number = np.arange(31 * 32, dtype=np.int32).reshape(31, 32)
    for scale, seed in zip((1, 2, 3, 4), seeds_of_every_scale(4), strict=True):
        is_mirrored = drawn_at(seed, len(scales)).left_right
        image, label = (dot[:, ::-1], number[:, ::-1]) if is_mirrored else (dot, number)
        crop = augmented(dot, number, seed)
        repeated = label.repeat(scale, axis=0).repeat(scale, axis=1)
        np.testing.assert_array_equal(crop.panoptic[: 31 * scale, : 32 * scale], repeated)
        # The dot becomes a tent as wide as two pixels, with its top in the middle of where the label has the dot.
        row, column = np.argwhere(image[..., 0] == 255)[0]
        tents = [
            np.maximum(1 - np.abs((np.arange(scale * side) + 0.5) / scale - (at + 0.5)), 0)
            for side, at in ((31, row), (32, column))
        ]
        expected = 255 * np.outer(*tents)
        tolerance = SLACK if scale == 3 else 0
        np.testing.assert_allclose(crop.image[: 31 * scale, : 32 * scale, 0], expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("longest_side", [None, 2177])
def test_a_whole_street_image_at_every_scale(longest_side):
    """Ramps of 2048 columns, as the sampling sees them in float32."""
    config = DataConfig(crop_size=(513, 1025), longest_side=longest_side)
    rows, columns = np.indices((1024, 2048))
    image = np.stack([rows, columns, rows], axis=-1).astype(np.float32)
    label = (rows * 4096 + columns).astype(np.int32)
    augmented = augmenter(config, tf.float32)
    for seed in seeds_of_every_scale(16):
        crop = augmented(image, label, seed)
        valid = crop.panoptic.numpy() != VOID
        place = np.stack([crop.panoptic.numpy() // 4096, crop.panoptic.numpy() % 4096], axis=-1)
        assert valid.sum() == min(513, valid.any(axis=1).sum()) * min(1025, valid.any(axis=0).sum())
        assert np.abs(crop.image.numpy()[..., :2] - place)[valid].max() <= 0.5 + 2 * SLACK
