"""Instance centres: the peaks of the centre heatmap (paper section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

_NEVER = float("-inf")


class Centers(NamedTuple):
    """The centres of each image, best first, ties in scan order.

    Attributes:
        position: int32 [batch, top_k, 2], (y, x) in pixels.
        score: float32 [batch, top_k], the heatmap's values; 0 where invalid.
        valid: bool [batch, top_k]; the invalid rows come last.
    """

    position: tf.Tensor
    score: tf.Tensor
    valid: tf.Tensor


def find_centers(center_heatmap: tf.Tensor, threshold: float, nms_kernel: int, top_k: int) -> Centers:
    """Finds the `top_k` best peaks: values above the threshold that equal the maximum of their window.

    Equal neighbours are all peaks. A value that is not finite is no peak and hides none.

    Args:
        center_heatmap: [batch, height, width, 1], floating point.
        threshold: Values at or below it are no centres.
        nms_kernel: Side of the window, odd.
        top_k: Rows of the result; fewer peaks leave the last ones invalid.

    Returns:
        The centres.
    """
    heatmap = tf.cast(center_heatmap[..., 0], tf.float32)
    heatmap = tf.where(tf.math.is_finite(heatmap), heatmap, _NEVER)
    window_max = _sliding_max(_sliding_max(heatmap, nms_kernel, axis=1), nms_kernel, axis=2)
    if threshold < 0:
        # -0.0 equals 0.0, yet XLA sorts it below.
        heatmap = tf.where(heatmap == 0, 0.0, heatmap)
    peaks = tf.where((heatmap > threshold) & (heatmap == window_max), heatmap, _NEVER)
    score, index = _best(peaks, top_k)
    valid = score > _NEVER
    width = tf.shape(heatmap)[2]
    position = tf.stack([index // width, index % width], axis=-1)
    return Centers(tf.where(valid[..., tf.newaxis], position, 0), tf.where(valid, score, 0.0), valid)


def _sliding_max(values: tf.Tensor, kernel: int, axis: int) -> tf.Tensor:
    """Maximum of the centred window along an axis of [batch, height, width], -inf beyond the border.

    Each step combines two windows, so that a few steps reach any kernel. Max pooling on the CPU costs ten
    times as much.
    """
    margin = [[0, 0]] * 3
    margin[axis] = [kernel // 2, kernel // 2]
    shape = values.shape
    values = tf.pad(values, margin, constant_values=_NEVER)
    window = 1
    while window < kernel:
        step = min(window, kernel - window)
        first, second = [slice(None)] * 3, [slice(None)] * 3
        first[axis], second[axis] = slice(None, -step), slice(step, None)
        values = tf.maximum(values[tuple(first)], values[tuple(second)])
        window += step
    return tf.ensure_shape(values, shape)


def _best(peaks: tf.Tensor, top_k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Values and scan-order indices of the `top_k` largest of [batch, height, width]; -inf fills up."""
    batch, height, width = tf.unstack(tf.shape(peaks))
    flat = tf.reshape(peaks, [batch, height * width])
    # The op refuses to give more elements than there are.
    available = tf.minimum(top_k, tf.shape(flat)[1])
    score, index = tf.math.top_k(flat, available)
    missing = [[0, 0], [0, top_k - available]]
    score = tf.pad(score, missing, constant_values=_NEVER)
    index = tf.pad(index, missing)
    shape = [peaks.shape[0], top_k]
    return tf.ensure_shape(score, shape), tf.ensure_shape(index, shape)
