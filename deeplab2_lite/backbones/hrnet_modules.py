"""The parts of HRNet: residual units of one resolution, and the exchange between several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones.common import AtrousPlan
from deeplab2_lite.backbones.xception import xception_unit
from deeplab2_lite.layers.activations import activate
from deeplab2_lite.layers.convolutions import conv, conv_bn, norm_act
from deeplab2_lite.layers.resizing import ResizeLike
from deeplab2_lite.layers.settings import LayerSettings

_BOTTLENECK_EXPANSION = 4
_BASIC_CONVOLUTIONS = 2
_MOST_BRANCHES = 4

Unit = Callable[[tf.Tensor, LayerSettings, str, int], tf.Tensor]


class Resolution(NamedTuple):
    """Stride of a branch, and the atrous rate of its 3x3 convolutions."""

    stride: int
    rate: int


def resolutions(output_stride: int) -> tuple[Resolution, ...]:
    """Returns those of the branches, fine to coarse: strides 4, 8, 16, 32, as far as the output stride allows them."""
    plan = AtrousPlan(output_stride)
    plan.step(2)
    found = []
    for _ in range(_MOST_BRANCHES):
        plan.step(2)
        found.append(Resolution(plan.stride, plan.rate))
    return tuple(found)


def bottleneck(features: tf.Tensor, settings: LayerSettings, name: str, width: int, rate: int = 1) -> tf.Tensor:
    """Residual unit of 1x1, 3x3 and 1x1 convolutions; a 1x1 convolution is the shortcut where the channels differ.

    Args:
        features: [batch, height, width, any].
        settings: Of the network.
        name: Prefix of the layers' names.
        width: Channels between the 1x1 convolutions.
        rate: Atrous rate.

    Returns:
        [batch, height, width, 4 * width].
    """
    channels = width * _BOTTLENECK_EXPANSION
    shortcut = features
    if features.shape[-1] != channels:
        shortcut = conv_bn(features, settings, f"{name}/shortcut", channels, activation="none")
    residual = conv_bn(features, settings, f"{name}/conv1", width)
    residual = conv_bn(residual, settings, f"{name}/conv2", width, kernel_size=3, dilation_rate=rate)
    residual = conv_bn(residual, settings, f"{name}/conv3", channels, activation="none")
    return activate(_add([shortcut, residual], settings, name), settings, name, "relu")


def basic_unit(features: tf.Tensor, settings: LayerSettings, name: str, rate: int) -> tf.Tensor:
    """Residual unit of two dense 3x3 convolutions that keeps the channels.

    Args:
        features: [batch, height, width, channels].
        settings: Of the network.
        name: Prefix of the layers' names.
        rate: Atrous rate.

    Returns:
        Same shape.
    """
    residual = features
    for index in range(1, _BASIC_CONVOLUTIONS + 1):
        activation = "relu" if index < _BASIC_CONVOLUTIONS else "none"
        residual = conv_bn(
            residual, settings, f"{name}/conv{index}", features.shape[-1], 3, dilation_rate=rate, activation=activation
        )
    return activate(_add([features, residual], settings, name), settings, name, "relu")


def separable_unit(features: tf.Tensor, settings: LayerSettings, name: str, rate: int) -> tf.Tensor:
    """Residual unit of three separable 3x3 convolutions that keeps the channels: that of Xception's middle flow.

    Args:
        features: [batch, height, width, channels].
        settings: Of the network.
        name: Prefix of the layers' names.
        rate: Atrous rate.

    Returns:
        Same shape.
    """
    return xception_unit(features, settings, name, (features.shape[-1],) * 3, 1, (rate,) * 3, "identity").output


def conv_down(
    features: tf.Tensor,
    settings: LayerSettings,
    name: str,
    filters: int,
    source: Resolution,
    target: Resolution,
    use_bias: bool = False,
) -> tf.Tensor:
    """Convolves from one resolution to the next coarser one, 3x3, without normalization.

    Args:
        features: [batch, height, width, any] at the source.
        settings: Of the network.
        name: Prefix of the layers' names.
        filters: Output channels.
        source: Resolution of the features.
        target: The next coarser one; of the same stride where the output stride is reached.
        use_bias: Whether to add a bias.

    Returns:
        [batch, height, width, filters] at the target.
    """
    stride = target.stride // source.stride
    if stride == 1:
        # A strided convolution has a layer for its padding. One in its place keeps the layers, and with
        # them the order of the weights, the same at every output stride.
        features = keras.layers.ZeroPadding2D(0, name=f"{name}/pad", dtype=settings.dtype)(features)
    # A convolution that loses its stride keeps the rate before it.
    return conv(features, settings, name, filters, 3, stride, source.rate, use_bias)


def exchange(
    branches: Sequence[tf.Tensor], scales: Sequence[Resolution], settings: LayerSettings, name: str
) -> list[tf.Tensor]:
    """Gives every branch the sum of all of them at its own size and width, activated.

    Finer ones come through 3x3 convolutions of stride 2, one a step, coarser ones through a 1x1
    convolution and a resize.

    Args:
        branches: [batch, height, width, channels] each, fine to coarse.
        scales: Resolution of each branch.
        settings: Of the network.
        name: Prefix of the layers' names.

    Returns:
        As many branches of the same shapes.
    """
    fused = []
    for target, reference in enumerate(branches):
        branch = f"{name}/branch{target + 1}"
        parts = []
        for source, features in enumerate(branches):
            carried = f"{branch}/from{source + 1}"
            if source < target:
                features = _carry_down(features, reference, scales[source : target + 1], settings, carried)
            elif source > target:
                features = conv_bn(features, settings, carried, reference.shape[-1], activation="none")
                features = ResizeLike(name=f"{carried}/resize", dtype=settings.dtype)([features, reference])
            parts.append(features)
        fused.append(activate(_add(parts, settings, branch), settings, branch, "relu"))
    return fused


def _carry_down(
    features: tf.Tensor, reference: tf.Tensor, scales: Sequence[Resolution], settings: LayerSettings, name: str
) -> tf.Tensor:
    steps = len(scales) - 1
    for index in range(1, steps + 1):
        last, step = index == steps, f"{name}/down{index}"
        filters = reference.shape[-1] if last else features.shape[-1]
        features = conv_down(features, settings, step, filters, scales[index - 1], scales[index])
        features = norm_act(features, settings, step, "none" if last else "relu")
    return features


def _add(parts: Sequence[tf.Tensor], settings: LayerSettings, name: str) -> tf.Tensor:
    return keras.layers.Add(name=f"{name}/add", dtype=settings.dtype)(parts)
