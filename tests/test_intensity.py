"""Stretched intensities: equal to NumPy's percentiles, and the same in training, evaluation, tiles and exports."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.config import AugmentationConfig, DataConfig
from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.data.augment import augment
from deeplab2_lite.inference import InferenceSettings, infer
from deeplab2_lite.intensity import stretch_intensity
from deeplab2_lite.model import build_model
from deeplab2_lite.predictor import Predictor
from deeplab2_lite.tiling import Tiling

PERCENTILES = (1.0, 99.8)


def reference(image: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """One image by the definition; percentiles by NumPy."""
    levels = np.clip(np.rint(image.astype(np.float64)), 0, 255)
    low, high = (int(np.percentile(levels, p, method="inverted_cdf")) for p in percentiles)
    stretched = np.floor((levels - low) * 255 / max(high - low, 1) + 0.5)
    return np.clip(stretched, 0, 255).astype(image.dtype)


def draw(shape: tuple[int, ...], darkest: int = 3, brightest: int = 90, seed: int = 0) -> np.ndarray:
    """Dark images, with few bright values."""
    values = np.random.default_rng(seed).random(shape) ** 3
    return (darkest + values * (brightest - darkest)).astype(np.uint8)


@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    levels=st.tuples(st.integers(0, 255), st.integers(0, 255)).map(sorted),
    percentiles=st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted).filter(lambda p: p[0] < p[1]),
    seed=st.integers(0, 100),
)
def test_equals_numpy(size, levels, percentiles, seed):
    images = draw((*size, 3), *levels, seed)
    stretched = stretch_intensity(tf.constant(images), tuple(percentiles)).numpy()
    assert stretched.dtype == np.uint8
    for image, found in zip(images, stretched, strict=True):
        np.testing.assert_array_equal(found, reference(image, percentiles))


@pytest.mark.parametrize("height", [255, 256, 257, 600])
def test_rows_are_counted_once_however_many_there_are(height):
    """The work is done so many rows at a time; the last rows must not count twice."""
    images = np.zeros((2, height, 5, 3), np.uint8)
    images[0, -1] = 200
    images[1, 0] = 100
    # Just below and just above the share of the one bright row.
    share = 100 * (height - 1) / height
    for percentile, brightest in ((share - 1e-3, [0, 0]), (share + 1e-3, [200, 100])):
        stretched = stretch_intensity(tf.constant(images), (0.0, percentile)).numpy()
        for i in (0, 1):
            np.testing.assert_array_equal(stretched[i], reference(images[i], (0.0, percentile)))
            assert np.percentile(images[i], percentile, method="inverted_cdf") == brightest[i]


def test_floating_point_is_rounded_and_compiled_by_xla():
    images = draw((2, 30, 41, 3)).astype(np.float32) + np.float32(0.3)
    expected = np.stack([reference(image, PERCENTILES) for image in images])
    run = tf.function(lambda x: stretch_intensity(x, PERCENTILES), jit_compile=True)
    for found in (stretch_intensity(tf.constant(images), PERCENTILES), run(tf.constant(images))):
        assert found.dtype == tf.float32
        np.testing.assert_array_equal(found, expected)


def test_padding_of_a_batch_of_fixed_size_does_not_count():
    images = draw((2, 50, 60, 3))
    sizes = np.array([[31, 60], [50, 17]], np.int32)
    for image, (height, width) in zip(images, sizes, strict=True):
        image[height:] = 255
        image[:, width:] = 255
    stretched = stretch_intensity(tf.constant(images), PERCENTILES, tf.constant(sizes)).numpy()
    for image, found, (height, width) in zip(images, stretched, sizes, strict=True):
        np.testing.assert_array_equal(found[:height, :width], reference(image[:height, :width], PERCENTILES))


def test_training_sees_the_whole_image_stretched():
    image = draw((80, 90, 3))
    image[70:, 80:] = 250  # a bright corner that most crops do not hold
    still = AugmentationConfig(min_scale=1.0, max_scale=1.0, flip_left_right=False)
    config = DataConfig(crop_size=(33, 33), augmentation=still, intensity_percentiles=PERCENTILES)
    rows, columns = np.indices((80, 90))
    places = tf.constant(rows * 1000 + columns, tf.int32)
    expected = reference(image, PERCENTILES)
    for position in range(5):
        crop = augment(tf.constant(image), places, tf.constant([3, position], tf.int64), config, 255000)
        place = crop.panoptic.numpy()
        np.testing.assert_array_equal(crop.image.numpy(), expected[place // 1000, place % 1000])


def centers_of_the_brightest(images: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
    """A network that sees a thing where an image is bright, and centres where it is brightest."""
    seen = images[:, ::4, ::4]
    return {
        "semantic_logits": tf.concat([128 - seen[..., :1], seen[..., :1] - 128], -1),
        "center_heatmap": seen[..., 1:2] / 255,
        "center_offset": tf.zeros_like(seen[..., :2]),
    }


SETTINGS = InferenceSettings(16, None, (1,), 100, 255, 0, 0.5, 7, 50)


@pytest.mark.parametrize("tiling", [None, Tiling(33, 49, 17)])
def test_inference_sees_stretched_images_in_tiles_too(tiling):
    images = draw((2, 70, 90, 3))
    images[0, 20:40, 30:50] = 80
    settings = SETTINGS._replace(tiling=tiling)
    stretched = np.stack([reference(image, PERCENTILES) for image in images])
    expected = infer(centers_of_the_brightest, tf.constant(stretched), settings).result
    found = infer(
        centers_of_the_brightest, tf.constant(images), settings._replace(intensity_percentiles=PERCENTILES)
    ).result
    plain = infer(centers_of_the_brightest, tf.constant(images), settings).result
    assert expected.instances.valid.numpy().any()
    assert (plain.panoptic.numpy() != expected.panoptic.numpy()).any()
    np.testing.assert_array_equal(found.panoptic, expected.panoptic)


def test_a_fixed_size_gives_what_each_image_gives_alone():
    image = draw((1, 40, 52, 3))
    settings = SETTINGS._replace(intensity_percentiles=PERCENTILES)
    alone = infer(centers_of_the_brightest, tf.constant(image), settings).result.panoptic.numpy()
    padded = np.pad(image, [[0, 0], [0, 25], [0, 13], [0, 0]])
    fixed = infer(centers_of_the_brightest, tf.constant(padded), settings, tf.constant([[40, 52]])).result.panoptic
    np.testing.assert_array_equal(fixed[:, :40, :52], alone)


def test_the_configuration_reaches_the_predictor():
    config = load_config("shapes/mobilenet_v3_small", "data.intensity_percentiles=[1,99.8]")
    assert InferenceSettings.from_config(config, resolve_dataset_info(config)).intensity_percentiles == PERCENTILES
    network = build_model(config)
    image = draw((60, 75, 3))
    plain = dataclasses.replace(config, data=dataclasses.replace(config.data, intensity_percentiles=None))
    overrides = {"postprocessing": dataclasses.replace(config.postprocessing, center_threshold=-1.0)}
    found = Predictor(network, dataclasses.replace(config, **overrides))(image)
    expected = Predictor(network, dataclasses.replace(plain, **overrides))(reference(image, PERCENTILES))
    np.testing.assert_array_equal(found.panoptic, expected.panoptic)
