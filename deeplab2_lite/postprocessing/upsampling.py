"""The network's outputs, and bringing them from stride 4 to the resolution of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.errors import UserError
from deeplab2_lite.layers.resizing import resize_align_corners


class Heads(NamedTuple):
    """The network's outputs at one resolution; None where the model has no such head.

    Attributes:
        semantic_logits: [batch, height, width, classes].
        center_heatmap: [batch, height, width, 1], 1 at the centre of an instance.
        center_offset: [batch, height, width, 2], (dy, dx) to the instance's centre, in pixels of this
            resolution.
    """

    semantic_logits: tf.Tensor | None
    center_heatmap: tf.Tensor | None
    center_offset: tf.Tensor | None


def upsample_heads(heads: Heads | Mapping[str, tf.Tensor], height: int | tf.Tensor, width: int | tf.Tensor) -> Heads:
    """Resizes all outputs bilinearly with aligned corners, offsets in value as well as in size.

    Args:
        heads: The model's outputs, as a mapping by the names of `Heads` or as `Heads`.
        height: Height of the image in pixels, static or a scalar tensor.
        width: Its width, likewise.

    Returns:
        The heads at height x width, float32: a heatmap in half precision would gain ties. Offsets are
        multiplied by (height - 1) / (their height - 1), and likewise across; by 1 where their side is 1.

    Raises:
        UserError: No output is there, or a size is not positive.
    """
    heads = _as_heads(heads)
    for name, size in (("height", height), ("width", width)):
        if not tf.is_tensor(size) and size < 1:
            raise UserError(f"upsample_heads: {name}: expected a positive size in pixels, got {size}")
    offset = _resize(heads.center_offset, height, width)
    if offset is not None:
        old_height, old_width = (_side(heads.center_offset, axis) for axis in (1, 2))
        offset *= tf.stack([_scale(height, old_height), _scale(width, old_width)])
    return Heads(_resize(heads.semantic_logits, height, width), _resize(heads.center_heatmap, height, width), offset)


def _as_heads(heads: Heads | Mapping[str, tf.Tensor]) -> Heads:
    if not isinstance(heads, Heads):
        heads = Heads(*(heads.get(name) for name in Heads._fields))
    if all(head is None for head in heads):
        raise UserError(f"upsample_heads: expected a mapping with one of {', '.join(Heads._fields)} at least")
    return heads


def _resize(head: tf.Tensor | None, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor | None:
    if head is None:
        return None
    return resize_align_corners(tf.cast(head, tf.float32), height, width)


def _side(head: tf.Tensor, axis: int) -> int | tf.Tensor:
    static = head.shape[axis]
    return tf.shape(head)[axis] if static is None else static


def _scale(new: int | tf.Tensor, old: int | tf.Tensor) -> tf.Tensor:
    steps = tf.cast(new - 1, tf.float32) / tf.cast(tf.maximum(old - 1, 1), tf.float32)
    return tf.where(tf.equal(old, 1), 1.0, steps)
