"""Panoptic and instance segmentation: from head outputs to maps and instances (paper sections 3.2 and 3.3)."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.errors import UserError
from deeplab2_lite.postprocessing.centers import Centers, find_centers
from deeplab2_lite.postprocessing.grouping import group_pixels
from deeplab2_lite.postprocessing.instances import InstanceTable, build_table
from deeplab2_lite.postprocessing.merging import Votes, paint, vote
from deeplab2_lite.postprocessing.semantic import semantic_segmentation
from deeplab2_lite.postprocessing.upsampling import Heads, Upsampling


class PanopticResult(NamedTuple):
    """What an image shows.

    Attributes:
        panoptic: int32 [batch, height, width], class id * label_divisor + instance id; void is
            ignore_label * label_divisor.
        semantic: int32 [batch, height, width], the class of the greatest score, before any merging.
        instance: int32 [batch, height, width], 1 + the row of the pixel's instance; 0 on stuff and void.
        instances: The table of instances, [batch, top_k, ...].
    """

    panoptic: tf.Tensor
    semantic: tf.Tensor
    instance: tf.Tensor
    instances: InstanceTable


class InstanceResult(NamedTuple):
    """The things of an image: the parts of `PanopticResult` that tell of them.

    Attributes:
        semantic: int32 [batch, height, width].
        instance: int32 [batch, height, width].
        instances: The table of instances, [batch, top_k, ...].
    """

    semantic: tf.Tensor
    instance: tf.Tensor
    instances: InstanceTable


def panoptic_segmentation(
    semantic_logits: tf.Tensor,
    center_heatmap: tf.Tensor,
    center_offset: tf.Tensor,
    *,
    thing_ids: Sequence[int],
    label_divisor: int,
    ignore_label: int,
    stuff_area_limit: int,
    center_threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int = 200,
    upsampling: Upsampling | None = None,
) -> PanopticResult:
    """Finds centres, groups thing pixels, votes on classes and filters small stuff (paper section 3.2).

    Runs in TensorFlow operations alone, on batches of static or dynamic size, eagerly, in a
    `tf.function` or compiled by XLA, with the same result. Memory grows with height x width, never with
    it times the number of instances.

    Ties: the smaller class id; centres and equally near centres by (score, scan order). Heatmap values
    that are not finite neither become nor hide a centre; thing pixels whose offset is not finite, or whose
    image has no centre, are void; a NaN score counts as -inf, and where all are, class 0 wins.
    Instances of a class beyond `label_divisor - 1`, which needs top_k >= label_divisor, are void.

    Args:
        semantic_logits: [batch, height, width, classes], floating point, classes static; any scores, since
            they are only compared.
        center_heatmap: [batch, height, width, 1], floating point.
        center_offset: [batch, height, width, 2], floating point, (dy, dx) in pixels of this resolution.
        thing_ids: Ids of the thing classes; the others are stuff.
        label_divisor: Panoptic id = class id * label_divisor + instance id.
        ignore_label: Class id of void.
        stuff_area_limit: A stuff class with fewer pixels in an image, at the result's resolution, becomes void.
        center_threshold: Heatmap values at or below it are no centres.
        nms_kernel: Side in pixels of the window in which a centre is the maximum, odd.
        top_k: The most centres of an image.
        upsampling: Brings heads of lower resolution to that of the image first, with the result that
            `upsample_heads` and cutting off the padding would give, for less time and memory.

    Returns:
        Maps and instances.

    Raises:
        UserError: A shape or a setting is not as said above.
    """
    _at_least("ignore_label", ignore_label, 0)
    _at_least("stuff_area_limit", stuff_area_limit, 0)
    heads = Heads(semantic_logits, center_heatmap, center_offset)
    things = _find_things(heads, thing_ids, label_divisor, center_threshold, nms_kernel, top_k, upsampling)
    panoptic = paint(things.votes, things.is_thing, label_divisor, ignore_label, stuff_area_limit)
    table = build_table(things.votes, things.centers)
    return PanopticResult(panoptic, things.semantic, things.votes.instance, table)


def instance_segmentation(
    semantic_logits: tf.Tensor,
    center_heatmap: tf.Tensor,
    center_offset: tf.Tensor,
    *,
    thing_ids: Sequence[int],
    label_divisor: int,
    center_threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int = 200,
    upsampling: Upsampling | None = None,
) -> InstanceResult:
    """Finds instances alone (paper section 3.3): `panoptic_segmentation` without stuff and without the panoptic map.

    Args:
        semantic_logits: As for `panoptic_segmentation`.
        center_heatmap: Likewise.
        center_offset: Likewise.
        thing_ids: Likewise.
        label_divisor: Likewise.
        center_threshold: Likewise.
        nms_kernel: Likewise.
        top_k: Likewise.
        upsampling: Likewise.

    Returns:
        Maps and instances; `score_instances` takes it as well.

    Raises:
        UserError: A shape or a setting is not as said there.
    """
    heads = Heads(semantic_logits, center_heatmap, center_offset)
    things = _find_things(heads, thing_ids, label_divisor, center_threshold, nms_kernel, top_k, upsampling)
    return InstanceResult(things.semantic, things.votes.instance, build_table(things.votes, things.centers))


class _Things(NamedTuple):
    is_thing: tuple[bool, ...]
    semantic: tf.Tensor
    centers: Centers
    votes: Votes


def _find_things(
    heads: Heads,
    thing_ids: Sequence[int],
    label_divisor: int,
    center_threshold: float,
    nms_kernel: int,
    top_k: int,
    upsampling: Upsampling | None,
) -> _Things:
    """The part that panoptic and instance segmentation share, and its checks."""
    label_divisor = _at_least("label_divisor", label_divisor, 1)
    top_k = _at_least("top_k", top_k, 1)
    nms_kernel = _at_least("nms_kernel", nms_kernel, 1)
    if nms_kernel % 2 == 0:
        raise UserError(f"panoptic_segmentation: nms_kernel: expected an odd size, got {nms_kernel}")
    if not math.isfinite(center_threshold):
        raise UserError(f"panoptic_segmentation: center_threshold: expected a number, got {center_threshold}")
    heads = _with_common_shape(heads)
    is_thing = _thing_flags(thing_ids, heads.semantic_logits.shape[-1])

    semantic = semantic_segmentation(heads.semantic_logits, upsampling)
    if upsampling is not None:
        heads = upsampling.apply(heads._replace(semantic_logits=None))
    centers = find_centers(heads.center_heatmap, center_threshold, nms_kernel, top_k)
    instance = group_pixels(heads.center_offset, tf.gather(tf.constant(is_thing), semantic), centers)
    return _Things(is_thing, semantic, centers, vote(semantic, instance, len(is_thing), top_k, label_divisor))


def _at_least(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise UserError(f"panoptic_segmentation: {name}: expected an integer of {least} or more, got {value!r}")
    return number


def _thing_flags(thing_ids: Sequence[int], num_classes: int | None) -> tuple[bool, ...]:
    if not num_classes:
        raise UserError("panoptic_segmentation: semantic_logits: expected a static number of classes, got none")
    for thing_id in thing_ids:
        if not 0 <= thing_id < num_classes:
            raise UserError(
                f"panoptic_segmentation: thing_ids: expected ids below the number of classes, {num_classes}, "
                f"got {thing_id}"
            )
    return tuple(class_id in thing_ids for class_id in range(num_classes))


def _with_common_shape(heads: Heads) -> Heads:
    """Checks the heads' shapes, and gives each what another's says of batch, height and width."""
    channels = (None, 1, 2)
    tensors = [tf.convert_to_tensor(head) for head in heads]
    common = tf.TensorShape([None, None, None])
    for name, depth, head in zip(Heads._fields, channels, tensors, strict=True):
        expected = common.concatenate([depth])
        if not head.dtype.is_floating or not head.shape.is_compatible_with(expected):
            raise UserError(
                f"panoptic_segmentation: {name}: expected floating point of shape {expected}, "
                f"got {head.dtype.name} {head.shape}"
            )
        common = expected.merge_with(head.shape)[:3]
    return Heads(*(tf.ensure_shape(head, common.concatenate([d])) for head, d in zip(tensors, channels, strict=True)))
