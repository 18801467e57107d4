"""Smooth random displacements: normal ones at a coarse grid of control points, bicubically in between."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from deeplab2_lite.config import ElasticConfig, Size
from deeplab2_lite.data.draws import Draw, draw_normal


def draw_displacement(seed: tf.Tensor, config: ElasticConfig, size: Size) -> tf.Tensor:
    """Draws how far each pixel moves (Ronneberger et al., "U-Net", section 3.1).

    Args:
        seed: A pair of integers, such as (seed of the run, position in it); int64 [2].
        config: Distance of the control points, and how far they move.
        size: Height and width.

    Returns:
        (dy, dx) in pixels, float32 [2, height, width].
    """
    points = [control_points(length, config.spacing) for length in size]
    control = config.magnitude * draw_normal(seed, Draw.ELASTIC, [points[0], points[1], 2])
    return interpolate_control_points(control, config.spacing, size)


def control_points(length: int, spacing: float) -> int:
    """Returns how many control points an axis of `length` pixels needs."""
    first, last = _neighbourhood(_positions(length, spacing)[[0, -1]])
    return int(last - first) + 4


def interpolate_control_points(control: tf.Tensor, spacing: float, size: Size) -> tf.Tensor:
    """Interpolates between control points by cubic convolution (Keys 1981, a = -1/2), which passes through them.

    The grid is laid so that a control point lies in the middle of the map.

    Args:
        control: A value at each control point, float32 [rows, columns, 2] of `control_points` rows and columns.
        spacing: Pixels between two of them.
        size: Height and width of the map.

    Returns:
        float32 [2, height, width].
    """
    rows, columns = control.shape[:2]
    # Rows of memory, axis after axis: gathering columns would take several times as long. No matrix product, whose
    # order of summation may depend on the number of threads.
    control = _interpolate_rows(tf.reshape(control, [rows, columns * 2]), spacing, size[0])
    control = tf.reshape(tf.transpose(control), [columns, 2 * size[0]])
    control = _interpolate_rows(control, spacing, size[1])
    return tf.transpose(tf.reshape(control, [size[1], 2, size[0]]), [1, 2, 0])


def _interpolate_rows(rows: tf.Tensor, spacing: float, length: int) -> tf.Tensor:
    """Interpolates [points, n] to [length, n]."""
    positions = _positions(length, spacing)
    before = _neighbourhood(positions)
    weights = _cubic_weights(positions - np.floor(positions)).astype(np.float32)
    first = before - before[0]
    return tf.add_n([weights[:, i, np.newaxis] * tf.gather(rows, first + i) for i in range(4)])


def _positions(length: int, spacing: float) -> np.ndarray:
    """Where pixel centres lie, in control points from the one in the middle; float64 [length]."""
    return (np.arange(length) + 0.5 - length / 2) / spacing


def _neighbourhood(positions: np.ndarray) -> np.ndarray:
    """The first of the four control points round each position, int64."""
    return np.floor(positions).astype(np.int64) - 1


def _cubic_weights(fractions: np.ndarray) -> np.ndarray:
    """Weights of the four control points round positions that lie `fractions` after the second, [length, 4]."""
    distances = np.abs(fractions[:, np.newaxis] + np.array([1.0, 0.0, -1.0, -2.0]))
    near = (1.5 * distances - 2.5) * distances**2 + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    return np.where(distances <= 1, near, far)
