"""The table of instances: one row for each centre, in the order of the `.instance` map's numbers."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.postprocessing.centers import Centers
from deeplab2_lite.postprocessing.merging import Merged, count_ids, segment_ids


class InstanceTable(NamedTuple):
    """The instances of each image, best centre first; row i is the instance i + 1 of the map.

    Rows of missing centres, of centres that no pixel chose, and of instances for which their class had
    no id left are invalid: class_id and panoptic_id are -1 there, the rest 0. Invalid rows may lie
    between valid ones.

    Attributes:
        valid: bool [batch, top_k].
        class_id: int32 [batch, top_k], a thing class.
        panoptic_id: int32 [batch, top_k], the id in the panoptic map.
        center: int32 [batch, top_k, 2], (y, x) in pixels.
        center_score: float32 [batch, top_k], the heatmap's value at the centre.
        area: int32 [batch, top_k], pixels.
        box: int32 [batch, top_k, 4], (ymin, xmin, ymax, xmax) of its pixels, the maxima exclusive.
    """

    valid: tf.Tensor
    class_id: tf.Tensor
    panoptic_id: tf.Tensor
    center: tf.Tensor
    center_score: tf.Tensor
    area: tf.Tensor
    box: tf.Tensor


def build_table(merged: Merged, centers: Centers) -> InstanceTable:
    """Builds the table of instances.

    Args:
        merged: Maps and rows of the merge.
        centers: The centres that the rows came from.

    Returns:
        The table.
    """
    valid = merged.valid
    # Rows beyond the divisor have no pixels left in the map, so that their boxes are 0 too.
    area, box = areas_and_boxes(merged.instance, valid.shape[1])
    return InstanceTable(
        valid,
        merged.class_id,
        merged.panoptic_id,
        tf.where(valid[..., tf.newaxis], centers.position, 0),
        tf.where(valid, centers.score, 0.0),
        area,
        box,
    )


def areas_and_boxes(instance: tf.Tensor, top_k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Measures instances by their pixels.

    Args:
        instance: int32 [batch, height, width], 1 + row of the instance; 0 is none.
        top_k: Number of rows.

    Returns:
        Areas in pixels, int32 [batch, top_k], and boxes (ymin, xmin, ymax, xmax), the maxima exclusive,
        int32 [batch, top_k, 4]; 0 for instances without pixels.
    """
    area = count_ids(instance, top_k + 1)[:, 1:]
    ids, number = segment_ids(instance, top_k + 1)
    y = tf.range(tf.shape(ids)[1])[:, tf.newaxis] + tf.zeros_like(ids)
    x = tf.range(tf.shape(ids)[2]) + tf.zeros_like(ids)
    # Minima as maxima of what lies the other way round: one pass serves all four sides.
    sides = tf.math.unsorted_segment_max(tf.stack([-y, -x, y + 1, x + 1], axis=-1), ids, number)
    sides = tf.reshape(sides, [tf.shape(ids)[0], top_k + 1, 4])[:, 1:]
    return area, tf.where((area > 0)[..., tf.newaxis], sides * tf.constant([-1, -1, 1, 1]), 0)
