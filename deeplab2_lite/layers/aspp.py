"""Atrous spatial pyramid pooling (paper section 3.1; Chen et al., "Rethinking Atrous Convolution")."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import AsppConfig
from deeplab2_lite.layers.convolutions import conv_bn, separable_conv_bn
from deeplab2_lite.layers.dropout import CountedDropout
from deeplab2_lite.layers.pooling import ImagePooling
from deeplab2_lite.layers.resizing import ResizeLike
from deeplab2_lite.layers.settings import LayerSettings

_RATES_AT_STRIDE_16 = (6, 12, 18)


def default_rates(output_stride: int) -> tuple[int, ...]:
    """Returns the rates that see the same part of the image at every output stride: 6, 12, 18 at 16."""
    return tuple(rate * 16 // output_stride for rate in _RATES_AT_STRIDE_16)


def aspp(
    features: tf.Tensor, settings: LayerSettings, name: str, channels: int, config: AsppConfig, output_stride: int
) -> tf.Tensor:
    """Gathers context: a 1x1, several atrous 3x3 convolutions and image pooling, concatenated and projected.

    Args:
        features: Last features of the backbone, [batch, height, width, any].
        settings: Of the network.
        name: Prefix of the layers' names; they do not depend on the rates.
        channels: Width of each part and of the result.
        config: Rates, kind of convolution, pooling window and dropout.
        output_stride: Of the features; decides the rates where `config` leaves them open.

    Returns:
        [batch, height, width, channels].
    """
    parts = [conv_bn(features, settings, f"{name}/pointwise", channels)]
    for index, rate in enumerate(config.atrous_rates or default_rates(output_stride), start=1):
        convolve = separable_conv_bn if config.separable else conv_bn
        parts.append(convolve(features, settings, f"{name}/atrous{index}", channels, kernel_size=3, dilation_rate=rate))
    parts.append(_image_context(features, settings, f"{name}/image", channels, config))
    context = keras.layers.Concatenate(name=f"{name}/concat", dtype=settings.dtype)(parts)
    context = conv_bn(context, settings, f"{name}/project", channels)
    if config.dropout:
        dropout = CountedDropout(
            config.dropout, settings.seed_of(f"{name}/dropout"), name=f"{name}/dropout", dtype=settings.dtype
        )
        context = dropout(context)
    return context


def _image_context(
    features: tf.Tensor, settings: LayerSettings, name: str, channels: int, config: AsppConfig
) -> tf.Tensor:
    pooled = ImagePooling(config.pooling_kernel, name=f"{name}/pool", dtype=settings.dtype)(features)
    pooled = conv_bn(pooled, settings, name, channels)
    return ResizeLike(name=f"{name}/resize", dtype=settings.dtype)([pooled, features])
