"""ResNet (He et al., "Deep Residual Learning"), in the two forms of the field.

`resnet50` is the common one: 7x7 stem, the stride in the 3x3 convolution of each block's first unit;
it is what torchvision's weights and those of most public Panoptic-DeepLab models fit. `resnet50_beta`
is the paper's: a stem of three 3x3 convolutions, the stride in the last unit of each block.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones.common import AtrousPlan, BackboneFeatures
from deeplab2_lite.config import BackboneConfig
from deeplab2_lite.layers.activations import activate
from deeplab2_lite.layers.convolutions import conv_bn
from deeplab2_lite.layers.normalization import IMAGENET, SYMMETRIC, ImageNormalization
from deeplab2_lite.layers.settings import FLOAT32, LayerSettings

_BLOCK_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4
# Stride of the skip that a block gives.
_SKIP_BLOCKS = {1: 4, 2: 8}
_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class _Unit(NamedTuple):
    output: tf.Tensor
    before_add: tf.Tensor


def resnet(
    images: tf.Tensor, config: BackboneConfig, settings: LayerSettings, depth: int = 50, beta: bool = False
) -> BackboneFeatures:
    """Builds a ResNet without its classifier.

    Skips of the plain form are the outputs of blocks 1 and 2. Those of the beta form are the third
    convolution after normalization, before the addition, of each block's last unit but one, since its
    last unit has the stride.

    Args:
        images: float32 [batch, height, width, 3] in 0..255.
        config: Output stride, and multi-grid factors of the last block.
        settings: Of the network.
        depth: Row of the table of depths: 50 or 101.
        beta: Which form.

    Returns:
        2048 channels at the output stride; skips of 256 and 512 channels at strides 4 and 8.
    """
    mean, deviation = SYMMETRIC if beta else IMAGENET
    features = ImageNormalization(mean, deviation, name="backbone/normalize", dtype=FLOAT32)(images)
    plan = AtrousPlan(config.output_stride)
    features = _stem(features, settings, beta)
    plan.step(2)
    plan.step(2)

    skips: dict[int, tf.Tensor] = {}
    for block, (width, units) in enumerate(zip(_BLOCK_WIDTHS, _UNITS[depth], strict=True), start=1):
        last = block == len(_BLOCK_WIDTHS)
        strided_unit = _strided_unit(block, units, beta)
        for index in range(1, units + 1):
            stride, rate = plan.step(2 if index == strided_unit else 1)
            if last:
                rate *= config.multi_grid[(index - 1) % len(config.multi_grid)]
            unit = _bottleneck(features, settings, f"backbone/block{block}/unit{index}", width, stride, rate)
            features = unit.output
            if block in _SKIP_BLOCKS and index == (units - 1 if beta else units):
                skips[_SKIP_BLOCKS[block]] = unit.before_add if beta else unit.output
    return BackboneFeatures(features, skips)


def _strided_unit(block: int, units: int, beta: bool) -> int | None:
    """Returns which unit of a block, from 1, has stride 2."""
    if beta:
        return units if block < len(_BLOCK_WIDTHS) else None
    return 1 if block > 1 else None


def _stem(features: tf.Tensor, settings: LayerSettings, beta: bool) -> tf.Tensor:
    if beta:
        for index, (filters, stride) in enumerate(((64, 2), (64, 1), (128, 1)), start=1):
            features = conv_bn(features, settings, f"backbone/stem{index}", filters, kernel_size=3, strides=stride)
    else:
        features = conv_bn(features, settings, "backbone/stem", 64, kernel_size=7, strides=2)
    # After a ReLU zeros never win, so they pad as well as minus infinity.
    features = keras.layers.ZeroPadding2D(1, name="backbone/pool/pad", dtype=settings.dtype)(features)
    return keras.layers.MaxPooling2D(3, strides=2, name="backbone/pool", dtype=settings.dtype)(features)


def _bottleneck(features: tf.Tensor, settings: LayerSettings, name: str, width: int, stride: int, rate: int) -> _Unit:
    channels = width * _EXPANSION
    if features.shape[-1] != channels:
        shortcut = conv_bn(features, settings, f"{name}/shortcut", channels, strides=stride, activation="none")
    elif stride > 1:
        shortcut = keras.layers.MaxPooling2D(1, strides=stride, name=f"{name}/shortcut/pool", dtype=settings.dtype)(
            features
        )
    else:
        shortcut = features
    residual = conv_bn(features, settings, f"{name}/conv1", width)
    residual = conv_bn(residual, settings, f"{name}/conv2", width, 3, stride, rate)
    residual = conv_bn(residual, settings, f"{name}/conv3", channels, activation="none")
    total = keras.layers.Add(name=f"{name}/add", dtype=settings.dtype)([shortcut, residual])
    return _Unit(activate(total, settings, name, "relu"), residual)
