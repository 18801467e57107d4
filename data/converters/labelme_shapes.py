"""Draws the shapes of labelme as labelme's own converters do.

Polygons, rectangles and circles have their outlines' pixels. What comes later in a file lies above.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from deeplab2_lite.data.converters.labelme_files import THIN_SHAPES, Shape
from deeplab2_lite.errors import UserError


def draw_shapes(
    shapes: Sequence[Shape],
    values: Sequence[int],
    height: int,
    width: int,
    line_width: int | None = None,
    where: str = "shapes",
) -> np.ndarray:
    """Draws shapes over each other.

    Args:
        shapes: The hindmost first.
        values: What to fill the pixels of each with.
        height: Of the image in pixels.
        width: Of the image in pixels.
        line_width: Width of lines and diameter of points in pixels; None refuses them.
        where: Begins messages.

    Returns:
        int32 [height, width]: the value of the foremost shape, 0 where there is none.

    Raises:
        UserError: A line or point is refused, or a mask is no image.
    """
    # Integers of 32 bits: all shapes go onto one canvas, however many there are.
    canvas = Image.new("I", (width, height))
    draw = ImageDraw.Draw(canvas)
    for index, (shape, value) in enumerate(zip(shapes, values, strict=True)):
        here = f"{where}[{index}] ('{shape.label}')"
        if shape.mask is not None:
            mask = _read_mask(shape.mask, f"{here}: mask")
            # Rounded half to even, as labelme does.
            x, y = (round(v) for v in shape.points[0])
            canvas.paste(value, (x, y, x + mask.width, y + mask.height), mask)
        elif shape.type in THIN_SHAPES:
            check_thin(shape, line_width, here)
            _draw_thin(draw, shape, value, line_width)
        else:
            _draw_area(draw, shape, value)
    return np.array(canvas, np.int32)


def check_thin(shape: Shape, line_width: int | None, where: str) -> None:
    """Refuses a line or point that nobody said the width of."""
    if shape.type in THIN_SHAPES and line_width is None:
        raise UserError(
            f"{where}: a {shape.type} has no area; say how thick to draw it with --line_width=N (pixels; labelme's own "
            "converters take 10)"
        )


def _draw_area(draw: ImageDraw.ImageDraw, shape: Shape, value: int) -> None:
    if shape.type == "circle":
        # Its centre, and a point on it.
        _draw_disc(draw, shape.points[0], math.dist(*shape.points), value)
    elif shape.type == "rectangle":
        (left, right), (top, bottom) = (sorted(pair) for pair in zip(*shape.points, strict=True))
        draw.rectangle((left, top, right, bottom), fill=value, outline=value)
    else:
        draw.polygon(shape.points, fill=value, outline=value)


def _draw_thin(draw: ImageDraw.ImageDraw, shape: Shape, value: int, line_width: int) -> None:
    if shape.type == "point":
        _draw_disc(draw, shape.points[0], line_width / 2, value)
    else:
        # Round joints: others leave a notch at each turn of a wide line.
        draw.line(shape.points, fill=value, width=line_width, joint="curve")


def _draw_disc(draw: ImageDraw.ImageDraw, center: tuple[float, float], radius: float, value: int) -> None:
    x, y = center
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value, outline=value)


def _read_mask(encoded: bytes, where: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, EOFError):
        raise UserError(f"{where}: not an image, or damaged") from None
    if pixels.ndim != 2:
        raise UserError(f"{where}: expected one channel, got {pixels.shape[-1]}")
    return Image.fromarray(pixels != 0)
