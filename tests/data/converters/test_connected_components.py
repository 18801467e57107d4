"""Connected regions equal those of a flood fill."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.data.converters.connected_components import connected_components


def flood_fill(values, selected):
    regions = np.zeros(values.shape, np.int32)
    height, width = values.shape
    count = 0
    for start in np.ndindex(height, width):
        if not selected[start] or regions[start]:
            continue
        count += 1
        regions[start], waiting = count, [start]
        while waiting:
            y, x = waiting.pop()
            for near in np.ndindex(3, 3):
                pixel = (y + near[0] - 1, x + near[1] - 1)
                if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
                    continue
                if selected[pixel] and not regions[pixel] and values[pixel] == values[start]:
                    regions[pixel] = count
                    waiting.append(pixel)
    return regions


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4)),
    st.sampled_from([0.0, 0.4, 0.7, 1.0]),
    st.integers(0, 2**32 - 1),
)
def test_regions_equal_a_flood_fill(size, density, seed):
    height, width, classes = size
    rng = np.random.default_rng(seed)
    values = rng.integers(0, classes, (height, width))
    selected = rng.random((height, width)) < density
    regions = connected_components(values, selected)
    assert regions.dtype == np.int32
    np.testing.assert_array_equal(regions, flood_fill(values, selected))


def test_a_long_spiral_is_one_region():
    # Its runs join one after the other, along a path as long as the picture has pixels.
    size = 61
    spiral = np.zeros((size, size), bool)
    y, x = 0, -1
    lengths = [size, *(n for n in range(size - 1, 1, -2) for _ in range(2))]
    for step, length in enumerate(lengths):
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[step % 4]
        for _ in range(length):
            y, x = y + dy, x + dx
            spiral[y, x] = True
    assert 0.45 < spiral.mean() < 0.55
    np.testing.assert_array_equal(connected_components(np.zeros((size, size), int), spiral), spiral)


def test_corners_connect():
    values = np.array([[1, 2, 1], [2, 1, 2], [3, 3, 1]])
    assert connected_components(values, np.ones((3, 3), bool)).tolist() == [[1, 2, 1], [2, 1, 2], [3, 3, 1]]
