"""HRNet (Wang et al., "Deep High-Resolution Representation Learning") and the paper's variants of it (appendix A).

Four branches of strides 4, 8, 16 and 32 run side by side and exchange their features. The plain network
gives all of them at stride 4. HRNet+ keeps the classification head, which widens each branch and leads
down to stride 32. HRNet-Wider+ has wider branches of Xception units. Lower output strides are the
paper's (Atrous): coarser branches lose their stride and get a rate, with the same weights.

The paper's counts cannot be reached with the published network, and its own is not published; this is
the published one, whose classifier is global pooling and a dense layer on the output of HRNet-W48+.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones.common import BackboneFeatures
from deeplab2_lite.backbones.hrnet_modules import (
    Resolution,
    Unit,
    basic_unit,
    bottleneck,
    conv_down,
    exchange,
    resolutions,
    separable_unit,
)
from deeplab2_lite.config import BackboneConfig
from deeplab2_lite.layers.convolutions import conv, conv_bn, norm_act
from deeplab2_lite.layers.normalization import IMAGENET, ImageNormalization
from deeplab2_lite.layers.resizing import ResizeLike
from deeplab2_lite.layers.settings import FLOAT32, LayerSettings


class Architecture(NamedTuple):
    """Sizes of an HRNet.

    Attributes:
        widths: Channels of the branches, fine to coarse.
        unit: Residual unit of the branches.
        modules: How many modules of two, of three and of four branches.
        units: How many units each branch of a module has, and how many bottlenecks stand before the first.
        stem_width: Channels of the stem, and width of the bottlenecks after it.
        head_widths: Width of the classification head's bottleneck of each branch.
        head_channels: Output channels of the head.
    """

    widths: tuple[int, int, int, int]
    unit: Unit = basic_unit
    modules: tuple[int, int, int] = (1, 4, 3)
    units: int = 4
    stem_width: int = 64
    head_widths: tuple[int, int, int, int] = (32, 64, 128, 256)
    head_channels: int = 2048


W48 = Architecture(widths=(48, 96, 192, 384))
WIDER = Architecture(widths=(64, 256, 384, 384), unit=separable_unit)


def hrnet(
    images: tf.Tensor,
    config: BackboneConfig,
    settings: LayerSettings,
    architecture: Architecture = W48,
    keep_head: bool = True,
) -> BackboneFeatures:
    """Builds an HRNet.

    Args:
        images: float32 [batch, height, width, 3] in 0..255.
        config: Output stride; that of the coarsest branch.
        settings: Of the network.
        architecture: Its sizes.
        keep_head: Keep the classification head; the plain network has none.

    Returns:
        With the head, 2048 channels at the output stride and skips of 64, 128, 256 and 512 channels at
        strides 2 (the stem), 4, 8 and 16 (the widened branches). Without, the channels of all branches at stride 4
        (720 for W48), and no skips.
    """
    scales = resolutions(config.output_stride)
    features = ImageNormalization(*IMAGENET, name="backbone/normalize", dtype=FLOAT32)(images)
    halved = conv_bn(features, settings, "backbone/stem1", architecture.stem_width, kernel_size=3, strides=2)
    branches = _body(_stem(halved, settings, architecture), settings, architecture, scales)
    if keep_head:
        final, widened = _classification_head(branches, settings, architecture, scales)
        # The paper does not say from where it takes the decoder's features; from the head it keeps, it is here.
        return BackboneFeatures(final, {2: halved, **dict(zip((4, 8, 16), widened, strict=False))})
    return BackboneFeatures(_side_by_side(branches, settings), {})


def _stem(features: tf.Tensor, settings: LayerSettings, architecture: Architecture) -> tf.Tensor:
    width = architecture.stem_width
    features = conv_bn(features, settings, "backbone/stem2", width, kernel_size=3, strides=2)
    for index in range(1, architecture.units + 1):
        features = bottleneck(features, settings, f"backbone/stage1/unit{index}", width)
    return features


def _body(
    features: tf.Tensor, settings: LayerSettings, architecture: Architecture, scales: Sequence[Resolution]
) -> list[tf.Tensor]:
    """Grows from one branch to four, one a stage."""
    widths = architecture.widths
    branches = [features]
    for stage, modules in enumerate(architecture.modules, start=2):
        name = f"backbone/stage{stage}"
        transition = f"{name}/transition/branch{stage}"
        coarser = conv_down(branches[-1], settings, transition, widths[stage - 1], scales[stage - 2], scales[stage - 1])
        coarser = norm_act(coarser, settings, transition)
        if stage == 2:
            branches = [conv_bn(features, settings, f"{name}/transition/branch1", widths[0], kernel_size=3)]
        branches.append(coarser)
        for index in range(1, modules + 1):
            branches = _module(branches, settings, architecture, scales, f"{name}/module{index}")
    return branches


def _module(
    branches: Sequence[tf.Tensor],
    settings: LayerSettings,
    architecture: Architecture,
    scales: Sequence[Resolution],
    name: str,
) -> list[tf.Tensor]:
    refined = []
    for number, (features, scale) in enumerate(zip(branches, scales, strict=False), start=1):
        for index in range(1, architecture.units + 1):
            features = architecture.unit(features, settings, f"{name}/branch{number}/unit{index}", scale.rate)
        refined.append(features)
    return exchange(refined, scales, settings, f"{name}/exchange")


def _classification_head(
    branches: Sequence[tf.Tensor], settings: LayerSettings, architecture: Architecture, scales: Sequence[Resolution]
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Widens each branch by a bottleneck, then adds it to what comes down from the finer ones (figure 6a).

    Returns:
        The last features, and the widened branches.
    """
    widened = [
        bottleneck(features, settings, f"backbone/head/branch{number}", width, scale.rate)
        for number, (features, width, scale) in enumerate(
            zip(branches, architecture.head_widths, scales, strict=True), start=1
        )
    ]
    features = widened[0]
    for level in range(1, len(widened)):
        name = f"backbone/head/down{level}"
        source, target = scales[level - 1 : level + 1]
        channels = widened[level].shape[-1]
        # Normalization makes the biases of the head redundant, but the public weights have them.
        features = conv_down(features, settings, name, channels, source, target, use_bias=True)
        features = norm_act(features, settings, name)
        features = keras.layers.Add(name=f"{name}/add", dtype=settings.dtype)([widened[level], features])
    features = conv(features, settings, "backbone/head/final", architecture.head_channels, use_bias=True)
    features = norm_act(features, settings, "backbone/head/final")
    return features, widened


def _side_by_side(branches: Sequence[tf.Tensor], settings: LayerSettings) -> tf.Tensor:
    """Brings all branches to the finest one's size (figure 5)."""
    resized = [branches[0]]
    for number, features in enumerate(branches[1:], start=2):
        resize = ResizeLike(name=f"backbone/branch{number}/resize", dtype=settings.dtype)
        resized.append(resize([features, branches[0]]))
    return keras.layers.Concatenate(name="backbone/concat", dtype=settings.dtype)(resized)
