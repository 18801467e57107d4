"""Charts: what is drawn lies where its value is."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.evaluation.html.charts import Curve, histogram, line_chart, scatter

from .html_reading import Node, _Reader

# The axes of a chart, in its own units.
LEFT, TOP, WIDTH, HEIGHT = 34, 8, 240, 180


def parsed(svg: str) -> Node:
    reader = _Reader()
    reader.feed(svg)
    return reader.open[0]


def path_points(curve: Curve) -> np.ndarray:
    """The points of the visible line, as fractions."""
    (path,) = parsed(curve.draw()).all("path", class_="curve")
    points = np.array([[float(v) for v in pair.split()] for pair in path.attributes["d"][1:].split("L")])
    return np.stack([(points[:, 0] - LEFT) / WIDTH, 1 - (points[:, 1] - TOP) / HEIGHT], axis=1)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=3000))
def test_a_thinned_curve_is_the_same_curve(steps):
    x = np.cumsum([moves for moves, _ in steps]) / len(steps)
    y = np.array([height for _, height in steps])
    drawn = path_points(Curve("a", x, y, "first"))
    assert len(drawn) <= min(len(steps), 4 * 2 * WIDTH + 4)
    # No drawn point is off by more than a quarter of a unit, and no point is far from what is drawn above it.
    for one in drawn:
        assert (np.abs((x - one[0]) * WIDTH) + np.abs((y - one[1]) * HEIGHT)).min() <= 0.6
    np.testing.assert_allclose(drawn[[0, -1]], np.stack([x, y], axis=1)[[0, -1]], atol=0.003)
    for a, b in zip(x, y, strict=True):
        near = drawn[np.abs(drawn[:, 0] - a) * WIDTH <= 0.26]
        assert near[:, 1].min() - 0.003 <= b <= near[:, 1].max() + 0.003


def test_curves_without_points_are_not_drawn():
    empty = Curve("nothing", np.zeros(0), np.zeros(0), "first")
    root = parsed(line_chart("a label", [empty], [(0.5, 0.25, "a dot")], "recall", "precision"))
    assert not root.all("path", class_="curve")
    (dot,) = root.all("circle")
    assert (float(dot.attributes["cx"]), float(dot.attributes["cy"])) == (LEFT + 120, TOP + 135)
    (svg,) = root.all("svg", role="img")
    assert svg.attributes["aria-label"] == "a label"


def test_histogram():
    values = np.array([0.0, 0.049, 0.05, 0.5, 1.0, np.nan])
    root = parsed(histogram("label", values, "PQ"))
    titles = [bar.text for bar in root.all("rect")]
    assert titles == ["0 to 5: 2 images", "5 to 10: 1 image", "50 to 55: 1 image", "95 to 100: 1 image"]
    heights = [float(bar.attributes["height"]) for bar in root.all("rect")]
    assert heights == [HEIGHT, HEIGHT / 2, HEIGHT / 2, HEIGHT / 2]
    assert {text.text for text in root.all("text", class_="tick")} >= {"0", "1", "2", "25", "100"}


def test_scatter_leaves_out_what_has_no_value():
    root = parsed(scatter("label", [0, 7, 12], np.array([1.0, 0.5, np.nan]), ["a", "b", "c"], "segments", "PQ"))
    points = root.all("circle")
    assert [point.text for point in points] == ["a", "b"]
    assert float(points[0].attributes["cx"]) == LEFT and float(points[0].attributes["cy"]) == TOP
    # The axis of counts ends at a round number that holds them all: 15 in steps of 5.
    ends = [int(t.text) for t in root.all("text", class_="tick") if re.fullmatch(r"\d+", t.text)]
    assert [v for v in ends if v in (5, 10, 15)] == [5, 10, 15]
    assert abs(float(points[1].attributes["cx"]) - (LEFT + WIDTH * 7 / 15)) <= 0.05
