"""Shapes of labelme as pixels: where they lie, and which lies above."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deeplab2_lite.data.converters.labelme_files import Shape
from deeplab2_lite.data.converters.labelme_shapes import draw_shapes
from deeplab2_lite.errors import UserError

SIZE = 24
COORDINATE = st.floats(-8, SIZE + 8, width=32)
POINT = st.tuples(COORDINATE, COORDINATE)


def drawn(*shapes, **options):
    return draw_shapes(shapes, range(1, len(shapes) + 1), SIZE, SIZE, **options)


def png(mask):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(mask)).save(buffer, "PNG")
    return buffer.getvalue()


def distance_to_segment(point, first, second):
    (px, py), (ax, ay), (bx, by) = point, first, second
    length = (bx - ax) ** 2 + (by - ay) ** 2
    along = 0 if length == 0 else min(max(((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / length, 0), 1)
    return math.hypot(px - ax - along * (bx - ax), py - ay - along * (by - ay))


def signed_distance_to_triangle(point, corners):
    """Distance to the outline, negative inside."""
    sides, distances = [], []
    for first, second in zip(corners, corners[1:] + corners[:1], strict=True):
        cross = (second[0] - first[0]) * (point[1] - first[1]) - (second[1] - first[1]) * (point[0] - first[0])
        sides.append(np.sign(cross))
        distances.append(distance_to_segment(point, first, second))
    inside = abs(sum(sides)) == 3
    return -min(distances) if inside else min(distances)


@given(st.lists(POINT, min_size=3, max_size=3))
def test_a_polygon_is_its_inside_and_its_outline(corners):
    pixels = drawn(Shape("a", "polygon", tuple(corners)))
    for y, x in np.ndindex(SIZE, SIZE):
        distance = signed_distance_to_triangle((x, y), corners)
        if distance <= -1:
            assert pixels[y, x] == 1, (x, y)
        elif distance >= 1.5:
            assert pixels[y, x] == 0, (x, y)


@given(POINT, st.floats(0, 12))
def test_a_circle_is_a_disc(center, radius):
    pixels = drawn(Shape("a", "circle", (center, (center[0], center[1] + radius))))
    for y, x in np.ndindex(SIZE, SIZE):
        distance = math.hypot(x - center[0], y - center[1]) - radius
        if abs(distance) >= 1.1:
            assert pixels[y, x] == (distance < 0), (x, y)


@pytest.mark.parametrize("points", [((3, 20), (17.5, 4)), ((10, 10), (10, 20)), ((4, 4), (15, 15))])
def test_a_line_is_as_wide_as_asked(points):
    (left, top), (right, bottom) = points
    length = math.dist(*points)
    for width in (1, 4, 7):
        pixels = drawn(Shape("a", "line", points), line_width=width)
        for y, x in np.ndindex(SIZE, SIZE):
            distance = distance_to_segment((x, y), *points)
            along = ((x - left) * (right - left) + (y - top) * (bottom - top)) / length
            # Its ends are cut straight.
            if distance <= width / 2 - 1 and 1 <= along <= length - 1:
                assert pixels[y, x] == 1, (width, x, y)
            elif distance >= width / 2 + 1:
                assert pixels[y, x] == 0, (width, x, y)


def test_a_strip_has_no_notch_and_a_point_is_a_disc():
    strip = drawn(Shape("a", "linestrip", ((4, 18), (12, 6), (20, 18))), line_width=7)
    assert strip[4, 12] == 1 and strip[18, 12] == 0
    disc = drawn(Shape("a", "point", ((10, 11),)), line_width=6)
    ys, xs = np.nonzero(disc)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (8, 14, 7, 13)
    for shape in (Shape("a", "point", ((1, 1),)), Shape("a", "line", ((1, 1), (2, 2)))):
        with pytest.raises(UserError, match=rf"^here\[0\] \('a'\): a {shape.type} has no area; .*--line_width=N"):
            drawn(shape, where="here")


def test_rectangles_have_both_corners_whichever_come_first():
    expected = np.zeros((SIZE, SIZE), int)
    expected[3:9, 5:8] = 1
    for points in (((5, 3), (7, 8)), ((7, 8), (5, 3)), ((7, 3), (5, 8))):
        np.testing.assert_array_equal(drawn(Shape("a", "rectangle", points)), expected)
    turned = drawn(Shape("a", "oriented_rectangle", ((5, 3), (7, 3), (7, 8), (5, 8))))
    np.testing.assert_array_equal(turned, expected)


@given(st.integers(-6, SIZE + 3), st.integers(-6, SIZE + 3), st.integers(0, 2**32 - 1), st.sampled_from("bui"))
def test_a_mask_lies_at_its_corner_and_may_reach_beyond_the_image(x, y, seed, kind):
    mask = np.random.default_rng(seed).random((7, 5)) < 0.5
    pixels = {"b": mask, "u": mask.astype(np.uint8), "i": mask.astype(np.uint8) * 255}[kind]
    points = ((x + 0.3, y - 0.2), (x + 4, y + 6))
    result = drawn(Shape("a", "mask", points, None, png(pixels)))
    for row, column in np.ndindex(SIZE, SIZE):
        inside = 0 <= row - y < 7 and 0 <= column - x < 5
        assert result[row, column] == (inside and mask[row - y, column - x])


def test_the_last_lies_above_and_a_mask_hides_nothing_where_it_is_empty():
    square = Shape("a", "rectangle", ((2, 2), (6, 6)))
    ring = Shape("b", "mask", ((3, 3), (5, 5)), None, png(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)))
    expected = np.zeros((SIZE, SIZE), int)
    expected[2:7, 2:7] = 1
    expected[3:6, 3:6] = 2
    expected[4, 4] = 1
    np.testing.assert_array_equal(drawn(square, ring), expected)
    expected[expected == 2] = 1
    expected[expected == 1] = 2
    np.testing.assert_array_equal(drawn(ring, square), expected)
    many = draw_shapes([square], [70000], SIZE, SIZE)
    assert many.dtype == np.int32 and many.max() == 70000


@pytest.mark.parametrize("content", [b"", b"abc", png(np.ones((9, 9), bool))[:40]])
def test_a_mask_that_is_no_image_is_named(content):
    with pytest.raises(UserError, match=r"^shapes\[0\] \('a'\): mask: not an image, or damaged"):
        drawn(Shape("a", "mask", ((0, 0),), None, content))
    with pytest.raises(UserError, match="mask: expected one channel, got 3"):
        drawn(Shape("a", "mask", ((0, 0),), None, png(np.zeros((2, 2, 3), np.uint8))))
