"""Prediction heads: one separable convolution, then logits in float32 (paper section 3.1)."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.convolutions import separable_conv_bn
from deeplab2_lite.layers.settings import FLOAT32, LayerSettings

# Small logits at first: the losses start where all classes are as likely.
_KERNEL_DEVIATION = 0.01


def head(
    features: tf.Tensor,
    settings: LayerSettings,
    name: str,
    width: int,
    outputs: int,
    kernel_size: int,
    activation: Literal["linear", "sigmoid"] = "linear",
) -> tf.Tensor:
    """Predicts from the decoder's features.

    Args:
        features: [batch, height, width, any].
        settings: Of the network.
        name: Prefix of the layers' names.
        width: Channels of the separable convolution.
        outputs: Output channels.
        kernel_size: Side of the separable convolution.
        activation: Of the output.

    Returns:
        float32 [batch, height, width, outputs], whatever the network computes in.
    """
    features = separable_conv_bn(features, settings, f"{name}/fuse", width, kernel_size)
    name = f"{name}/logits/conv"
    return keras.layers.Conv2D(
        outputs,
        1,
        activation=activation,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=_KERNEL_DEVIATION, seed=settings.seed_of(name)),
        name=name,
        dtype=FLOAT32,
    )(features)
