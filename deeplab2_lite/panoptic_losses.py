"""What the network is to learn of labelled images, and its losses: those of the heads that it has."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.config import LossConfig
from deeplab2_lite.losses import (
    WeightedTerm,
    bootstrapped_cross_entropy,
    center_heatmap_loss,
    center_offset_loss,
)
from deeplab2_lite.postprocessing.upsampling import Heads

# Tags of DeepLab2's TensorBoard summaries; the first is the sum of the others.
TOTAL, SEMANTIC, CENTER, OFFSET = "total_loss", "semantic_loss", "center_loss", "regression_loss"


class Targets(NamedTuple):
    """What the network is to learn of one image, at the resolution of its label.

    Batches put a leading axis before each.

    Attributes:
        semantic: Class ids, void is the data set's `ignore_label`; int32 [height, width].
        semantic_weight: 0 on void, `small_instance_weight` on small instances, else 1; float32 [height, width].
        center_heatmap: Gaussians of peak 1 round the centres; float32 [height, width].
        center_weight: 0 on void and crowd, else 1; float32 [height, width].
        center_offset: From each pixel of an instance to its centre, (dy, dx) in pixels, 0 elsewhere;
            float32 [height, width, 2].
        offset_weight: 1 on the pixels of instances, else 0; float32 [height, width].
    """

    semantic: tf.Tensor
    semantic_weight: tf.Tensor
    center_heatmap: tf.Tensor
    center_weight: tf.Tensor
    center_offset: tf.Tensor
    offset_weight: tf.Tensor


def loss_names(semantic: bool, instances: bool) -> tuple[str, ...]:
    """Returns the names of the losses of a network.

    Args:
        semantic: Whether it has the semantic head.
        instances: Whether it has the two heads of instances.
    """
    return (*((SEMANTIC,) if semantic else ()), *((CENTER, OFFSET) if instances else ()))


def loss_terms(heads: Heads, targets: Targets, config: LossConfig) -> dict[str, WeightedTerm]:
    """Computes the losses of the heads that the network has.

    Args:
        heads: At the resolution of the targets.
        targets: Batched.
        config: Weights of the losses and their kinds.

    Returns:
        Loss terms by their TensorBoard names.
    """
    terms = {}
    if heads.semantic_logits is not None:
        cross_entropy = bootstrapped_cross_entropy(
            heads.semantic_logits, targets.semantic, targets.semantic_weight, config.hardest_fraction
        )
        terms[SEMANTIC] = WeightedTerm(cross_entropy, config.semantic_weight)
    if heads.center_heatmap is not None and heads.center_offset is not None:
        heatmap = center_heatmap_loss(
            heads.center_heatmap[..., 0], targets.center_heatmap, targets.center_weight, config.center
        )
        offset = center_offset_loss(heads.center_offset, targets.center_offset, targets.offset_weight)
        terms[CENTER] = WeightedTerm(heatmap, config.center_weight)
        terms[OFFSET] = WeightedTerm(offset, config.offset_weight)
    return terms


def loss_denominators(targets: Targets) -> dict[str, tf.Tensor]:
    """Computes what the losses are divided by, summed over the global batch.

    Args:
        targets: Batched.

    Returns:
        The denominators of `loss_terms` by name, float32 scalars, whatever heads there are.
    """
    return {
        SEMANTIC: tf.cast(tf.shape(targets.semantic)[0], tf.float32),
        CENTER: tf.reduce_sum(targets.center_weight),
        OFFSET: tf.reduce_sum(targets.offset_weight),
    }
