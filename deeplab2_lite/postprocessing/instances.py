"""The table of instances: one row for each centre, in the order of the `.instance` map's numbers."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.postprocessing.centers import Centers
from deeplab2_lite.postprocessing.merging import Votes, count_ids


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


def build_table(votes: Votes, centers: Centers) -> InstanceTable:
    """Builds the table of instances.

    Args:
        votes: What became of each row.
        centers: The centres that the rows came from.

    Returns:
        The table.
    """
    valid = votes.valid
    # Rows beyond the divisor have no pixels left in the map, so that their boxes are 0 too.
    area, box = areas_and_boxes(votes.instance, valid.shape[1])
    return InstanceTable(
        valid,
        votes.class_id,
        votes.panoptic_id,
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
    height, width = (instance.shape[axis] or tf.shape(instance)[axis] for axis in (1, 2))
    by_row = _count_along(instance, tf.range(height)[:, tf.newaxis], height, top_k)
    by_column = _count_along(instance, tf.range(width), width, top_k)
    area = tf.reduce_sum(by_row, axis=-1)
    (top, bottom), (left, right) = _extent(by_row), _extent(by_column)
    box = tf.stack([top, left, bottom, right], axis=-1)
    return area, tf.where((area > 0)[..., tf.newaxis], box, 0)


def _count_along(instance: tf.Tensor, place: tf.Tensor, places: int | tf.Tensor, top_k: int) -> tf.Tensor:
    """Counts the pixels of each instance in each row, or column, [batch, top_k, places]."""
    # A count of ids costs a quarter of the maxima of coordinates by id.
    counts = count_ids(instance * places + place, (top_k + 1) * places)
    return tf.reshape(counts, [-1, top_k + 1, places])[:, 1:]


def _extent(counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """First place with a count, and one past the last, [batch, top_k]."""
    places = tf.shape(counts)[-1]
    place = tf.range(places)
    first = tf.reduce_min(tf.where(counts > 0, place, places), axis=-1)
    return first, tf.reduce_max(tf.where(counts > 0, place + 1, 0), axis=-1)
