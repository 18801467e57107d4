"""Bringing panoptic results to another resolution, by nearest neighbour."""

from __future__ import annotations

import tensorflow as tf

from deeplab2_lite.postprocessing.instances import InstanceTable, areas_and_boxes
from deeplab2_lite.postprocessing.segmentation import PanopticResult


def resize_result(result: PanopticResult, height: int | tf.Tensor, width: int | tf.Tensor) -> PanopticResult:
    """Resizes the maps by nearest neighbour, and measures the instances anew.

    Args:
        result: At the network's resolution.
        height: Height of the result in pixels, static or a scalar tensor.
        width: Its width, likewise.

    Returns:
        The result at height x width. Rows whose instance has no pixel left become invalid; centres move with
        the pixel that they lie in.
    """
    maps = (result.panoptic, result.semantic, result.instance)
    panoptic, semantic, instance = (resize_nearest(m, height, width) for m in maps)
    table = result.instances
    area, box = areas_and_boxes(instance, table.valid.shape[1])
    valid = table.valid & (area > 0)
    old, new = tf.shape(result.panoptic)[1:3], tf.stack([height, width])
    # The pixel of the new map that the old pixel's middle lies in.
    center = (2 * table.center + 1) * new // (2 * old)
    resized = InstanceTable(
        valid,
        tf.where(valid, table.class_id, -1),
        tf.where(valid, table.panoptic_id, -1),
        tf.where(valid[..., tf.newaxis], center, 0),
        tf.where(valid, table.center_score, 0.0),
        tf.where(valid, area, 0),
        tf.where(valid[..., tf.newaxis], box, 0),
    )
    return PanopticResult(panoptic, semantic, instance, resized)


def resize_nearest(maps: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Resizes maps of ids to the nearest pixel's id.

    Args:
        maps: [batch, old height, old width], integers.
        height: New height, static or a scalar tensor.
        width: New width, likewise.

    Returns:
        [batch, height, width].
    """
    old_height, old_width = tf.unstack(tf.shape(maps)[1:3])
    return tf.gather(tf.gather(maps, _nearest(old_height, height), axis=1), _nearest(old_width, width), axis=2)


def _nearest(old: tf.Tensor, new: int | tf.Tensor) -> tf.Tensor:
    # floor((i + 1/2) * old / new) in integers, so that no pixel is off by rounding.
    return (2 * tf.range(new) + 1) * old // (2 * new)
