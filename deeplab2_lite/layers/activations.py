"""The activations of MobileNetV3 (Howard et al., "Searching for MobileNetV3", section 5.2)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.settings import PACKAGE, LayerSettings


@keras.saving.register_keras_serializable(package=PACKAGE)
class HardSigmoid(keras.layers.Layer):
    """relu6(x + 3) / 6, elementwise."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the activation of `inputs`, same shape and dtype."""
        return tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the layer."""
        # Keras writes one by itself only for layers that were given plain arguments, which a policy is not.
        return super().get_config()


@keras.saving.register_keras_serializable(package=PACKAGE)
class HardSwish(keras.layers.Layer):
    """x * relu6(x + 3) / 6, elementwise."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the activation of `inputs`, same shape and dtype."""
        return inputs * (tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0))

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the layer."""
        # Keras writes one by itself only for layers that were given plain arguments, which a policy is not.
        return super().get_config()


def activate(features: tf.Tensor, settings: LayerSettings, name: str, activation: str) -> tf.Tensor:
    """Applies an activation as a layer of its own.

    Args:
        features: Any shape.
        settings: Of the network.
        name: Prefix of the layer's name; the activation's is appended.
        activation: "relu", "hard_swish", "hard_sigmoid" or "none".

    Returns:
        The activated features, same shape.
    """
    if activation == "none":
        return features
    layers = {"relu": keras.layers.ReLU, "hard_swish": HardSwish, "hard_sigmoid": HardSigmoid}
    return layers[activation](name=f"{name}/{activation}", dtype=settings.dtype)(features)
