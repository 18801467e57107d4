"""Colour operations against Pillow's."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from deeplab2_lite.data import color_operations as operations

SIZES = [(1, 1), (1, 9), (9, 1), (2, 2), (2, 7), (3, 3), (5, 4), (17, 16), (40, 57)]
RAMP = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (3, 256, 3))


@st.composite
def images(draw) -> np.ndarray:
    """Images of one grey, one colour, few levels, a narrow range, few dark pixels, or noise."""
    height, width = draw(st.sampled_from(SIZES))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["grey", "colour", "two", "few", "narrow", "rare", "noise"]))
    shape = (height, width, 3)
    if kind == "grey":
        values = np.full(shape, generator.integers(0, 256))
    elif kind == "colour":
        values = np.broadcast_to(generator.integers(0, 256, 3), shape)
    elif kind in ("two", "few"):
        levels = generator.integers(0, 256, 2 if kind == "two" else 5)
        values = levels[generator.integers(0, len(levels), shape)]
    elif kind == "narrow":
        low = int(generator.integers(0, 250))
        values = generator.integers(low, low + 6, shape)
    elif kind == "rare":
        values = np.where(generator.random(shape) < 0.1, generator.integers(0, 256, shape), 255)
    else:
        values = generator.integers(0, 256, shape)
    return values.astype(np.uint8)


def computed(function, image, *arguments):
    levels = tf.constant(image.astype(np.float32))
    result = function(levels, *(tf.constant(a, tf.float32) for a in arguments))
    assert result.dtype == tf.float32 and result.shape == image.shape
    assert tf.reduce_min(result) >= 0 and tf.reduce_max(result) <= 255
    return result.numpy()


def of_pillow(function, image, *arguments):
    return np.asarray(function(Image.fromarray(image), *arguments)).astype(np.float32)


@given(images())
@example(RAMP)
@example(np.zeros((1, 1, 3), np.uint8))
def test_equalize_is_pillows(image):
    np.testing.assert_array_equal(computed(operations.equalize, image), of_pillow(ImageOps.equalize, image))


@given(images())
@example(RAMP)
def test_auto_contrast_is_pillows_before_it_truncates(image):
    result = computed(operations.auto_contrast, image)
    expected = of_pillow(ImageOps.autocontrast, image)
    assert np.abs(result - expected).max() <= 1 + 1e-3
    for channel in range(3):
        values, stretched = image[..., channel], result[..., channel]
        if np.ptp(values):
            assert stretched.min() == 0 and stretched.max() == pytest.approx(255, abs=1e-4)
        else:
            np.testing.assert_array_equal(stretched, values)


@given(images(), st.integers(1, 8), st.integers(0, 256))
@example(RAMP, 1, 128)
def test_steps_are_pillows(image, bits, threshold):
    np.testing.assert_array_equal(computed(operations.invert, image), of_pillow(ImageOps.invert, image))
    np.testing.assert_array_equal(
        computed(operations.posterize, image, bits), of_pillow(ImageOps.posterize, image, bits)
    )
    expected = of_pillow(ImageOps.solarize, image, threshold)
    np.testing.assert_array_equal(computed(operations.solarize, image, threshold), expected)


ENHANCEMENTS = [
    (operations.color, ImageEnhance.Color),
    (operations.contrast, ImageEnhance.Contrast),
    (operations.brightness, ImageEnhance.Brightness),
    (operations.sharpness, ImageEnhance.Sharpness),
]


@pytest.mark.parametrize(("function", "enhancement"), ENHANCEMENTS)
@given(images(), st.sampled_from([0.0, 0.1, 0.352, 0.5, 0.82, 1.0, 1.36, 1.9]))
@example(RAMP, 1.9)
def test_enhancements_are_pillows_before_it_truncates(function, enhancement, image, factor):
    result = computed(function, image, factor)
    expected = of_pillow(lambda picture: enhancement(picture).enhance(factor), image)
    difference = result - expected
    assert difference.min() >= -1e-3 and difference.max() <= 1 + 1e-3
    if factor in (0.0, 1.0):
        np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize(("brighter", "mean"), [(501**2 // 2, 254), (501**2 // 2 + 1, 255)])
def test_the_mean_of_a_large_image_is_exact(brighter, mean):
    """In float32, a mean this near to a half would be the half."""
    values = np.where(np.arange(501**2) < brighter, 255, 254).astype(np.uint8)
    image = np.repeat(values.reshape(501, 501, 1), 3, axis=2)
    np.testing.assert_array_equal(computed(operations.contrast, image, 0.0), mean)
    np.testing.assert_array_equal(of_pillow(lambda i: ImageEnhance.Contrast(i).enhance(0.0), image), mean)
