"""Image-level pooling: the context that ASPP and squeeze-excite see."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.settings import PACKAGE


@keras.saving.register_keras_serializable(package=PACKAGE)
class ImagePooling(keras.layers.Layer):
    """Means over the whole image, or over every window of a given size; computed in float32."""

    def __init__(self, kernel: tuple[int, int] | None = None, **kwargs: Any) -> None:
        """Sets the window.

        Args:
            kernel: Height and width of the window in feature pixels, slid by one pixel without padding;
                an image that is smaller in a direction is pooled whole in it. None pools globally.
            **kwargs: Of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.kernel = None if kernel is None else tuple(kernel)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Pools features [batch, height, width, channels].

        Returns:
            [batch, 1, 1, channels], or with a kernel (h, w)
            [batch, max(height - h, 0) + 1, max(width - w, 0) + 1, channels].
        """
        # A bfloat16 sum stops growing after a few hundred terms.
        features = tf.cast(inputs, tf.float32)
        if self.kernel is None:
            features = tf.reduce_mean(features, axis=(1, 2), keepdims=True)
        else:
            # A box mean is separable: h + w additions a pixel instead of h * w.
            for axis, size in zip((1, 2), self.kernel, strict=True):
                features = _window_mean(features, axis, size)
        return tf.cast(features, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the layer."""
        return {**super().get_config(), "kernel": None if self.kernel is None else list(self.kernel)}


def _window_mean(features: tf.Tensor, axis: int, window: int) -> tf.Tensor:
    kernel = (window, 1) if axis == 1 else (1, window)

    def whole() -> tf.Tensor:
        return tf.reduce_mean(features, axis=axis, keepdims=True)

    def sliding() -> tf.Tensor:
        return tf.nn.avg_pool2d(features, kernel, strides=1, padding="VALID")

    size = features.shape[axis]
    if size is not None:
        return whole() if size <= window else sliding()
    return tf.cond(tf.shape(features)[axis] <= window, whole, sliding)
