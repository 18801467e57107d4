import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.resizing import ResizeLike


def align_corners_reference(features: np.ndarray, height: int, width: int) -> np.ndarray:
    """One output pixel at a time, from the four pixels round its place."""
    old_height, old_width = features.shape[1:3]
    out = np.zeros((features.shape[0], height, width, features.shape[3]))
    for i in range(height):
        for j in range(width):
            y = i * (old_height - 1) / max(height - 1, 1)
            x = j * (old_width - 1) / max(width - 1, 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, old_height - 1), min(left + 1, old_width - 1)
            upper = features[:, top, left] * (1 - x + left) + features[:, top, right] * (x - left)
            lower = features[:, bottom, left] * (1 - x + left) + features[:, bottom, right] * (x - left)
            out[:, i, j] = upper * (1 - y + top) + lower * (y - top)
    return out


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("old", "new"), [((3, 4), (5, 7)), ((1, 1), (4, 3)), ((1, 3), (4, 6)), ((3, 3), (3, 3))])
def test_values_equal_the_reference(old, new, dynamic):
    features = np.random.default_rng(0).normal(size=(2, *old, 3)).astype(np.float32)
    reference = np.zeros((2, *new, 1), np.float32)
    shapes = [(None, None, None, n) for n in (3, 1)] if dynamic else [features.shape, reference.shape]
    layer = ResizeLike()
    resize = tf.function(lambda f, r: layer([f, r]), input_signature=[tf.TensorSpec(shape) for shape in shapes])
    np.testing.assert_allclose(resize(features, reference), align_corners_reference(features, *new), atol=1e-5)


@pytest.mark.parametrize("old", [(1, 1), (3, 4)])
def test_static_size_is_known_to_the_next_layer(old):
    outputs = ResizeLike()([keras.Input((*old, 3)), keras.Input((9, 8, 2))])
    assert outputs.shape == (None, 9, 8, 3)


def test_bfloat16_stays():
    features, reference = tf.ones((1, 2, 2, 1), tf.bfloat16), tf.ones((1, 3, 3, 1), tf.bfloat16)
    assert ResizeLike(dtype=keras.mixed_precision.Policy("mixed_bfloat16"))([features, reference]).dtype == tf.bfloat16
