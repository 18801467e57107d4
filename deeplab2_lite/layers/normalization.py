"""Normalization of input images inside the network, so that no caller can forget or repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.settings import PACKAGE

# (x - 127.5) / 127.5 = 2 x / 255 - 1: Xception, ResNet-50-beta and MobileNetV3.
SYMMETRIC = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
# Mean and deviation of ImageNet's RGB values, which torchvision's ResNet weights were trained with.
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@keras.saving.register_keras_serializable(package=PACKAGE)
class ImageNormalization(keras.layers.Layer):
    """(images - mean) / deviation, per channel, in float32."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], **kwargs: Any) -> None:
        """Sets the statistics.

        Args:
            mean: One per channel, in 0..255.
            deviation: One per channel, in 0..255.
            **kwargs: Of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.mean = tuple(mean)
        self.deviation = tuple(deviation)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns normalized images of the shape of `inputs` [batch, height, width, channels] in 0..255."""
        return (inputs - tf.constant(self.mean, inputs.dtype)) / tf.constant(self.deviation, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the layer."""
        return {**super().get_config(), "mean": list(self.mean), "deviation": list(self.deviation)}
