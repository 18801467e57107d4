"""Augmentation: alignment of image and label, distribution of the draws, determinism."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, DataConfig, ElasticConfig, PhotometricConfig
from deeplab2_lite.data.augment import augment
from deeplab2_lite.data.resampling import crop_resized
from deeplab2_lite.preprocessing import longest_side_size

VOID = 255000
STILL = AugmentationConfig(min_scale=1.0, max_scale=1.0, scale_step=0.0, flip_left_right=False)


def coordinate_image(height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """An image whose colour says where a pixel lies, and a label that says the same."""
    rows, columns = np.indices((height, width))
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    return tf.constant(image), tf.constant(rows * 1000 + columns, tf.int32)


def augment_many(config: DataConfig, image, panoptic, count: int, seed: int = 7):
    """Augments one image at `count` positions, in one graph."""
    dataset = tf.data.Dataset.range(count).map(
        lambda position: augment(image, panoptic, tf.stack([tf.constant(seed, tf.int64), position]), config, VOID)
    )
    return [(a.image.numpy(), a.panoptic.numpy()) for a in dataset]


@pytest.mark.parametrize("size", [(23, 31), (47, 63), (35, 90), (70, 93), (7, 9)])
def test_whole_window_equals_resize(size):
    generator = np.random.default_rng(0)
    image = tf.constant(generator.integers(0, 256, (47, 63, 3)), tf.uint8)
    label = tf.constant(generator.integers(0, 1000, (47, 63)), tf.int32)
    window, nearest = crop_resized(image, label, tf.constant(size), tf.constant([0, 0]), tf.constant(size))
    np.testing.assert_allclose(window, tf.image.resize(image, size), atol=1e-3)
    np.testing.assert_array_equal(nearest, tf.image.resize(label[..., None], size, method="nearest")[..., 0])


def test_window_equals_slice_of_whole():
    generator = np.random.default_rng(1)
    image = tf.constant(generator.integers(0, 256, (47, 63, 3)), tf.uint8)
    label = tf.constant(generator.integers(0, 1000, (47, 63)), tf.int32)
    size, whole = tf.constant([81, 75]), tf.constant([0, 0])
    image_whole, label_whole = crop_resized(image, label, size, whole, size)
    window, nearest = crop_resized(image, label, size, tf.constant([13, 40]), tf.constant([33, 35]))
    np.testing.assert_allclose(window, image_whole[13:46, 40:75], atol=2e-3)
    np.testing.assert_array_equal(nearest, label_whole[13:46, 40:75])


def test_same_size_copies_every_pixel():
    generator = np.random.default_rng(2)
    image = generator.integers(0, 256, (33, 49, 3)).astype(np.uint8)
    label = generator.integers(0, 1000, (33, 49)).astype(np.int32)
    config = DataConfig(crop_size=(33, 49), augmentation=STILL)
    ((crop, crop_label),) = augment_many(config, tf.constant(image), tf.constant(label), 1)
    np.testing.assert_array_equal(crop, image)
    np.testing.assert_array_equal(crop_label, label)


def test_image_and_label_stay_aligned():
    """Whatever was drawn, the colour at a pixel is within half a pixel of the place that its label came from."""
    image, label = coordinate_image(60, 90)
    everything = AugmentationConfig(0.5, 2.0, 0.1, flip_left_right=True, flip_up_down=True, rotate_90=True)
    config = DataConfig(crop_size=(65, 65), longest_side=100, augmentation=everything)
    for crop, crop_label in augment_many(config, image, label, 60):
        valid = crop_label != VOID
        place = np.stack([crop_label // 1000, crop_label % 1000], axis=-1)
        assert valid.any()
        assert np.abs(crop[..., :2] - place)[valid].max() <= 0.5 + 1e-3
        np.testing.assert_array_equal(crop[~valid], 127.5)


def test_padding_is_at_the_bottom_and_right_even_after_a_flip():
    image, label = coordinate_image(20, 30)
    config = DataConfig(
        crop_size=(33, 33), augmentation=dataclasses.replace(STILL, flip_left_right=True, flip_up_down=True)
    )
    for crop, crop_label in augment_many(config, image, label, 8):
        assert (crop_label[:20, :30] != VOID).all()
        assert (crop_label[20:] == VOID).all() and (crop_label[:, 30:] == VOID).all()
        assert (crop[20:] == 127.5).all() and (crop[:, 30:] == 127.5).all()


def test_flips_and_turns_all_occur_equally_often():
    image, label = coordinate_image(17, 17)
    augmentation = dataclasses.replace(STILL, flip_left_right=True, flip_up_down=True, rotate_90=True)
    config = DataConfig(crop_size=(17, 17), augmentation=augmentation)
    turned = [np.rot90(label, k) for k in range(4)]
    variants = [v for t in turned for v in (t, t[:, ::-1])]
    counts = np.zeros(len(variants), int)
    for _, crop_label in augment_many(config, image, label, 400):
        counts += [np.array_equal(crop_label, v) for v in variants]
    assert counts.sum() == 400 and counts.min() > 25, counts


def test_every_scale_and_place_occurs():
    image, label = coordinate_image(10, 10)
    config = DataConfig(
        crop_size=(17, 17),
        augmentation=AugmentationConfig(0.5, 1.5, 0.1, flip_left_right=False),
    )
    sizes = [int((crop_label[:, 0] != VOID).sum()) for _, crop_label in augment_many(config, image, label, 300)]
    # 10 pixels by 0.5, 0.6, ..., 1.5.
    assert sorted(set(sizes)) == list(range(5, 16))
    assert min(np.bincount(sizes)[5:]) > 10

    image, label = coordinate_image(20, 18)
    corners = [
        tuple(divmod(int(c[0, 0]), 1000))
        for _, c in augment_many(DataConfig(crop_size=(17, 17), augmentation=STILL), image, label, 300)
    ]
    assert set(corners) == {(y, x) for y in range(4) for x in range(2)}
    assert min(corners.count(place) for place in set(corners)) > 15


def test_uniform_scales_fill_the_interval():
    image, label = coordinate_image(100, 10)
    config = DataConfig(crop_size=(257, 33), augmentation=AugmentationConfig(0.5, 2.0, 0.0, flip_left_right=False))
    heights = np.array([(c[:, 0] != VOID).sum() for _, c in augment_many(config, image, label, 200)])
    assert heights.min() >= 50 and heights.max() <= 200 and len(np.unique(heights)) > 80
    assert abs(heights.mean() - 125) < 12


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 200), (51, 101)), ((200, 100), (101, 51)), ((3, 1000), (1, 101)), ((50, 50), (101, 101))],
)
def test_longest_side(size, expected):
    assert tuple(longest_side_size(tf.constant(size), 101).numpy()) == expected
    image, label = (
        coordinate_image(*size) if max(size) <= 255 else (tf.zeros([*size, 3], tf.uint8), tf.zeros(size, tf.int32))
    )
    config = DataConfig(crop_size=(129, 129), longest_side=101, augmentation=STILL)
    ((_, crop_label),) = augment_many(config, image, label, 1)
    valid = crop_label != VOID
    assert (valid[:, 0].sum(), valid[0].sum()) == expected


JITTER = PhotometricConfig(brightness=0.2, contrast=0.3, saturation=0.4, hue=0.1)


@pytest.mark.parametrize(
    ("augmentation", "tolerance"),
    [
        (AugmentationConfig(photometric=JITTER), 1e-4),
        (AugmentationConfig(max_rotation=180.0, elastic=ElasticConfig(spacing=16.0, magnitude=3.0)), 1e-3),
    ],
    ids=["jitter", "turns and bends"],
)
def test_draws_follow_seed_and_position_alone(augmentation, tolerance):
    generator = np.random.default_rng(3)
    image = tf.constant(generator.integers(0, 256, (40, 50, 3)), tf.uint8)
    label = tf.constant(generator.integers(0, 1000, (40, 50)), tf.int32)
    config = DataConfig(crop_size=(33, 33), augmentation=augmentation)
    first, again, other = (augment_many(config, image, label, 12, seed) for seed in (7, 7, 8))
    for (a, a_label), (b, b_label) in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a_label, b_label)
    crops = [a.tobytes() for a, _ in first + other]
    assert len(set(crops)) == len(crops)
    # By itself, position 5 looks as it does in the run.
    alone = augment(image, label, tf.constant([7, 5], tf.int64), config, VOID)
    np.testing.assert_allclose(alone.image, first[5][0], atol=tolerance)
    np.testing.assert_array_equal(alone.panoptic, first[5][1])


def test_jitter_changes_colours_alone_and_keeps_the_range():
    generator = np.random.default_rng(4)
    image = tf.constant(generator.integers(0, 256, (20, 20, 3)), tf.uint8)
    label = tf.constant(generator.integers(0, 1000, (20, 20)), tf.int32)
    plain = DataConfig(crop_size=(33, 33), augmentation=AugmentationConfig())
    jittered = dataclasses.replace(plain, augmentation=AugmentationConfig(photometric=JITTER))
    for (a, a_label), (b, b_label) in zip(
        augment_many(plain, image, label, 10), augment_many(jittered, image, label, 10), strict=True
    ):
        np.testing.assert_array_equal(a_label, b_label)
        valid = a_label != VOID
        assert np.abs(a - b)[valid].mean() > 1
        assert b.min() >= 0 and b.max() <= 255
        np.testing.assert_array_equal(b[~valid], 127.5)


def test_brightness_adds_a_fraction_of_the_range():
    image, label = tf.fill([17, 17, 3], tf.constant(100, tf.uint8)), tf.zeros([17, 17], tf.int32)
    augmentation = dataclasses.replace(STILL, photometric=PhotometricConfig(brightness=0.1))
    crops = augment_many(DataConfig(crop_size=(17, 17), augmentation=augmentation), image, label, 100)
    shifts = np.array([crop[0, 0, 0] - 100 for crop, _ in crops])
    assert all(np.ptp(crop) < 1e-4 for crop, _ in crops)
    assert shifts.min() > -25.6 and shifts.max() < 25.6 and shifts.min() < -20 and shifts.max() > 20


def test_shape_and_type_are_static():
    spec = (
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([2], tf.int64),
    )
    augmentation = AugmentationConfig(flip_up_down=True, rotate_90=True, photometric=JITTER)
    config = DataConfig(crop_size=(33, 33), augmentation=augmentation)
    traced = tf.function(lambda i, p, s: augment(i, p, s, config, VOID), input_signature=spec).get_concrete_function()
    image, panoptic = traced.structured_outputs
    assert image.shape == [33, 33, 3] and image.dtype == tf.float32
    assert panoptic.shape == [33, 33] and panoptic.dtype == tf.int32
