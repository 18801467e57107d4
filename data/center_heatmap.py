"""The centre heatmap: a Gaussian round every centre, the maximum where they overlap (paper section 3.1).

A Gaussian stands on the pixel floor(centre + 1/2), has peak 1, and ends `window_radius` pixels from it on each axis.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def window_radius(sigma: float) -> int:
    """Returns how many pixels a Gaussian reaches from its centre along each axis.

    Args:
        sigma: Its standard deviation in pixels.

    Returns:
        At least three standard deviations.
    """
    return int(3 * sigma) + 1


def heatmap_of_centers(size: tf.Tensor, center: tf.Tensor, sigma: float) -> tf.Tensor:
    """Draws the heatmap of a list of centres: for the host, where their number may vary.

    Args:
        size: Height and width, int32 [2].
        center: (y, x) of each inside it, float64 [centers, 2].
        sigma: Standard deviation in pixels.

    Returns:
        float32 [height, width].
    """
    radius = window_radius(sigma)
    reach = np.arange(-radius, radius + 1)
    squared_distance = reach[:, np.newaxis] ** 2 + reach**2
    gaussian = np.exp(-squared_distance / (2 * sigma**2)).astype(np.float32).ravel()
    # On a canvas with a margin every window is whole; the margin is cut off at the end.
    height, width = size[0], size[1]
    canvas_width = width + 2 * radius
    window = tf.reshape((reach[:, np.newaxis] + radius) * canvas_width + (reach + radius), [-1])
    pixel = tf.cast(tf.floor(center + 0.5), tf.int32)
    corner = pixel[:, 0] * canvas_width + pixel[:, 1]
    # Seven times as fast as tf.tensor_scatter_nd_max.
    canvas = tf.math.unsorted_segment_max(
        tf.tile(gaussian, tf.shape(corner)),
        tf.reshape(corner[:, tf.newaxis] + window, [-1]),
        (height + 2 * radius) * canvas_width,
    )
    canvas = tf.reshape(canvas, [-1, canvas_width])
    # What no window covers holds the lowest float.
    return tf.maximum(canvas[radius : radius + height, radius : radius + width], 0.0)


def heatmap_of_center_map(is_center: tf.Tensor, sigma: float) -> tf.Tensor:
    """Draws the heatmap of a map of centres: for accelerators, in static shapes, however many centres there are.

    The highest Gaussian at a pixel is that of the nearest centre, and the least squared distance in a window is
    the least over its columns of dx^2 and the least dy^2 in that column.

    Args:
        is_center: Whether a Gaussian stands on a pixel, bool [batch, height, width], of static shape.
        sigma: Standard deviation in pixels.

    Returns:
        float32 [batch, height, width].
    """
    radius = window_radius(sigma)
    beyond = 2 * radius**2 + 1
    distance = tf.where(is_center, 0, beyond)
    for axis in (1, 2):
        distance = _least_squared_distance(distance, axis, radius, beyond)
    gaussian = tf.exp(tf.cast(distance, tf.float32) * np.float32(-1 / (2 * sigma**2)))
    return tf.where(distance < beyond, gaussian, 0.0)


def _least_squared_distance(distance: tf.Tensor, axis: int, radius: int, beyond: int) -> tf.Tensor:
    """Returns the least `distance[i] + (i - j)^2` over |i - j| <= radius, for each j along an axis."""
    margin = [[radius, radius] if i == axis else [0, 0] for i in range(3)]
    padded = tf.pad(distance, margin, constant_values=beyond)
    least = distance
    for step in range(-radius, radius + 1):
        begin = [radius + step if i == axis else 0 for i in range(3)]
        least = tf.minimum(least, tf.slice(padded, begin, distance.shape) + step**2)
    return least
