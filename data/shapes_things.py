"""What stands in the street scenes of `shapes.py`: people, cars, balls and signs.

Each is drawn so that it touches the ground at (x, y), in pixels of the canvas; its size is the scale of
its place times a share of the picture's height.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from deeplab2_lite.data.shapes_canvas import Canvas, Color, Point, shade, vivid


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, y: float, scale: float) -> None:
    """Draws a person whose feet touch (x, y)."""
    size = 0.36 * canvas.height * scale * rng.uniform(0.9, 1.1)
    skin = shade((224, 172, 138), rng.uniform(0.5, 1.1))
    shirt, trousers = vivid(rng, 0.55, 0.95), vivid(rng, 0.35, 0.5)
    _draw_shadow(canvas, x, y, 0.2 * size)
    stride, shoulder = rng.uniform(0.05, 0.13) * size, 0.15 * size
    hip = y - 0.45 * size
    for side in (-1, 1):
        foot = x + side * stride
        half = 0.055 * size
        canvas.polygon([(x - half * 1.3, hip), (x + half * 1.3, hip), (foot + half, y), (foot - half, y)], trousers)
    canvas.box(x - shoulder, y - 0.82 * size, x + shoulder, hip + 0.03 * size, shirt, radius=0.07 * size)
    for side in (-1, 1):
        arm = x + side * shoulder
        canvas.box(arm - 0.04 * size, y - 0.79 * size, arm + 0.04 * size, hip, shade(shirt, 0.8), radius=0.03 * size)
    canvas.ellipse(x, y - 0.9 * size, 0.085 * size, 0.1 * size, skin)
    canvas.paint().pieslice(
        (x - 0.09 * size, y - 1.01 * size, x + 0.09 * size, y - 0.82 * size),
        180,
        360,
        fill=shade((96, 66, 40), rng.uniform(0.3, 1.4)),
    )


def draw_car(canvas: Canvas, rng: np.random.Generator, x: float, y: float, scale: float) -> None:
    """Draws a car from the side, its wheels at (x, y)."""
    size = 0.4 * canvas.height * scale * rng.uniform(0.9, 1.1)
    half = 0.85 * size * rng.uniform(0.85, 1.1)
    body = vivid(rng, 0.7, 0.95) if rng.random() < 0.75 else shade((225, 225, 230), rng.uniform(0.3, 1))
    direction = 1 if rng.random() < 0.5 else -1
    wheel = 0.15 * size

    def at(along: float, up: float) -> Point:
        return x + direction * along * half, y - up * size

    _draw_shadow(canvas, x, y - 0.02 * size, 1.05 * half)
    canvas.polygon([at(-0.75, 0.45), at(-0.5, 0.82), at(0.25, 0.82), at(0.6, 0.45)], shade(body, 0.88))
    canvas.box(x - half, y - 0.55 * size, x + half, y - 0.13 * size, body, radius=0.13 * size)
    paint = canvas.paint()
    glass = shade((120, 150, 175), rng.uniform(0.5, 1.1))
    paint.polygon([at(-0.64, 0.5), at(-0.45, 0.76), at(-0.12, 0.76), at(-0.12, 0.5)], fill=glass)
    paint.polygon([at(-0.05, 0.5), at(-0.05, 0.76), at(0.21, 0.76), at(0.46, 0.5)], fill=glass)
    paint.line([at(-0.95, 0.34), at(0.95, 0.34)], fill=shade(body, 0.75), width=max(1, round(0.02 * size)))
    for along, light in ((0.92, (255, 240, 180)), (-0.92, (190, 20, 20))):
        center_x, center_y = at(along, 0.42)
        radius = 0.05 * size
        paint.ellipse((center_x - radius, center_y - radius, center_x + radius, center_y + radius), fill=light)
    for along in (-0.55, 0.55):
        center_x, center_y = at(along, 0.15)
        canvas.ellipse(center_x, center_y, wheel, wheel, (28, 28, 30))
        canvas.ellipse(center_x, center_y, 0.5 * wheel, 0.5 * wheel, (165, 165, 170))


def draw_ball(canvas: Canvas, rng: np.random.Generator, x: float, y: float, scale: float) -> None:
    """Draws a beach ball that touches the ground at (x, y)."""
    radius = 0.095 * canvas.height * scale * rng.uniform(0.85, 1.25)
    color = vivid(rng, 0.9, 1.0)
    y = y - radius
    _draw_shadow(canvas, x, y + 0.95 * radius, 1.1 * radius)
    canvas.ellipse(x, y, radius, radius, color)
    paint, box = canvas.paint(), (x - radius, y - radius, x + radius, y + radius)
    start = int(rng.integers(120))
    for angle in (0, 120, 240):
        paint.pieslice(box, start + angle, start + angle + 60, fill=(245, 245, 240))
    spot = 0.28 * radius
    paint.ellipse((x - spot, y - spot, x + spot, y + spot), fill=shade(color, 0.8))


def draw_sign(canvas: Canvas, rng: np.random.Generator, x: float, y: float, scale: float) -> None:
    """Draws a traffic sign whose pole stands at (x, y)."""
    size = 0.42 * canvas.height * scale * rng.uniform(0.9, 1.1)
    pole, plate = max(0.03 * size, 1.2), 0.2 * size
    top = y - 0.8 * size
    _draw_shadow(canvas, x, y, 0.1 * size)
    canvas.box(x - pole, top, x + pole, y, (150, 152, 155))
    kind = rng.integers(4)
    if kind == 0:
        _draw_regular(canvas, x, top, 1.15 * plate, 3, -90, (200, 25, 30), (250, 250, 245))
    elif kind == 1:
        _draw_regular(canvas, x, top, plate, 8, 22.5, (190, 20, 28), (190, 20, 28))
        canvas.paint().rectangle(
            (x - 0.6 * plate, top - 0.14 * plate, x + 0.6 * plate, top + 0.14 * plate), fill="white"
        )
    elif kind == 2:
        _draw_regular(canvas, x, top, 1.1 * plate, 4, 0, (250, 250, 250), (245, 190, 30))
    else:
        _draw_regular(canvas, x, top, plate, 24, 0, (245, 245, 245), (30, 80, 180))


def _draw_regular(
    canvas: Canvas, x: float, y: float, radius: float, corners: int, turn: float, rim: Color, face: Color
) -> None:
    angles = np.deg2rad(turn + 360 * np.arange(corners) / corners)

    def outline(r: float) -> list[Point]:
        return [(x + r * float(np.cos(a)), y + r * float(np.sin(a))) for a in angles]

    canvas.polygon(outline(radius), rim)
    canvas.paint().polygon(outline(0.68 * radius), fill=face)


def _draw_shadow(canvas: Canvas, x: float, y: float, half: float) -> None:
    """Darkens the ground, which stays ground."""
    pixels = np.array(
        canvas.image.crop((round(x - half), round(y - 0.2 * half), round(x + half), round(y + 0.2 * half)))
    )
    if pixels.size == 0:
        return
    mask = Image.new("L", pixels.shape[1::-1])
    ImageDraw.Draw(mask).ellipse((0, 0, pixels.shape[1] - 1, pixels.shape[0] - 1), fill=255)
    dark = Image.fromarray((pixels * 0.55).astype(np.uint8))
    canvas.image.paste(dark, (round(x - half), round(y - 0.2 * half)), mask)
