"""Stretching the intensities of an image: one rule for training and inference, whatever the exposure was.

Microscopes and cameras differ by a factor of ten and more in how bright they show the same object. Two
percentiles of an image's own levels say what is dark in it and what is bright.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

_LEVELS = 256
# Levels are counted and looked up as int32, four times the size of an image: so many rows at a time.
_ROWS = 256


def stretch_intensity(images: tf.Tensor, percentiles: tuple[float, float], sizes: tf.Tensor | None = None) -> tf.Tensor:
    """Maps two percentiles of each image's levels to 0 and 255, linearly; what lies beyond is clipped.

    The levels of all channels count together, so that colours keep their hue. The percentile p is the lowest
    level that at least p % of the values do not exceed. Where both are one level, all above it become 255.

    Args:
        images: [batch, height, width, 3] in 0..255, any type; rounded to whole levels first.
        percentiles: The lower and the upper one, in per cent.
        sizes: int32 [batch, 2], in a batch of fixed size the true height and width of each image in its upper
            left corner, whose levels alone count; None counts all.

    Returns:
        Whole levels 0..255 of the shape and type of `images`.
    """
    batch, height, width = (_side(images, axis) for axis in range(3))
    # One table for all images: each has its own stretch of it.
    first_entry = _LEVELS * tf.range(batch)[:, tf.newaxis, tf.newaxis, tf.newaxis]

    def count(levels: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        counted = tf.tile((rows < height)[:, tf.newaxis], [1, width])[tf.newaxis]
        if sizes is not None:
            counted &= (rows < sizes[:, :1])[:, :, tf.newaxis] & (tf.range(width) < sizes[:, 1:])[:, tf.newaxis]
        counted = tf.broadcast_to(tf.cast(counted, tf.int32)[..., tf.newaxis], tf.shape(levels))
        return tf.math.unsorted_segment_sum(counted, levels + first_entry, batch * _LEVELS)

    def look_up(levels: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        return tf.gather(table, levels + first_entry)

    entries = tf.TensorSpec([None if tf.is_tensor(batch) else batch * _LEVELS], tf.int32)
    histogram = tf.reshape(tf.reduce_sum(_map_rows(count, images, entries), axis=0), tf.stack([batch, _LEVELS]))
    is_static = sizes is None and images.shape[1:].is_fully_defined()
    counted = images.shape[1:].num_elements() if is_static else None
    table = tf.cast(tf.reshape(_stretched_levels(histogram, percentiles, counted), [-1]), images.dtype)
    pieces = _map_rows(
        look_up, images, tf.TensorSpec([images.shape[0], _ROWS, images.shape[2], images.shape[3]], images.dtype)
    )
    joined = tf.reshape(tf.transpose(pieces, [1, 0, 2, 3, 4]), tf.stack([batch, -1, width, images.shape[3]]))
    return tf.ensure_shape(joined[:, :height], images.shape)


def _stretched_levels(histogram: tf.Tensor, percentiles: tuple[float, float], counted: int | None) -> tf.Tensor:
    """Returns what each level becomes, int32 [batch, levels]; `counted` values of each image, None if they differ."""
    cumulative = tf.cumsum(histogram, axis=1)
    ranks = (_rank(cumulative[:, -1:] if counted is None else counted, p) for p in percentiles)
    low, high = (tf.reduce_sum(tf.cast(cumulative < rank, tf.int32), axis=1, keepdims=True) for rank in ranks)
    width = tf.maximum(high - low, 1)
    # Rounded half up in whole numbers, so that it is the same everywhere.
    stretched = (2 * (_LEVELS - 1) * (tf.range(_LEVELS) - low) + width) // (2 * width)
    return tf.clip_by_value(stretched, 0, _LEVELS - 1)


def _rank(count: int | tf.Tensor, percentile: float) -> int | tf.Tensor:
    # At least one value, so that percentile 0 is the lowest level that occurs.
    if not tf.is_tensor(count):
        # Not in the graph: LiteRT has no float64.
        return max(math.ceil(count * (percentile / 100)), 1)
    return tf.maximum(tf.cast(tf.math.ceil(tf.cast(count, tf.float64) * (percentile / 100)), tf.int32), 1)


def _map_rows(
    compute: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], images: tf.Tensor, signature: tf.TensorSpec
) -> tf.Tensor:
    """Computes something of the levels of so many rows, int32 [batch, rows, width, 3], and of the rows' numbers.

    Numbers go on beyond the image, where the last row is repeated: so that all pieces have one shape.
    """
    height = _side(images, 1)

    def piece(first: tf.Tensor) -> tf.Tensor:
        rows = first + tf.range(_ROWS)
        values = tf.gather(images, tf.minimum(rows, height - 1), axis=1)
        if values.dtype.is_floating:
            values = tf.clip_by_value(tf.round(values), 0, _LEVELS - 1)
        return compute(tf.cast(values, tf.int32), rows)

    return tf.map_fn(piece, tf.range(0, height, _ROWS), fn_output_signature=signature)


def _side(images: tf.Tensor, axis: int) -> int | tf.Tensor:
    static = images.shape[axis]
    return tf.shape(images)[axis] if static is None else static
