"""Elastic displacements: cubic convolution against the kernel written out, and what is drawn."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import ElasticConfig
from deeplab2_lite.data.elastic import control_points, draw_displacement, interpolate_control_points


def keys_kernel(distance: float) -> float:
    """Cubic convolution with a = -1/2 (Keys 1981, equation 15)."""
    distance = abs(distance)
    if distance < 1:
        return 1.5 * distance**3 - 2.5 * distance**2 + 1
    if distance < 2:
        return -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return 0.0


def places_of_control_points(length: int, spacing: float) -> list[float]:
    """One in the middle of the axis, the others `spacing` apart, two beyond the pixels at least on each side."""
    below = -np.floor((0.5 - length / 2) / spacing) + 1
    return [length / 2 + (i - below) * spacing for i in range(control_points(length, spacing))]


@pytest.mark.parametrize(("size", "spacing"), [((9, 14), 4.0), ((7, 5), 2.5), ((6, 6), 1.0), ((5, 8), 100.0)])
def test_interpolation_equals_the_kernel_written_out(size, spacing):
    rows, columns = (places_of_control_points(length, spacing) for length in size)
    control = np.random.default_rng(0).normal(size=(len(rows), len(columns), 2))
    expected = np.zeros((2, *size))
    for y in range(size[0]):
        for x in range(size[1]):
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    weight = keys_kernel((y + 0.5 - row) / spacing) * keys_kernel((x + 0.5 - column) / spacing)
                    expected[:, y, x] += weight * control[i, j]
    smooth = interpolate_control_points(tf.constant(control, tf.float32), spacing, size)
    np.testing.assert_allclose(smooth, expected, atol=1e-5)


def test_a_map_of_odd_size_passes_through_its_control_points():
    spacing, size = 4.0, (17, 25)
    counts = [control_points(length, spacing) for length in size]
    control = np.random.default_rng(1).normal(size=(*counts, 2)).astype(np.float32)
    smooth = interpolate_control_points(tf.constant(control), spacing, size).numpy()
    rows, columns = (np.array(places_of_control_points(length, spacing)) - 0.5 for length in size)
    inside = [(v >= 0) & (v < length) for v, length in zip((rows, columns), size, strict=True)]
    at = np.ix_(rows[inside[0]].astype(int), columns[inside[1]].astype(int))
    expected = control[inside[0]][:, inside[1]]
    np.testing.assert_allclose(np.stack([smooth[0][at], smooth[1][at]], axis=-1), expected, atol=1e-6)


def test_displacements_have_the_magnitude_and_are_smooth():
    config, size = ElasticConfig(spacing=16.0, magnitude=3.0), (65, 97)
    drawn = tf.data.Dataset.range(200).map(
        lambda position: draw_displacement(tf.stack([tf.constant(3, tf.int64), position]), config, size)
    )
    maps = np.stack([displacement.numpy() for displacement in drawn])
    assert maps.shape == (200, 2, *size) and maps.dtype == np.float32
    # Control points lie at the middle, and 16 pixels from it.
    points = maps[:, :, [16, 32, 48]][..., [16, 32, 48, 64, 80]]
    assert abs(points.std() - 3) < 0.1 and abs(points.mean()) < 0.15
    # y and x move independently, and so do neighbouring points.
    assert abs(np.corrcoef(points[:, 0].ravel(), points[:, 1].ravel())[0, 1]) < 0.06
    assert abs(np.corrcoef(points[..., 0].ravel(), points[..., 1].ravel())[0, 1]) < 0.1
    # Cubic convolution between two values is no steeper than 1.5 of their difference, give or take its neighbours.
    assert np.abs(np.diff(maps, axis=2)).max() < 2.5 * np.abs(maps).max() / 16 * 1.5
    assert len({displacement.tobytes() for displacement in maps}) == 200
