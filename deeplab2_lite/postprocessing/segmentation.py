"""Panoptic segmentation: from full-resolution head outputs to maps and instances (paper section 3.2)."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.errors import UserError
from deeplab2_lite.postprocessing.centers import find_centers
from deeplab2_lite.postprocessing.grouping import group_pixels
from deeplab2_lite.postprocessing.instances import InstanceTable, build_table
from deeplab2_lite.postprocessing.merging import merge


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
        stuff_area_limit: A stuff class with fewer pixels in an image, at this resolution, becomes void.
        center_threshold: Heatmap values at or below it are no centres.
        nms_kernel: Side in pixels of the window in which a centre is the maximum, odd.
        top_k: The most centres of an image.

    Returns:
        Maps and instances.

    Raises:
        UserError: A shape or a setting is not as said above.
    """
    label_divisor = _at_least("label_divisor", label_divisor, 1)
    ignore_label = _at_least("ignore_label", ignore_label, 0)
    stuff_area_limit = _at_least("stuff_area_limit", stuff_area_limit, 0)
    top_k = _at_least("top_k", top_k, 1)
    nms_kernel = _at_least("nms_kernel", nms_kernel, 1)
    if nms_kernel % 2 == 0:
        raise UserError(f"panoptic_segmentation: nms_kernel: expected an odd size, got {nms_kernel}")
    if not math.isfinite(center_threshold):
        raise UserError(f"panoptic_segmentation: center_threshold: expected a number, got {center_threshold}")
    semantic_logits, center_heatmap, center_offset = _with_common_shape(semantic_logits, center_heatmap, center_offset)
    is_thing = _thing_flags(thing_ids, semantic_logits.shape[-1])

    semantic = greatest_class(semantic_logits)
    centers = find_centers(center_heatmap, center_threshold, nms_kernel, top_k)
    instance = group_pixels(center_offset, tf.gather(tf.constant(is_thing), semantic), centers)
    merged = merge(semantic, instance, is_thing, top_k, label_divisor, ignore_label, stuff_area_limit)
    return PanopticResult(merged.panoptic, semantic, merged.instance, build_table(merged, centers))


def greatest_class(scores: tf.Tensor) -> tf.Tensor:
    """Takes the class of the greatest score, the smaller id on a tie.

    Args:
        scores: [batch, height, width, classes], classes static; NaN counts as -inf.

    Returns:
        int32 [batch, height, width]; 0 where no score is above -inf.
    """
    # tf.argmax promises neither the first of equals nor the same answer to NaN everywhere. A comparison
    # with NaN is false, so it never wins here.
    greatest = tf.fill(tf.shape(scores)[:-1], tf.constant(float("-inf"), scores.dtype))
    winner = tf.zeros_like(greatest, tf.int32)
    for class_id in range(scores.shape[-1]):
        score = scores[..., class_id]
        wins = score > greatest
        greatest = tf.where(wins, score, greatest)
        winner = tf.where(wins, class_id, winner)
    return tf.ensure_shape(winner, scores.shape[:-1])


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


def _with_common_shape(*heads: tf.Tensor) -> list[tf.Tensor]:
    """Checks the heads' shapes, and gives each what another's says of batch, height and width."""
    channels = {"semantic_logits": None, "center_heatmap": 1, "center_offset": 2}
    heads = [tf.convert_to_tensor(head) for head in heads]
    common = tf.TensorShape([None, None, None])
    for (name, depth), head in zip(channels.items(), heads, strict=True):
        expected = common.concatenate([depth])
        if not head.dtype.is_floating or not head.shape.is_compatible_with(expected):
            raise UserError(
                f"panoptic_segmentation: {name}: expected floating point of shape {expected}, "
                f"got {head.dtype.name} {head.shape}"
            )
        common = expected.merge_with(head.shape)[:3]
    return [
        tf.ensure_shape(head, common.concatenate([depth])) for head, depth in zip(heads, channels.values(), strict=True)
    ]
