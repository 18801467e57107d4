"""The decoder: resolution is regained step by step with features of the backbone (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import BranchConfig, DecoderConfig
from deeplab2_lite.layers.convolutions import conv_bn, separable_conv_bn
from deeplab2_lite.layers.resizing import ResizeLike
from deeplab2_lite.layers.settings import LayerSettings


def decoder(
    context: tf.Tensor,
    skips: Mapping[int, tf.Tensor],
    settings: LayerSettings,
    name: str,
    branch: BranchConfig,
    config: DecoderConfig,
) -> tf.Tensor:
    """Upsamples context to the finest skip, merging one skip a stage.

    Args:
        context: Result of ASPP, [batch, height, width, any].
        skips: Features of the backbone by their stride; those of `config.skip_strides` are used.
        settings: Of the network.
        name: Prefix of the layers' names.
        branch: Widths: `decoder_channels`, and one of `projection_channels` for each skip.
        config: Skip strides, coarse to fine, and the convolutions after each merge.

    Returns:
        [batch, height of the last skip, its width, branch.decoder_channels].
    """
    features = context
    for stride, projection in zip(config.skip_strides, branch.projection_channels, strict=True):
        stage = f"{name}/os{stride}"
        skip = conv_bn(skips[stride], settings, f"{stage}/project", projection)
        features = ResizeLike(name=f"{stage}/resize", dtype=settings.dtype)([features, skip])
        features = keras.layers.Concatenate(name=f"{stage}/concat", dtype=settings.dtype)([features, skip])
        for index in range(1, config.convolutions_per_stage + 1):
            features = separable_conv_bn(
                features, settings, f"{stage}/fuse{index}", branch.decoder_channels, config.kernel_size
            )
    return features
