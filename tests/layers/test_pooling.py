import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.pooling import ImagePooling

FEATURES = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)


def windows_reference(features: np.ndarray, kernel: tuple[int, int]) -> np.ndarray:
    height, width = (min(k, n) for k, n in zip(kernel, features.shape[1:3], strict=True))
    rows, columns = features.shape[1] - height + 1, features.shape[2] - width + 1
    return np.stack(
        [
            np.stack([features[:, y : y + height, x : x + width].mean((1, 2)) for x in range(columns)], 1)
            for y in range(rows)
        ],
        1,
    )


def test_global_mean():
    np.testing.assert_allclose(ImagePooling()(FEATURES), FEATURES.mean((1, 2), keepdims=True), atol=1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kernel", [(2, 3), (6, 5), (4, 9), (99, 1)])
def test_windows_slide_and_shrink_to_small_images(kernel, dynamic):
    layer = ImagePooling(kernel)
    shape = (None, None, None, 3) if dynamic else FEATURES.shape
    pool = tf.function(layer, input_signature=[tf.TensorSpec(shape)])
    np.testing.assert_allclose(pool(FEATURES), windows_reference(FEATURES, kernel), atol=1e-6)


def test_bfloat16_is_summed_in_float32():
    features = tf.ones((1, 64, 64, 1), tf.bfloat16)
    pooled = ImagePooling(dtype=keras.mixed_precision.Policy("mixed_bfloat16"))(features)
    assert pooled.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(pooled, tf.float32), [[[[1.0]]]])


def test_config_round_trip():
    assert ImagePooling.from_config(ImagePooling((33, 65)).get_config()).kernel == (33, 65)
    assert ImagePooling.from_config(ImagePooling().get_config()).kernel is None
