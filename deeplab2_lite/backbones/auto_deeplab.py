"""Auto-DeepLab+ (Liu et al., "Auto-DeepLab", figure 3; paper, appendix B), the network that a search found.

Twelve equal cells at levels of resolution: level 0 is stride 4, each further level halves resolution
and doubles width. The "+" leaves out the stride of level 3, which so has level 2's resolution.

Parameter counts do not tell where a cell resizes; the paper's multiply-adds do: the last output is
enlarged, and the one before it brought to the last one's size, ahead of their 1x1 convolutions. How a
cell of stride 2 strides changes no count. As in the authors' public code, its separable convolutions
stride, while the input of an atrous one is halved bilinearly and its rate is 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones.common import BackboneFeatures
from deeplab2_lite.config import BackboneConfig
from deeplab2_lite.layers.activations import activate
from deeplab2_lite.layers.convolutions import conv_bn, depthwise_conv
from deeplab2_lite.layers.normalization import SYMMETRIC, ImageNormalization
from deeplab2_lite.layers.resizing import ResizeLike
from deeplab2_lite.layers.settings import FLOAT32, LayerSettings

_LEVELS = (0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1)
# The "+": level 3 would be stride 32.
_STRIDES = {0: 4, 1: 8, 2: 16, 3: 16}
# Cells, from 0, whose outputs are the skips of strides 4 and 8.
_SKIP_CELLS = (2, 5)
_ATROUS_RATE = 2


class _Operation(NamedTuple):
    """One operation of the cell, and the state that it reads: 0 and 1 are the cell's inputs."""

    atrous: bool
    kernel_size: int
    state: int


# Each pair adds up to the next state, from 2 on. Separable operations come first: in a cell of stride 2
# they tell the atrous ones the size.
_CELL = (
    (_Operation(False, 3, 0), _Operation(True, 5, 1)),
    (_Operation(False, 3, 1), _Operation(True, 3, 0)),
    (_Operation(False, 3, 3), _Operation(False, 3, 1)),
    (_Operation(False, 5, 4), _Operation(False, 5, 2)),
    (_Operation(False, 5, 3), _Operation(True, 5, 5)),
)
_INPUT_STATES = 2


def auto_deeplab(
    images: tf.Tensor,
    config: BackboneConfig,
    settings: LayerSettings,
    filters: int = 48,
    skip_strides: Collection[int] = (4, 8),
) -> BackboneFeatures:
    """Builds Auto-DeepLab+.

    The last cell is at level 1, so the output stride is 8 whatever the strides between.

    Args:
        images: float32 [batch, height, width, 3] in 0..255.
        config: Nothing in it changes this network; its output stride is 8 (`config_validation.py` sees to it).
        settings: Of the network.
        filters: F, the width of a level-0 cell: 48 in L+, 64 in XL+ and XL++.
        skip_strides: Which skips to give beside that of stride 2. The paper's XL+ has that of stride 4 alone; L+
            and XL++ have both.

    Returns:
        10 F channels at stride 8; skips of 64, 5 F and 10 F channels at strides 2, 4 and 8, before the ReLU that
        every reader of a cell begins with.
    """
    features = ImageNormalization(*SYMMETRIC, name="backbone/normalize", dtype=FLOAT32)(images)
    before, features = _stem(features, settings)
    skips = {2: before}
    by_stride = {4: features}
    stride = 4
    for index, level in enumerate(_LEVELS):
        name = f"backbone/cell{index}"
        cell_input = features
        if _STRIDES[level] < stride:
            # Twice as large would be a pixel off where the size is even.
            cell_input = _resize_like(features, by_stride[_STRIDES[level]], settings, f"{name}/upsample")
        strides = 2 if _STRIDES[level] > stride else 1
        output = _cell(cell_input, before, settings, name, filters * 2**level, strides)
        before, features, stride = features, output, _STRIDES[level]
        by_stride[stride] = features
        if index in _SKIP_CELLS and stride in skip_strides:
            skips[stride] = features
    return BackboneFeatures(activate(features, settings, "backbone/output", "relu"), skips)


def _stem(features: tf.Tensor, settings: LayerSettings) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the features at strides 2 and 4, which stand in for the outputs of two cells: without their ReLU."""
    features = conv_bn(features, settings, "backbone/stem1", 64, 3, strides=2)
    before = conv_bn(features, settings, "backbone/stem2", 64, 3, activation="none")
    features = activate(before, settings, "backbone/stem2", "relu")
    return before, conv_bn(features, settings, "backbone/stem3", 128, 3, strides=2, activation="none")


def _cell(
    features: tf.Tensor, before: tf.Tensor, settings: LayerSettings, name: str, width: int, strides: int
) -> tf.Tensor:
    """Builds a cell on the output of the last one and `before`, that of the one before it.

    Returns:
        [batch, ceil(height / strides), ceil(width / strides), 5 * width] for features [batch, height, width, any].
    """
    states = [_relu_conv_bn(features, settings, f"{name}/state0", width)]
    before = _resize_like(before, states[0], settings, f"{name}/state1/resize")
    if before.shape[-1] != width:
        before = _relu_conv_bn(before, settings, f"{name}/state1", width)
    states.append(before)
    # Every operation begins with a ReLU; those of one state share it.
    activated = [
        activate(state, settings, f"{name}/state{index}/activated", "relu") for index, state in enumerate(states)
    ]
    for first, second in _CELL:
        state_name = f"{name}/state{len(states)}"
        result = _operate(first, activated, settings, state_name, width, strides)
        other = _operate(second, activated, settings, state_name, width, strides, result)
        state = keras.layers.Add(name=f"{state_name}/add", dtype=settings.dtype)([result, other])
        states.append(state)
        if len(states) < _INPUT_STATES + len(_CELL):
            activated.append(activate(state, settings, state_name, "relu"))
    return keras.layers.Concatenate(name=f"{name}/concat", dtype=settings.dtype)(states[_INPUT_STATES:])


def _operate(
    operation: _Operation,
    states: Sequence[tf.Tensor],
    settings: LayerSettings,
    name: str,
    width: int,
    strides: int,
    reference: tf.Tensor | None = None,
) -> tf.Tensor:
    """Applies one operation to its state; only the inputs of a cell are strided, and `reference` has the size then."""
    source = states[operation.state]
    strides = strides if operation.state < _INPUT_STATES else 1
    if not operation.atrous:
        name = f"{name}/separable_of_state{operation.state}"
        return _separable(source, settings, name, width, operation.kernel_size, strides)
    name = f"{name}/atrous_of_state{operation.state}"
    rate = _ATROUS_RATE
    if strides > 1:
        source, rate = _resize_like(source, reference, settings, f"{name}/resize"), 1
    return conv_bn(source, settings, name, width, operation.kernel_size, dilation_rate=rate, activation="none")


def _separable(
    features: tf.Tensor, settings: LayerSettings, name: str, width: int, kernel_size: int, strides: int
) -> tf.Tensor:
    """Builds two separable convolutions, normalized after the pointwise ones, on activated features."""
    features = depthwise_conv(features, settings, f"{name}/depthwise1", kernel_size, strides)
    features = conv_bn(features, settings, f"{name}/pointwise1", width)
    features = depthwise_conv(features, settings, f"{name}/depthwise2", kernel_size)
    return conv_bn(features, settings, f"{name}/pointwise2", width, activation="none")


def _relu_conv_bn(features: tf.Tensor, settings: LayerSettings, name: str, width: int) -> tf.Tensor:
    features = activate(features, settings, f"{name}/input", "relu")
    return conv_bn(features, settings, name, width, activation="none")


def _resize_like(features: tf.Tensor, reference: tf.Tensor, settings: LayerSettings, name: str) -> tf.Tensor:
    return ResizeLike(name=name, dtype=settings.dtype)([features, reference])
