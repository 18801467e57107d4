"""Xception (Chollet, "Xception"), in the deeper forms of the DeepLab family, with 65 or 71 layers.

Units of three separable convolutions, each normalized after its depthwise and after its pointwise part:
entry and first exit unit with a convolutional shortcut, sixteen middle units with an identity, and a
last exit unit with none. A unit's stride sits in its third convolution; there is no max pooling.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones.common import AtrousPlan, BackboneFeatures
from deeplab2_lite.config import BackboneConfig
from deeplab2_lite.layers.activations import activate
from deeplab2_lite.layers.convolutions import conv_bn, depthwise_bn
from deeplab2_lite.layers.normalization import SYMMETRIC, ImageNormalization
from deeplab2_lite.layers.settings import FLOAT32, LayerSettings

Widths = tuple[int, int, int]
Shortcut = Literal["conv", "identity", "none"]

_MIDDLE_UNITS = 16
_MIDDLE_WIDTHS = (728, 728, 728)
_EXIT_WIDTHS = ((728, 1024, 1024), (1536, 1536, 2048))
_MULTI_GRID = (1, 2, 4)


class _Entry(NamedTuple):
    """One entry unit: channels of its three convolutions, stride, and stride of the skip that it gives."""

    channels: int
    stride: int
    skip: int | None = None


_ENTRIES = {
    65: (_Entry(128, 2, skip=2), _Entry(256, 2, skip=4), _Entry(728, 2, skip=8)),
    71: (_Entry(128, 2, skip=2), _Entry(256, 1), _Entry(256, 2, skip=4), _Entry(728, 1), _Entry(728, 2, skip=8)),
}


class Unit(NamedTuple):
    """What a unit gives: its output, and its second convolution after normalization, at the unit's input size."""

    output: tf.Tensor
    second: tf.Tensor


def xception(
    images: tf.Tensor, config: BackboneConfig, settings: LayerSettings, depth: Literal[65, 71] = 71
) -> BackboneFeatures:
    """Builds an Xception without its classifier.

    Args:
        images: float32 [batch, height, width, 3] in 0..255.
        config: Output stride, and multi-grid factors of the three convolutions of the last unit; null is
            1, 2, 4.
        settings: Of the network.
        depth: 65, or 71 with two entry units more.

    Returns:
        2048 channels at the output stride; skips of 128, 256 and 728 channels at strides 2, 4 and 8, from the
        second convolution of the unit that ends the stride, after normalization.
    """
    features = ImageNormalization(*SYMMETRIC, name="backbone/normalize", dtype=FLOAT32)(images)
    plan = AtrousPlan(config.output_stride)
    for index, (filters, stride) in enumerate(((32, 2), (64, 1)), start=1):
        stride, _ = plan.step(stride)
        features = conv_bn(features, settings, f"backbone/stem{index}", filters, kernel_size=3, strides=stride)

    skips: dict[int, tf.Tensor] = {}
    for index, entry in enumerate(_ENTRIES[depth], start=1):
        stride, rate = plan.step(entry.stride)
        unit = xception_unit(features, settings, f"backbone/entry{index}", (entry.channels,) * 3, stride, (rate,) * 3)
        features = unit.output
        if entry.skip is not None:
            skips[entry.skip] = unit.second

    _, rate = plan.step(1)
    for index in range(1, _MIDDLE_UNITS + 1):
        name = f"backbone/middle{index}"
        features = xception_unit(features, settings, name, _MIDDLE_WIDTHS, 1, (rate,) * 3, "identity").output

    first, last = _EXIT_WIDTHS
    stride, rate = plan.step(2)
    features = xception_unit(features, settings, "backbone/exit1", first, stride, (rate,) * 3).output
    _, rate = plan.step(1)
    rates = tuple(rate * factor for factor in config.multi_grid or _MULTI_GRID)
    return BackboneFeatures(xception_unit(features, settings, "backbone/exit2", last, 1, rates, "none").output, skips)


def xception_unit(
    features: tf.Tensor,
    settings: LayerSettings,
    name: str,
    widths: Widths,
    stride: int,
    rates: tuple[int, int, int],
    shortcut: Shortcut = "conv",
) -> Unit:
    """Builds three separable 3x3 convolutions and the shortcut past them.

    With a shortcut ReLU stands before each separable convolution and nowhere else, so that nothing
    bounds the sum; without one it follows each depthwise and each pointwise part.

    Args:
        features: [batch, height, width, channels].
        settings: Of the network.
        name: Prefix of the layers' names.
        widths: Output channels of the three convolutions.
        stride: Of the third convolution and of the shortcut.
        rates: Atrous rates of the three; all 1 where the stride is not.
        shortcut: A 1x1 convolution, the input itself, or none.

    Returns:
        Output [batch, ceil(height / stride), ceil(width / stride), widths[2]], and the second
        convolution's [batch, height, width, widths[1]].
    """
    activation = "relu" if shortcut == "none" else "none"
    residual = second = features
    for index, (width, rate) in enumerate(zip(widths, rates, strict=True), start=1):
        part = f"{name}/separable{index}"
        if shortcut != "none":
            residual = activate(residual, settings, part, "relu")
        strides = stride if index == len(widths) else 1
        residual = depthwise_bn(residual, settings, f"{part}/depthwise", 3, strides, rate, activation)
        residual = conv_bn(residual, settings, f"{part}/pointwise", width, activation=activation)
        if index == 2:
            second = residual
    if shortcut == "none":
        return Unit(residual, second)
    if shortcut == "conv":
        features = conv_bn(features, settings, f"{name}/shortcut", widths[-1], strides=stride, activation="none")
    return Unit(keras.layers.Add(name=f"{name}/add", dtype=settings.dtype)([features, residual]), second)
