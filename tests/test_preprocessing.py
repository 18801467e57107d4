"""Images of any size become the network's input: where padding goes, what is in it, and which size comes out."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.preprocessing import grey_outside, longest_side_size, pad_to_stride, resize_longest_side


def padded_side(side, stride):
    """The smallest k * stride + 1 that holds a side, by trying."""
    size = 1
    while size < side:
        size += stride
    return size


def images_of(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def assert_padded(padded, images, stride):
    batch, height, width, _ = images.shape
    assert padded.shape == (batch, padded_side(height, stride), padded_side(width, stride), 3)
    assert padded.dtype == tf.float32
    np.testing.assert_array_equal(padded[:, :height, :width], images)
    outside = np.ones(padded.shape[1:3], bool)
    outside[:height, :width] = False
    np.testing.assert_array_equal(padded.numpy()[:, outside], 127.5)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(1, 1), (2, 33), (17, 16), (18, 64), (65, 97)])
def test_static_padding(size, stride):
    images = images_of(2, *size, 3)
    assert_padded(pad_to_stride(tf.constant(images), stride), images, stride)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_what_fits_is_left_as_it_is(stride):
    images = images_of(1, 2 * stride + 1, stride + 1, 3)
    np.testing.assert_array_equal(pad_to_stride(tf.constant(images), stride), images)


def test_static_shapes_stay_static():
    graph = tf.function(lambda images: pad_to_stride(images, 16))
    concrete = graph.get_concrete_function(tf.TensorSpec([None, 30, 40, 3]))
    assert concrete.structured_outputs.shape.as_list() == [None, 33, 49, 3]


@tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
def pad_dynamic(images):
    return pad_to_stride(images, 16)


@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_dynamic_padding_is_the_same(height, width):
    images = images_of(1, height, width, 3)
    padded = pad_dynamic(images)
    assert_padded(padded, images, 16)
    np.testing.assert_array_equal(padded, pad_to_stride(tf.constant(images), 16))


# ---- resizing by the longer side


def expected_size(size, longest_side):
    # Half up, in exact fractions.
    return [max(1, int(Fraction(side * longest_side, max(size)) + Fraction(1, 2))) for side in size]


@given(size=st.tuples(st.integers(1, 30000), st.integers(1, 30000)), longest_side=st.integers(1, 10000))
def test_the_longer_side_has_so_many_pixels(size, longest_side):
    actual = longest_side_size(tf.constant(size, tf.int32), longest_side)
    assert actual.dtype == tf.int32
    assert actual.numpy().tolist() == expected_size(size, longest_side)
    assert max(actual.numpy()) == longest_side


@pytest.mark.parametrize(
    ("size", "longest_side", "expected"),
    [
        ((480, 640), 1025, [769, 1025]),
        ((2448, 3264), 2177, [1633, 2177]),
        # A half goes up.
        ((4, 3), 2, [2, 2]),
        ((3, 2), 9, [9, 6]),
        # No side vanishes.
        ((1, 2000), 10, [1, 10]),
        ((30, 20), 30, [30, 20]),
    ],
)
def test_sizes(size, longest_side, expected):
    assert longest_side_size(tf.constant(size), longest_side).numpy().tolist() == expected


def test_none_keeps_size_and_values():
    assert longest_side_size(tf.constant([3, 5]), None).numpy().tolist() == [3, 5]
    images = np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3)
    kept = resize_longest_side(tf.constant(images), None)
    assert kept.dtype == tf.float32
    np.testing.assert_array_equal(kept, images)


def bilinear(image, height, width):
    """Pixel by pixel: sample where the output pixel's middle lies, the border repeated."""
    old_height, old_width, _ = image.shape
    result = np.zeros((height, width, 3))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * old_height / height - 0.5, 0), old_height - 1)
            x = min(max((j + 0.5) * old_width / width - 0.5, 0), old_width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, old_height - 1), min(left + 1, old_width - 1)
            for row, weight_y in ((top, 1 - (y - top)), (bottom, y - top)):
                for column, weight_x in ((left, 1 - (x - left)), (right, x - left)):
                    result[i, j] += weight_y * weight_x * image[row, column]
    return result


@pytest.mark.parametrize("longest_side", [4, 9, 20])
def test_resized_images_are_bilinear_without_antialiasing(longest_side):
    images = np.random.default_rng(1).integers(0, 256, (2, 6, 9, 3), np.uint8)
    resized = resize_longest_side(tf.constant(images), longest_side)
    assert resized.dtype == tf.float32
    height, width = expected_size((6, 9), longest_side)
    expected = [bilinear(image.astype(float), height, width) for image in images]
    np.testing.assert_allclose(resized, expected, rtol=1e-5, atol=1e-3)


# ---- batches of a fixed size


def test_grey_outside():
    images = images_of(3, 5, 7, 3)
    sizes = [[5, 7], [2, 7], [4, 1]]
    greyed = grey_outside(tf.constant(images), tf.constant(sizes)).numpy()
    assert greyed.dtype == np.float32
    for actual, image, (height, width) in zip(greyed, images, sizes, strict=True):
        expected = np.full_like(image, 127.5)
        expected[:height, :width] = image[:height, :width]
        np.testing.assert_array_equal(actual, expected)


def test_grey_hides_what_is_not_finite():
    images = np.full((1, 2, 2, 3), np.nan, np.float32)
    images[:, :1, :1] = 5.0
    greyed = grey_outside(tf.constant(images), tf.constant([[1, 1]]))
    assert greyed[0, ..., 0].numpy().tolist() == [[5.0, 127.5], [127.5, 127.5]]
