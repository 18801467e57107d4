"""MobileNetV3 (Howard et al., "Searching for MobileNetV3", tables 1 and 2), for dense prediction.

The last block may be halved in width (ibid., section 6.4), as the paper's counts need. Layers are
numbered as in that paper's tables, the stem being 1; skips are outputs of depthwise convolutions, after
activation and before squeeze-excite, of the last layer that keeps a stride, or the stem's.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones.common import AtrousPlan, BackboneFeatures
from deeplab2_lite.config import BackboneConfig
from deeplab2_lite.layers.activations import activate
from deeplab2_lite.layers.convolutions import conv, conv_bn, depthwise_bn
from deeplab2_lite.layers.normalization import SYMMETRIC, ImageNormalization
from deeplab2_lite.layers.pooling import ImagePooling
from deeplab2_lite.layers.settings import FLOAT32, LayerSettings

_STEM_CHANNELS = 16
_RELU = "relu"
_SWISH = "hard_swish"


class Row(NamedTuple):
    """One inverted bottleneck: widths, depthwise kernel, stride, activation, squeeze-excite."""

    expanded: int
    channels: int
    kernel_size: int
    stride: int
    activation: str
    squeeze_excite: bool


class _Architecture(NamedTuple):
    """Rows by layer number from 2 on, the 1x1 convolution after them, and the stride of the skip that a layer gives."""

    rows: tuple[Row, ...]
    last_block: tuple[Row, ...]
    last_channels: int
    skip_layers: dict[int, int]


_LARGE = _Architecture(
    rows=(
        Row(16, 16, 3, 1, _RELU, False),
        Row(64, 24, 3, 2, _RELU, False),
        Row(72, 24, 3, 1, _RELU, False),
        Row(72, 40, 5, 2, _RELU, True),
        Row(120, 40, 5, 1, _RELU, True),
        Row(120, 40, 5, 1, _RELU, True),
        Row(240, 80, 3, 2, _SWISH, False),
        Row(200, 80, 3, 1, _SWISH, False),
        Row(184, 80, 3, 1, _SWISH, False),
        Row(184, 80, 3, 1, _SWISH, False),
        Row(480, 112, 3, 1, _SWISH, True),
        Row(672, 112, 3, 1, _SWISH, True),
    ),
    last_block=(
        Row(672, 160, 5, 2, _SWISH, True),
        Row(960, 160, 5, 1, _SWISH, True),
        Row(960, 160, 5, 1, _SWISH, True),
    ),
    last_channels=960,
    skip_layers={2: 2, 4: 4, 7: 8},
)
_SMALL = _Architecture(
    rows=(
        Row(16, 16, 3, 2, _RELU, True),
        Row(72, 24, 3, 2, _RELU, False),
        Row(88, 24, 3, 1, _RELU, False),
        Row(96, 40, 5, 2, _SWISH, True),
        Row(240, 40, 5, 1, _SWISH, True),
        Row(240, 40, 5, 1, _SWISH, True),
        Row(120, 48, 5, 1, _SWISH, True),
        Row(144, 48, 5, 1, _SWISH, True),
    ),
    last_block=(
        Row(288, 96, 5, 2, _SWISH, True),
        Row(576, 96, 5, 1, _SWISH, True),
        Row(576, 96, 5, 1, _SWISH, True),
    ),
    last_channels=576,
    skip_layers={1: 2, 2: 4, 4: 8},
)


def mobilenet_v3_large(images: tf.Tensor, config: BackboneConfig, settings: LayerSettings) -> BackboneFeatures:
    """Builds MobileNetV3-Large.

    Args:
        images: float32 [batch, height, width, 3] in 0..255.
        config: Output stride, and whether the last block is halved.
        settings: Of the network.

    Returns:
        480 channels (960 unhalved) at the output stride; skips of 16, 72 and 120 channels at strides 2, 4
        and 8, from layers 2, 4 and 7.
    """
    return _mobilenet_v3(images, config, settings, _LARGE)


def mobilenet_v3_small(images: tf.Tensor, config: BackboneConfig, settings: LayerSettings) -> BackboneFeatures:
    """Builds MobileNetV3-Small; the paper has no row for it, so it follows Large.

    Args:
        images: float32 [batch, height, width, 3] in 0..255.
        config: Output stride, and whether the last block is halved.
        settings: Of the network.

    Returns:
        288 channels (576 unhalved) at the output stride; skips of 16, 16 and 88 channels at strides 2, 4
        and 8, from layers 1, 2 and 4.
    """
    return _mobilenet_v3(images, config, settings, _SMALL)


def squeeze_width(expanded: int) -> int:
    """Returns a quarter of the expanded width, rounded to a multiple of 8 that is at least 90 % of it."""
    width = max(8, (expanded + 16) // 32 * 8)
    return width + 8 if width < 0.9 * expanded / 4 else width


def inverted_bottleneck(
    features: tf.Tensor, settings: LayerSettings, name: str, row: Row, stride: int, rate: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Expands, convolves depthwise, weighs channels, projects; adds the input where the shapes allow.

    Args:
        features: [batch, height, width, channels].
        settings: Of the network.
        name: Prefix of the layers' names.
        row: The unit.
        stride: Stride of the depthwise convolution, in place of the row's.
        rate: Its atrous rate.

    Returns:
        Output [.., row.channels], and the activated depthwise features [.., row.expanded].
    """
    expanded = features
    if row.expanded != features.shape[-1]:
        expanded = conv_bn(features, settings, f"{name}/expand", row.expanded, activation=row.activation)
    depthwise = depthwise_bn(
        expanded, settings, f"{name}/depthwise", row.kernel_size, stride, rate, activation=row.activation
    )
    weighed = depthwise
    if row.squeeze_excite:
        weighed = _squeeze_excite(depthwise, settings, f"{name}/squeeze_excite")
    output = conv_bn(weighed, settings, f"{name}/project", row.channels, activation="none")
    if row.stride == 1 and features.shape[-1] == row.channels:
        output = keras.layers.Add(name=f"{name}/add", dtype=settings.dtype)([features, output])
    return output, depthwise


def _mobilenet_v3(
    images: tf.Tensor, config: BackboneConfig, settings: LayerSettings, architecture: _Architecture
) -> BackboneFeatures:
    features = ImageNormalization(*SYMMETRIC, name="backbone/normalize", dtype=FLOAT32)(images)
    plan = AtrousPlan(config.output_stride)
    stride, _ = plan.step(2)
    features = conv_bn(features, settings, "backbone/layer1", _STEM_CHANNELS, 3, stride, activation=_SWISH)

    last_block, last_channels = architecture.last_block, architecture.last_channels
    if config.halve_last_block:
        last_block = tuple(row._replace(expanded=row.expanded // 2, channels=row.channels // 2) for row in last_block)
        last_channels //= 2
    skips = {architecture.skip_layers[1]: features} if 1 in architecture.skip_layers else {}
    for number, row in enumerate(architecture.rows + last_block, start=2):
        stride, rate = plan.step(row.stride)
        features, depthwise = inverted_bottleneck(features, settings, f"backbone/layer{number}", row, stride, rate)
        if number in architecture.skip_layers:
            skips[architecture.skip_layers[number]] = depthwise
    features = conv_bn(features, settings, f"backbone/layer{number + 1}", last_channels, activation=_SWISH)
    return BackboneFeatures(features, skips)


def _squeeze_excite(features: tf.Tensor, settings: LayerSettings, name: str) -> tf.Tensor:
    channels = features.shape[-1]
    gate = ImagePooling(name=f"{name}/pool", dtype=settings.dtype)(features)
    gate = conv(gate, settings, f"{name}/reduce", squeeze_width(channels), use_bias=True)
    gate = activate(gate, settings, f"{name}/reduce", "relu")
    gate = conv(gate, settings, f"{name}/expand", channels, use_bias=True)
    gate = activate(gate, settings, f"{name}/expand", "hard_sigmoid")
    return keras.layers.Multiply(name=f"{name}/multiply", dtype=settings.dtype)([features, gate])
