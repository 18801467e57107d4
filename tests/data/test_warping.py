"""Turned and bent crops: each pixel against a loop that looks it up, quarter turns, alignment, draws and targets."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, DataConfig, ElasticConfig, PhotometricConfig, TargetConfig
from deeplab2_lite.data.augment import augment
from deeplab2_lite.data.resampling import crop_resized
from deeplab2_lite.data.targets import make_targets
from deeplab2_lite.data.warping import Warp, crop_warped, draw_warp, is_warping
from deeplab2_lite.dataset_info import load_preset

VOID = 2**24 - 1
STILL = AugmentationConfig(min_scale=1.0, max_scale=1.0, scale_step=0.0, flip_left_right=False)
TURNED_AND_BENT = AugmentationConfig(max_rotation=180.0, elastic=ElasticConfig(spacing=16.0, magnitude=3.0))


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose colour says where a pixel lies, and a label that says the same."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, 255 - rows], axis=-1).astype(np.uint8), (1000 * rows + columns).astype(np.int32)


def noise(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(height * width)
    image = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return image, generator.integers(0, 1000, (height, width)).astype(np.int32)


def augment_many(config: DataConfig, image, panoptic, count: int, seed: int = 7):
    """Augments one image at `count` positions, in one graph."""
    image, panoptic = tf.constant(image), tf.constant(panoptic)
    dataset = tf.data.Dataset.range(count).map(
        lambda position: augment(image, panoptic, tf.stack([tf.constant(seed, tf.int64), position]), config, VOID)
    )
    return [(a.image.numpy(), a.panoptic.numpy()) for a in dataset]


def warped(image, label, size, origin, crop_size, angle: float, displacement=None):
    """What `crop_warped` gives, void and grey outside of the source."""
    warp = Warp(tf.constant(angle, tf.float64), None if displacement is None else tf.constant(displacement, tf.float32))
    tensors = (tf.constant(v) for v in (image, label, size, origin))
    crop = crop_warped(*tensors, crop_size, warp)
    inside = crop.is_inside.numpy()
    return np.where(inside[..., None], crop.image.numpy(), 127.5), np.where(inside, crop.panoptic.numpy(), VOID)


# ---- the loop


def bilinear_at(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """The mean of the four pixels round a point, whose middles lie at whole numbers and a half."""
    height, width, _ = image.shape
    y, x = y - 0.5, x - 0.5
    colour = np.zeros(3)
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            colour += weight * image[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return colour


def points_of(source, size, origin, crop_size, angle, displacement):
    """Where each pixel of the crop looks at in the source."""
    points = np.zeros((*crop_size, 2))
    for i in range(crop_size[0]):
        for j in range(crop_size[1]):
            down = i + 0.5 + displacement[0, i, j] - crop_size[0] / 2
            right = j + 0.5 + displacement[1, i, j] - crop_size[1] / 2
            y = np.cos(angle) * down + np.sin(angle) * right + crop_size[0] / 2
            x = np.cos(angle) * right - np.sin(angle) * down + crop_size[1] / 2
            points[i, j] = (origin[0] + y) * source[0] / size[0], (origin[1] + x) * source[1] / size[1]
    return points


@pytest.mark.parametrize("angle", [0.0, 0.3, -2.0, np.pi / 2])
@pytest.mark.parametrize("magnitude", [0.0, 2.0])
@pytest.mark.parametrize(
    ("source", "size", "origin", "crop_size"),
    [
        ((23, 31), (23, 31), (2, 5), (17, 17)),
        ((23, 31), (41, 55), (11, 20), (17, 25)),
        ((23, 31), (12, 16), (0, 0), (12, 16)),
        ((23, 31), (16, 22), (-5, -3), (25, 29)),
        ((1, 3), (2, 5), (-7, -6), (17, 17)),
    ],
)
def test_each_pixel_equals_the_loop(source, size, origin, crop_size, angle, magnitude):
    image, label = noise(*source)
    displacement = magnitude * np.random.default_rng(5).normal(size=(2, *crop_size))
    got_image, got_label = warped(image, label, size, origin, crop_size, angle, displacement if magnitude > 0 else None)
    points = points_of(source, size, origin, crop_size, angle, displacement)
    compared = 0
    for i in range(crop_size[0]):
        for j in range(crop_size[1]):
            y, x = points[i, j]
            # On the line between two pixels either is right.
            if min(abs(y - round(y)), abs(x - round(x))) < 1e-4:
                continue
            compared += 1
            is_inside = 0 <= y < source[0] and 0 <= x < source[1]
            assert got_label[i, j] == (label[int(y), int(x)] if is_inside else VOID)
            expected = bilinear_at(image, y, x) if is_inside else 127.5
            np.testing.assert_allclose(got_image[i, j], expected, atol=0.02)
    assert compared > 0.7 * crop_size[0] * crop_size[1]


# ---- quarter turns, and no turn


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("turns", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("size", [(41, 37), (59, 55), (29, 26)])
def test_quarter_turns_are_those_of_rot90(turns, side, size):
    image, label = noise(41, 37)
    origin = (7, 9)
    tensors = (tf.constant(v) for v in (image, label, size, origin, (side, side)))
    window, nearest = crop_resized(*tensors)
    got_image, got_label = warped(image, label, size, origin, (side, side), turns * np.pi / 2)
    np.testing.assert_allclose(got_image, np.rot90(window, turns), atol=0.02)
    np.testing.assert_array_equal(got_label, np.rot90(nearest, turns))


def test_the_middle_stays_where_it_is_and_the_turn_is_counter_clockwise():
    image, label = coordinates(33, 49)
    for angle in np.radians([-150, -30, 10, 90]):
        _, turned = warped(image, label, (33, 49), (0, 0), (33, 49), angle)
        assert turned[16, 24] == 1000 * 16 + 24
        # What lay to the right of the middle has gone up by the sine.
        y, x = 16 - 10 * np.sin(angle), 24 + 10 * np.cos(angle)
        found = turned[round(y), round(x)]
        assert abs(found // 1000 - 16) <= 1 and abs(found % 1000 - 34) <= 1


# ---- in augmentation


def test_off_by_default():
    assert not is_warping(AugmentationConfig())
    assert is_warping(AugmentationConfig(max_rotation=1.0))
    assert is_warping(AugmentationConfig(elastic=ElasticConfig(magnitude=1.0)))


def test_other_draws_stay_as_they_are():
    """Turned by next to nothing, a crop inside of the image is the one that is not turned."""
    image, label = noise(131, 145)
    plain = DataConfig(crop_size=(33, 49), augmentation=AugmentationConfig(flip_up_down=True))
    turned = dataclasses.replace(plain, augmentation=dataclasses.replace(plain.augmentation, max_rotation=1e-9))
    for (a, a_label), (b, b_label) in zip(
        augment_many(plain, image, label, 20), augment_many(turned, image, label, 20), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=0.05)
        # At some scales a row lies on the line between two pixels, where rounding decides.
        assert (a_label == b_label).mean() > 0.9


@pytest.mark.parametrize("crop_size", [(65, 65), (33, 81)])
def test_image_and_label_stay_aligned(crop_size):
    """The colour at a pixel is within half a pixel of the place that its label came from, whatever was drawn."""
    image, label = coordinates(60, 90)
    everything = dataclasses.replace(TURNED_AND_BENT, flip_up_down=True, rotate_90=crop_size[0] == crop_size[1])
    config = DataConfig(crop_size=crop_size, longest_side=100, augmentation=everything)
    ids = set(label.ravel().tolist()) | {VOID}
    voids = []
    for crop, crop_label in augment_many(config, image, label, 60):
        valid = crop_label != VOID
        voids.append(1 - valid.mean())
        place = np.stack([crop_label // 1000, crop_label % 1000], axis=-1)
        assert valid.any() and set(crop_label.ravel().tolist()) <= ids
        assert np.abs(crop[..., :2] - place)[valid].max() <= 0.5 + 2e-3
        np.testing.assert_allclose((crop[..., 0] + crop[..., 2])[valid], 255, atol=2e-3)
        np.testing.assert_array_equal(crop[~valid], 127.5)
    assert min(voids) < 0.1 and max(voids) > 0.3


def test_a_smaller_image_lies_in_the_middle_and_is_turned_as_a_whole():
    image, label = coordinates(20, 24)
    config = DataConfig(crop_size=(65, 65), augmentation=dataclasses.replace(STILL, max_rotation=180.0))
    for _, crop_label in augment_many(config, image, label, 12):
        rows, columns = np.nonzero(crop_label != VOID)
        assert abs(rows.mean() - 32) < 1 and abs(columns.mean() - 32) < 1
        assert abs(len(rows) - 20 * 24) < 25
        assert len(set(crop_label.ravel().tolist())) > 0.8 * 20 * 24


def test_colours_are_those_of_the_image_without_what_is_outside():
    """Contrast pulls towards the mean: of an image of one colour nothing changes, however much lies outside."""
    image, label = np.full((20, 20, 3), 40, np.uint8), np.zeros((20, 20), np.int32)
    augmentation = dataclasses.replace(STILL, max_rotation=180.0, photometric=PhotometricConfig(contrast=0.9))
    for crop, crop_label in augment_many(DataConfig(crop_size=(65, 65), augmentation=augmentation), image, label, 8):
        np.testing.assert_allclose(crop[crop_label != VOID], 40, atol=1e-3)
        np.testing.assert_array_equal(crop[crop_label == VOID], 127.5)


def test_angles_fill_their_interval():
    config = AugmentationConfig(max_rotation=30.0)
    drawn = tf.data.Dataset.range(400).map(
        lambda position: draw_warp(tf.stack([tf.constant(7, tf.int64), position]), config, (17, 17)).angle
    )
    degrees = np.degrees([angle.numpy() for angle in drawn])
    assert -30 <= degrees.min() < -28 and 28 < degrees.max() < 30
    counts, _ = np.histogram(degrees, bins=6, range=(-30, 30))
    assert counts.min() > 40
    assert draw_warp(tf.constant([7, 0], tf.int64), config, (17, 17)).displacement is None


def test_shape_and_type_are_static():
    spec = (
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([2], tf.int64),
    )
    augmentation = dataclasses.replace(TURNED_AND_BENT, rotate_90=True, photometric=PhotometricConfig(brightness=0.1))
    config = DataConfig(crop_size=(33, 33), augmentation=augmentation)
    traced = tf.function(lambda i, p, s: augment(i, p, s, config, VOID), input_signature=spec).get_concrete_function()
    image, panoptic = traced.structured_outputs
    assert image.shape == [33, 33, 3] and image.dtype == tf.float32
    assert panoptic.shape == [33, 33] and panoptic.dtype == tf.int32


def test_targets_are_those_of_what_is_visible():
    info = load_preset("cityscapes")
    instance = info.thing_ids[0] * info.label_divisor + 1
    label = np.zeros((60, 60), np.int32)
    label[20:40, 20:44] = instance
    void = info.ignore_label * info.label_divisor
    config = DataConfig(crop_size=(49, 49), augmentation=dataclasses.replace(TURNED_AND_BENT, max_scale=1.0))
    for position in range(5):
        seed = tf.constant([7, position], tf.int64)
        crop = augment(tf.zeros([60, 60, 3], tf.uint8), tf.constant(label), seed, config, void).panoptic
        targets = make_targets(crop, info, TargetConfig())
        rows, columns = np.nonzero(crop.numpy() == instance)
        center = np.array([rows.mean(), columns.mean()])
        np.testing.assert_allclose(
            targets.center_offset.numpy()[rows, columns], center - np.stack([rows, columns], -1), atol=1e-3
        )
        peak = np.unravel_index(targets.center_heatmap.numpy().argmax(), (49, 49))
        assert np.abs(np.array(peak) - center).max() <= 0.5 + 1e-3
        np.testing.assert_array_equal(targets.semantic_weight.numpy() == 0, crop.numpy() == void)
        np.testing.assert_array_equal(targets.offset_weight.numpy() == 1, crop.numpy() == instance)
