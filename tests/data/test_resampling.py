"""Windows of resized images: to the bit what TensorFlow's own operation gives for both axes at once."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.data.resampling import crop_resized


@st.composite
def windows(draw):
    """Sizes of an image, of the image resized, and a window in it."""
    source, size = (draw(st.tuples(st.integers(1, 40), st.integers(1, 40))) for _ in range(2))
    origin = tuple(draw(st.integers(0, side - 1)) for side in size)
    crop = tuple(draw(st.integers(1, side - first)) for side, first in zip(size, origin, strict=True))
    return source, size, origin, crop


def resized_at_once(image, size, origin, crop):
    return tf.raw_ops.ScaleAndTranslate(
        images=image[np.newaxis],
        size=crop,
        scale=tf.constant(np.divide(size, image.shape[:2]), tf.float32),
        translation=-tf.constant(origin, tf.float32),
        kernel_type="triangle",
        antialias=False,
    )[0]


def check(image, panoptic, size, origin, crop):
    window, label = crop_resized(*map(tf.constant, (image, panoptic, size, origin, crop)))
    assert window.dtype == tf.float32 and label.dtype == tf.int32
    np.testing.assert_array_equal(window, resized_at_once(image, size, origin, crop))
    rows, columns = (
        ((2 * (first + np.arange(count)) + 1) * source) // (2 * side)
        for source, side, first, count in zip(panoptic.shape, size, origin, crop, strict=True)
    )
    np.testing.assert_array_equal(label, panoptic[np.ix_(rows, columns)])


@given(windows())
def test_windows_of_small_images(window):
    source, *rest = window
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*source, 3)).astype(np.uint8)
    check(image, generator.integers(0, 2**24, source).astype(np.int32), *rest)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("scale", [0.5, 0.7, 1.0, 1.3, 2.0])
def test_windows_of_photographs(dtype, scale):
    generator = np.random.default_rng(1)
    source = (301, 640)
    image = generator.integers(0, 256, (*source, 3)).astype(dtype)
    size = [round(side * scale) for side in source]
    crop = [min(side, most) for side, most in zip(size, (257, 513), strict=True)]
    origin = [(side - window) // 3 for side, window in zip(size, crop, strict=True)]
    check(image, generator.integers(0, 2**24, source).astype(np.int32), size, origin, crop)
