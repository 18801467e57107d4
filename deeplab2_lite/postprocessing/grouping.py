"""Grouping: each thing pixel goes to the centre nearest to where its offset points (paper section 3.2)."""

from __future__ import annotations

import tensorflow as tf

from deeplab2_lite.postprocessing.centers import Centers

_FAR = float("inf")


def group_pixels(center_offset: tf.Tensor, is_thing: tf.Tensor, centers: Centers) -> tf.Tensor:
    """Assigns thing pixels to centres.

    The centre with the least (y + dy - center_y)^2 + (x + dx - center_x)^2 wins, computed in float32 in
    this order; of equally near ones the first. Finite offsets so large that every distance overflows are
    equally far from all, and so go to the first centre too.

    Args:
        center_offset: [batch, height, width, 2], (dy, dx) in pixels, floating point.
        is_thing: bool [batch, height, width].
        centers: The centres of each image.

    Returns:
        int32 [batch, height, width]: 1 + the row of the centre; 0 on pixels that are no things, whose offset is
        not finite, or whose image has no centre.
    """
    offset = tf.cast(center_offset, tf.float32)
    height, width = tf.shape(offset)[1], tf.shape(offset)[2]
    target_y = offset[..., 0] + tf.range(height, dtype=tf.float32)[:, tf.newaxis]
    target_x = offset[..., 1] + tf.range(width, dtype=tf.float32)
    finite_y, finite_x = (tf.math.is_finite(offset[..., i]) for i in (0, 1))
    # Missing centres lie infinitely far away, where the strict comparison never takes them.
    position = tf.where(centers.valid[..., tf.newaxis], tf.cast(centers.position, tf.float32), _FAR)
    found = tf.reduce_sum(tf.cast(centers.valid, tf.int32), axis=1)

    def compare(i: tf.Tensor, least: tf.Tensor, nearest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        center = tf.gather(position, i, axis=1)[:, tf.newaxis, tf.newaxis, :]
        # The selections keep a compiler from fusing a product with the sum, which would round only
        # once and tell nearly equal distances apart in another way than the separate operations.
        square_y = tf.where(finite_y, tf.square(target_y - center[..., 0]), _FAR)
        square_x = tf.where(finite_x, tf.square(target_x - center[..., 1]), _FAR)
        distance = square_y + square_x
        closer = distance < least
        return i + 1, tf.where(closer, distance, least), tf.where(closer, i, nearest)

    rounds = tf.reduce_max(found)
    start = (tf.constant(0), tf.ones_like(target_y) * _FAR, tf.zeros_like(target_y, tf.int32))
    # One after another, or the planes of several centres would be alive at once.
    _, _, nearest = tf.while_loop(lambda i, *_: i < rounds, compare, start, parallel_iterations=1)
    grouped = is_thing & finite_y & finite_x & (found > 0)[:, tf.newaxis, tf.newaxis]
    return tf.where(grouped, nearest + 1, 0)
