"""Small charts as inline SVG: precision against recall, histograms, scatter plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from deeplab2_lite.evaluation.html.elements import Markup, element

# Inside of the axes, in the chart's own units.
_WIDTH, _HEIGHT = 240, 180
_LEFT, _TOP, _RIGHT, _BOTTOM = 34, 8, 8, 32


class Curve:
    """A line through points of a chart of fractions in 0..1."""

    def __init__(self, title: str, x: np.ndarray, y: np.ndarray, style: str) -> None:
        """Makes a curve.

        Args:
            title: What the mouse shows over it.
            x: float [points], ascending.
            y: float [points].
            style: CSS class.
        """
        self.title, self.x, self.y, self.style = title, x, y, style

    def draw(self) -> Markup:
        """Returns the line; points that no eye can tell apart are left out."""
        points = _thinned(_x(self.x), _y(self.y))
        # A wider, invisible line below is what the mouse finds.
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        return element(
            "g",
            element("title", self.title),
            element("path", d=path, class_="hit"),
            element("path", d=path, class_=f"curve {self.style}"),
        )


def line_chart(
    label: str, curves: Sequence[Curve], dots: Iterable[tuple[float, float, str]], x_name: str, y_name: str
) -> Markup:
    """Draws curves over the unit square.

    Args:
        label: What the chart says, for those who do not see it.
        curves: Lines; one without points is not drawn.
        dots: Points to be marked: x, y and what the mouse shows.
        x_name: Below the axis.
        y_name: Beside the axis.

    Returns:
        The SVG.
    """
    marks = [
        element("circle", element("title", title), cx=_round(_x(x)), cy=_round(_y(y)), r=3, class_="dot")
        for x, y, title in dots
    ]
    drawn = [curve.draw() for curve in curves if len(curve.x)]
    ticks = [(value, f"{100 * value:.0f}") for value in (0, 0.25, 0.5, 0.75, 1)]
    return _svg(label, _axes(ticks, ticks, x_name, y_name), drawn, marks)


def histogram(label: str, values: np.ndarray, x_name: str) -> Markup:
    """Draws how many values fall into each twentieth of 0..1.

    Args:
        label: What the chart says, for those who do not see it.
        values: float [count], in 0..1; NaN is left out.
        x_name: Below the axis.

    Returns:
        The SVG. Bins hold their lower border; the last one holds 1, too.
    """
    counts, edges = np.histogram(values[~np.isnan(values)], bins=20, range=(0, 1))
    step, most = _scale(int(counts.max(initial=0)))
    bars = []
    for count, left, right in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count:
            top = _y(count / most)
            title = f"{100 * left:.0f} to {100 * right:.0f}: {count} {'image' if count == 1 else 'images'}"
            bars.append(
                element(
                    "rect",
                    element("title", title),
                    x=_round(_x(left) + 0.75),
                    y=_round(top),
                    width=_round(_x(right) - _x(left) - 1.5),
                    height=_round(_y(0) - top),
                    class_="bar",
                )
            )
    x_ticks = [(value, f"{100 * value:.0f}") for value in (0, 0.25, 0.5, 0.75, 1)]
    y_ticks = [(value / most, str(value)) for value in range(0, most + 1, step)]
    return _svg(label, _axes(x_ticks, y_ticks, x_name, "images"), bars)


def scatter(label: str, x: Sequence[int], y: np.ndarray, titles: Sequence[str], x_name: str, y_name: str) -> Markup:
    """Draws a point for each image.

    Args:
        label: What the chart says, for those who do not see it.
        x: Counts of at least 0.
        y: float [count], in 0..1; where it is NaN there is no point.
        titles: What the mouse shows over each point.
        x_name: Below the axis.
        y_name: Beside the axis.

    Returns:
        The SVG.
    """
    step, most = _scale(max(x, default=0))
    points = [
        element("circle", element("title", title), cx=_round(_x(a / most)), cy=_round(_y(b)), r=2.5, class_="point")
        for a, b, title in zip(x, y, titles, strict=True)
        if not math.isnan(b)
    ]
    x_ticks = [(value / most, str(value)) for value in range(0, most + 1, step)]
    y_ticks = [(value, f"{100 * value:.0f}") for value in (0, 0.25, 0.5, 0.75, 1)]
    return _svg(label, _axes(x_ticks, y_ticks, x_name, y_name), points)


def _scale(largest: int) -> tuple[int, int]:
    """Returns the step between ticks and the end of an axis of counts."""
    step = 1
    while largest > 5 * step:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return step, step * max(1, math.ceil(largest / step))


def _svg(label: str, *content: Iterable[Markup]) -> Markup:
    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM
    return element("svg", *content, viewBox=f"0 0 {width} {height}", role="img", aria_label=label, class_="chart")


def _axes(
    x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], x_name: str, y_name: str
) -> Iterable[Markup]:
    bottom, right = _y(0), _x(1)
    grid = "".join(f"M{_round(_x(v))} {_TOP}V{bottom:g}" for v, _ in x_ticks)
    grid += "".join(f"M{_LEFT} {_round(_y(v))}H{right:g}" for v, _ in y_ticks)
    yield element("path", d=grid, class_="grid")
    for value, text in x_ticks:
        yield element("text", text, x=_round(_x(value)), y=bottom + 11, class_="tick", text_anchor="middle")
    for value, text in y_ticks:
        yield element("text", text, x=_LEFT - 4, y=_round(_y(value) + 3), class_="tick", text_anchor="end")
    yield element("text", x_name, x=_x(0.5), y=bottom + 25, class_="axis", text_anchor="middle")
    middle = _y(0.5)
    yield element(
        "text", y_name, x=9, y=middle, class_="axis", text_anchor="middle", transform=f"rotate(-90 9 {middle:g})"
    )


def _x(fraction):
    return _LEFT + _WIDTH * fraction


def _y(fraction):
    return _TOP + _HEIGHT * (1 - fraction)


def _round(value: float) -> float:
    return round(float(value), 1)


def _thinned(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """Returns points to half a unit; of those above one another the first, highest, lowest and last."""
    x, y = np.round(2 * x) / 2, np.round(2 * y) / 2
    starts = np.flatnonzero(np.append(True, x[1:] != x[:-1]))
    points = []
    for column, heights in zip(x[starts].tolist(), np.split(y, starts[1:]), strict=True):
        kept = sorted({0, int(heights.argmin()), int(heights.argmax()), heights.size - 1})
        points += [(column, height) for height in heights[kept].tolist()]
    return points
