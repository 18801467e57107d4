"""Bilinear resizing with aligned corners: the one resampling rule of the network and its outputs."""

from __future__ import annotations

import tensorflow as tf


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
