"""ResNet (He et al., "Deep Residual Learning"), in the forms of the field.

`resnet50` is the common one: 7x7 stem, the stride in the 3x3 convolution of each block's first unit;
it is what torchvision's weights and those of most public Panoptic-DeepLab models fit. `resnet50_beta`
is the paper's: a stem of three 3x3 convolutions, the stride in the last unit of each block.
`resnet50_caffe`, the original, has the stride in the first 1x1 convolution: what keras.applications's
weights fit. `resnet50_deeplab2` and `resnet50_beta_deeplab2` are DeepLab2's: no max pooling, the first
block has a stride instead. Depth 101 has 17 units more in the third block.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones.common import AtrousPlan, BackboneFeatures
from deeplab2_lite.config import BackboneConfig
from deeplab2_lite.layers.activations import activate
from deeplab2_lite.layers.convolutions import conv_bn
from deeplab2_lite.layers.normalization import CAFFE, IMAGENET, SYMMETRIC, ImageNormalization
from deeplab2_lite.layers.settings import FLOAT32, LayerSettings

_BLOCK_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4
# Stride of the skip that a block gives.
_SKIP_BLOCKS = {1: 4, 2: 8}
_MULTI_GRID = (1, 1, 1)
_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Form(NamedTuple):
    """What tells the forms apart.

    Attributes:
        normalization: Mean and deviation of the images.
        deep_stem: Three 3x3 convolutions in place of one of 7x7.
        max_pool: After the stem; without it the first block has a stride too.
        stride_in_last_unit: Of each block, and none in the last block; else it is in its first unit.
        stride_in_1x1: In the unit's first convolution; else in its 3x3.
    """

    normalization: tuple[tuple[float, float, float], tuple[float, float, float]]
    deep_stem: bool = False
    max_pool: bool = True
    stride_in_last_unit: bool = False
    stride_in_1x1: bool = False


PLAIN = Form(IMAGENET)
BETA = Form(SYMMETRIC, deep_stem=True, stride_in_last_unit=True)
CAFFE_FORM = Form(CAFFE, stride_in_1x1=True)
DEEPLAB2 = Form(SYMMETRIC, max_pool=False)
DEEPLAB2_BETA = Form(SYMMETRIC, deep_stem=True, max_pool=False)


class _Unit(NamedTuple):
    output: tf.Tensor
    before_add: tf.Tensor


def resnet(
    images: tf.Tensor, config: BackboneConfig, settings: LayerSettings, depth: int = 50, form: Form = PLAIN
) -> BackboneFeatures:
    """Builds a ResNet without its classifier.

    Skips are the outputs of the stem and of blocks 1 and 2. Where a block's last unit has the stride, its skip is
    the third convolution after normalization, before the addition, of its last unit but one.

    Args:
        images: float32 [batch, height, width, 3] in 0..255.
        config: Output stride, and multi-grid factors of the units of the last block; null is off.
        settings: Of the network.
        depth: Row of the table of depths: 50 or 101.
        form: Which form.

    Returns:
        2048 channels at the output stride; skips of 64 (beta: 128), 256 and 512 channels at strides 2, 4 and 8.
    """
    features = ImageNormalization(*form.normalization, name="backbone/normalize", dtype=FLOAT32)(images)
    plan = AtrousPlan(config.output_stride)
    features = _stem(features, settings, form)
    plan.step(2)
    skips = {2: features}
    if form.max_pool:
        features = _max_pool(features, settings)
        plan.step(2)
    multi_grid = config.multi_grid or _MULTI_GRID

    for block, (width, units) in enumerate(zip(_BLOCK_WIDTHS, _UNITS[depth], strict=True), start=1):
        last = block == len(_BLOCK_WIDTHS)
        strided_unit = _strided_unit(block, units, form)
        for index in range(1, units + 1):
            stride, rate = plan.step(2 if index == strided_unit else 1)
            if form.stride_in_1x1:
                # The 3x3 convolution comes after the stride.
                rate = plan.rate
            if last:
                rate *= multi_grid[(index - 1) % len(multi_grid)]
            strides = (stride, 1) if form.stride_in_1x1 else (1, stride)
            unit = _bottleneck(features, settings, f"backbone/block{block}/unit{index}", width, strides, rate)
            features = unit.output
            if block in _SKIP_BLOCKS and index == (units - 1 if form.stride_in_last_unit else units):
                skips[_SKIP_BLOCKS[block]] = unit.before_add if form.stride_in_last_unit else unit.output
    return BackboneFeatures(features, skips)


def _strided_unit(block: int, units: int, form: Form) -> int | None:
    """Returns which unit of a block, from 1, has stride 2."""
    if form.stride_in_last_unit:
        return units if block < len(_BLOCK_WIDTHS) else None
    return 1 if block > 1 or not form.max_pool else None


def _stem(features: tf.Tensor, settings: LayerSettings, form: Form) -> tf.Tensor:
    if not form.deep_stem:
        return conv_bn(features, settings, "backbone/stem", 64, kernel_size=7, strides=2)
    for index, (filters, stride) in enumerate(((64, 2), (64, 1), (128, 1)), start=1):
        features = conv_bn(features, settings, f"backbone/stem{index}", filters, kernel_size=3, strides=stride)
    return features


def _max_pool(features: tf.Tensor, settings: LayerSettings) -> tf.Tensor:
    # After a ReLU zeros never win, so they pad as well as minus infinity.
    features = keras.layers.ZeroPadding2D(1, name="backbone/pool/pad", dtype=settings.dtype)(features)
    return keras.layers.MaxPooling2D(3, strides=2, name="backbone/pool", dtype=settings.dtype)(features)


def _bottleneck(
    features: tf.Tensor, settings: LayerSettings, name: str, width: int, strides: tuple[int, int], rate: int
) -> _Unit:
    channels = width * _EXPANSION
    stride = max(strides)
    if features.shape[-1] != channels:
        shortcut = conv_bn(features, settings, f"{name}/shortcut", channels, strides=stride, activation="none")
    elif stride > 1:
        shortcut = keras.layers.MaxPooling2D(1, strides=stride, name=f"{name}/shortcut/pool", dtype=settings.dtype)(
            features
        )
    else:
        shortcut = features
    residual = conv_bn(features, settings, f"{name}/conv1", width, strides=strides[0])
    residual = conv_bn(residual, settings, f"{name}/conv2", width, 3, strides[1], rate)
    residual = conv_bn(residual, settings, f"{name}/conv3", channels, activation="none")
    total = keras.layers.Add(name=f"{name}/add", dtype=settings.dtype)([shortcut, residual])
    return _Unit(activate(total, settings, name, "relu"), residual)
