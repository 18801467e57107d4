"""Bilinear resizing with aligned corners: the one resampling rule of the network and its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.settings import PACKAGE


def resize_align_corners(features: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Resizes bilinearly so that the corner pixels' centres of input and output coincide.

    Sizes of the form stride * k + 1 then map onto each other exactly (DeepLab's convention).

    Args:
        features: [batch, height, width, channels], floating point.
        height: Output height, static or a scalar tensor.
        width: Output width, likewise.

    Returns:
        [batch, height, width, channels] of the input's dtype; computed in float32.
    """
    # The op gives float32 whatever it is fed, so bfloat16 has to be restored.
    resized = tf.raw_ops.ResizeBilinear(
        images=tf.cast(features, tf.float32), size=tf.stack([height, width]), align_corners=True
    )
    return tf.cast(resized, features.dtype)


@keras.saving.register_keras_serializable(package=PACKAGE)
class ResizeLike(keras.layers.Layer):
    """Resizes features to the height and width of others, bilinearly with aligned corners."""

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Resizes.

        Args:
            inputs: Features [batch, height, width, channels], and any [batch, new height, new width, ..].

        Returns:
            [batch, new height, new width, channels] of the features' dtype.
        """
        features, reference = inputs
        height, width = (reference.shape[i] or tf.shape(reference)[i] for i in (1, 2))
        if features.shape[1] is not None and features.shape[1:3] == reference.shape[1:3]:
            return features
        if features.shape[1:3] == (1, 1):
            # Aligned corners make a single pixel cover everything. In float32 for the gradient, a sum over all pixels.
            shape = [tf.shape(features)[0], height, width, features.shape[-1]]
            resized = tf.cast(tf.broadcast_to(tf.cast(features, tf.float32), tf.stack(shape)), features.dtype)
        else:
            resized = resize_align_corners(features, height, width)
        return tf.ensure_shape(resized, [None, *reference.shape[1:3], features.shape[-1]])

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the layer."""
        # Keras writes one by itself only for layers that were given plain arguments, which a policy is not.
        return super().get_config()
