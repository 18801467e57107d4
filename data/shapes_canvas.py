"""What the street scenes of `shapes.py` are drawn on: a picture and its label maps at once, and colours."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]

# Class ids of configs/datasets/shapes.yaml.
ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, PERSON, CAR, BALL, SIGN = range(9)
VOID = 255


class Canvas:
    """A picture and its label maps, drawn on together.

    Attributes:
        width: In pixels.
        height: In pixels.
        image: RGB.
        semantic: Class ids.
        objects: Numbers of things; 0 is none.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.image = Image.new("RGB", (width, height))
        self.semantic = Image.new("I", (width, height), VOID)
        self.objects = Image.new("I", (width, height), 0)
        self._pens = [ImageDraw.Draw(layer) for layer in (self.image, self.semantic, self.objects)]
        self._ids = (VOID, 0)

    def begin(self, class_id: int, number: int = 0) -> None:
        """Says what the next shapes belong to."""
        self._ids = (class_id, number)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Draws a filled polygon."""
        for pen, ink in zip(self._pens, (color, *self._ids), strict=True):
            pen.polygon(points, fill=ink)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, color: Color) -> None:
        """Draws a filled ellipse round (x, y)."""
        box = (x - radius_x, y - radius_y, x + radius_x, y + radius_y)
        for pen, ink in zip(self._pens, (color, *self._ids), strict=True):
            pen.ellipse(box, fill=ink)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color, radius: float = 0) -> None:
        """Draws a filled rectangle, its corners rounded by `radius`."""
        if right <= left or bottom <= top:
            return
        for pen, ink in zip(self._pens, (color, *self._ids), strict=True):
            pen.rounded_rectangle((left, top, right, bottom), radius, fill=ink)

    def paint(self) -> ImageDraw.ImageDraw:
        """Returns a pen for the picture alone: shadows, windows, markings."""
        return self._pens[0]


def vivid(rng: np.random.Generator, low_value: float, high_value: float) -> Color:
    """Draws a saturated colour of any hue, its value between the bounds (0..1)."""
    color = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.55, 0.95), rng.uniform(low_value, high_value))
    return rgb(255 * np.array(color))


def shade(color: Color, factor: float) -> Color:
    """Returns a colour made brighter (above 1) or darker (below 1)."""
    return rgb(np.array(color) * factor)


def rgb(values: np.ndarray) -> Color:
    """Returns three numbers as a colour, clipped to 0..255."""
    red, green, blue = np.clip(np.rint(values), 0, 255).astype(int).tolist()
    return red, green, blue


def pick(rng: np.random.Generator, colors: Sequence[Color]) -> Color:
    """Draws one of the colours."""
    return colors[rng.integers(len(colors))]
