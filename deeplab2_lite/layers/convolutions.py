"""Convolutions with normalization and activation, the only ways in which the networks convolve.

Sizes: every convolution gives ceil(n / stride) and samples the pixels 0, stride, 2 * stride, ...; so a
stride that is replaced by a rate computes the same values and more of them (paper section 3.1).
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.activations import activate
from deeplab2_lite.layers.normalization import BatchNormalization
from deeplab2_lite.layers.settings import LayerSettings


def conv(
    features: tf.Tensor,
    settings: LayerSettings,
    name: str,
    filters: int,
    kernel_size: int = 1,
    strides: int = 1,
    dilation_rate: int = 1,
    use_bias: bool = False,
) -> tf.Tensor:
    """Convolves densely.

    Args:
        features: [batch, height, width, channels].
        settings: Of the network.
        name: Prefix of the layers' names.
        filters: Output channels.
        kernel_size: Side of the kernel; odd.
        strides: Stride in both directions.
        dilation_rate: Atrous rate.
        use_bias: Whether to add a bias, for convolutions that no normalization follows.

    Returns:
        [batch, ceil(height / strides), ceil(width / strides), filters].
    """
    features, padding = _pad(features, settings, name, kernel_size, strides)
    name = f"{name}/conv"
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        dilation_rate=dilation_rate,
        use_bias=use_bias,
        kernel_initializer=settings.kernel_initializer(name),
        name=name,
        dtype=settings.dtype,
    )(features)


def depthwise_conv(
    features: tf.Tensor, settings: LayerSettings, name: str, kernel_size: int, strides: int = 1, dilation_rate: int = 1
) -> tf.Tensor:
    """Convolves each channel with a kernel of its own.

    Args:
        features: [batch, height, width, channels].
        settings: Of the network.
        name: Prefix of the layers' names.
        kernel_size: Side of the kernel; odd.
        strides: Stride in both directions.
        dilation_rate: Atrous rate.

    Returns:
        [batch, ceil(height / strides), ceil(width / strides), channels].
    """
    features, padding = _pad(features, settings, name, kernel_size, strides)
    name = f"{name}/conv"
    return keras.layers.DepthwiseConv2D(
        kernel_size,
        strides=strides,
        padding=padding,
        dilation_rate=dilation_rate,
        use_bias=False,
        depthwise_initializer=settings.kernel_initializer(name, depthwise_channels=features.shape[-1]),
        name=name,
        dtype=settings.dtype,
    )(features)


def norm_act(features: tf.Tensor, settings: LayerSettings, name: str, activation: str = "relu") -> tf.Tensor:
    """Normalizes over the batch, then activates.

    Args:
        features: [batch, height, width, channels].
        settings: Of the network.
        name: Prefix of the layers' names.
        activation: "relu", "hard_swish" or "none".

    Returns:
        Same shape.
    """
    features = BatchNormalization(
        momentum=settings.batch_norm.momentum,
        epsilon=settings.batch_norm.epsilon,
        synchronized=settings.batch_norm.synchronized,
        trainable=not settings.batch_norm.frozen,
        name=f"{name}/bn",
        dtype=settings.dtype,
    )(features)
    return activate(features, settings, name, activation)


def conv_bn(
    features: tf.Tensor,
    settings: LayerSettings,
    name: str,
    filters: int,
    kernel_size: int = 1,
    strides: int = 1,
    dilation_rate: int = 1,
    activation: str = "relu",
) -> tf.Tensor:
    """Dense convolution, batch normalization, activation; arguments as in `conv` and `norm_act`."""
    features = conv(features, settings, name, filters, kernel_size, strides, dilation_rate)
    return norm_act(features, settings, name, activation)


def depthwise_bn(
    features: tf.Tensor,
    settings: LayerSettings,
    name: str,
    kernel_size: int,
    strides: int = 1,
    dilation_rate: int = 1,
    activation: str = "relu",
) -> tf.Tensor:
    """Depthwise convolution, batch normalization, activation; arguments as in `depthwise_conv` and `norm_act`."""
    features = depthwise_conv(features, settings, name, kernel_size, strides, dilation_rate)
    return norm_act(features, settings, name, activation)


def separable_conv_bn(
    features: tf.Tensor,
    settings: LayerSettings,
    name: str,
    filters: int,
    kernel_size: int,
    dilation_rate: int = 1,
) -> tf.Tensor:
    """Depthwise, then pointwise convolution, batch normalization, ReLU, as in ASPP, decoder and heads.

    Nothing stands between the two: the paper's parameter counts leave room for nothing. With
    `settings.depthwise_norm` normalization and ReLU do, as in public implementations.

    Args:
        features: [batch, height, width, channels].
        settings: Of the network.
        name: Prefix of the layers' names.
        filters: Output channels.
        kernel_size: Side of the depthwise kernel; odd.
        dilation_rate: Atrous rate of the depthwise convolution.

    Returns:
        [batch, height, width, filters].
    """
    depthwise = depthwise_bn if settings.depthwise_norm else depthwise_conv
    features = depthwise(features, settings, f"{name}/depthwise", kernel_size, dilation_rate=dilation_rate)
    return conv_bn(features, settings, f"{name}/pointwise", filters)


def _pad(
    features: tf.Tensor, settings: LayerSettings, name: str, kernel_size: int, strides: int
) -> tuple[tf.Tensor, str]:
    """Returns features and Keras padding mode that centre the kernel on pixels 0, strides, 2 * strides, ..."""
    if strides == 1 or kernel_size == 1:
        return features, "same"
    # "same" pads less before than after where the size is even, which shifts the grid by a pixel.
    pad = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}/pad", dtype=settings.dtype)
    return pad(features), "valid"
