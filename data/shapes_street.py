"""The stage of the street scenes of `shapes.py`: sky, houses, trees, sidewalks and road."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deeplab2_lite.data.shapes_canvas import (
    BALL,
    BUILDING,
    CAR,
    ROAD,
    SIDEWALK,
    SKY,
    VEGETATION,
    VOID,
    Canvas,
    Color,
    pick,
    rgb,
    shade,
)

# Standard deviation in grey levels of coarse and fine texture, by class.
_TEXTURES = {ROAD: (3, 4), SIDEWALK: (4, 4), BUILDING: (4, 3), VEGETATION: (16, 12), SKY: (2, 0)}


class Street(NamedTuple):
    """The stage of a scene. Positions are fractions of the picture's width and height.

    Attributes:
        horizon: y where ground and sky meet.
        vanishing_x: x where the road ends.
        road_near: Half the road's width at the bottom edge.
        road_far: Half its width at the horizon.
        bonnet: Whether the own car's bonnet (void) is seen.
        look: Seed of colours and houses.
    """

    horizon: float
    vanishing_x: float
    road_near: float
    road_far: float
    bonnet: bool
    look: int

    def ground(self, depth: float) -> float:
        """Returns y of the ground at a depth, from 0 (horizon) to 1 (bottom edge)."""
        return self.horizon + depth * (1 - self.horizon)

    def scale(self, depth: float) -> float:
        """Returns the size of things at a depth, 1 at the bottom edge."""
        return 0.35 + 0.65 * depth

    def road_edges(self, depth: float) -> tuple[float, float]:
        """Returns x of the road's left and right edge at a depth."""
        half = self.road_far + depth * (self.road_near - self.road_far)
        middle = self.vanishing_x + depth * (0.5 - self.vanishing_x)
        return middle - half, middle + half

    def place(self, rng: np.random.Generator, class_id: int, depth: float) -> float:
        """Draws x where a thing of a class may stand at a depth."""
        left, right = self.road_edges(depth)
        if class_id == CAR:
            return float(rng.uniform(left, right))
        if class_id == BALL:
            return float(rng.uniform(0.04, 0.96))
        # People and signs keep to the sidewalks where there is room on one.
        sides = [(low, high) for low, high in ((0.03, left), (right, 0.97)) if high - low > 0.05]
        low, high = sides[rng.integers(len(sides))] if sides and rng.random() < 0.85 else (0.03, 0.97)
        return float(rng.uniform(low, high))


def draw_of_street(rng: np.random.Generator) -> Street:
    """Draws a street at random."""
    return Street(
        horizon=float(rng.uniform(0.38, 0.5)),
        vanishing_x=float(rng.uniform(0.35, 0.65)),
        road_near=float(rng.uniform(0.36, 0.5)),
        road_far=float(rng.uniform(0.06, 0.12)),
        bonnet=bool(rng.random() < 0.3),
        look=int(rng.integers(2**31)),
    )


def draw_street(canvas: Canvas, street: Street) -> None:
    """Draws all stuff: sky, houses, trees, sidewalks, road."""
    rng = np.random.default_rng(street.look)
    horizon = street.horizon * canvas.height
    _draw_sky(canvas, rng, horizon)
    _draw_houses(canvas, rng, horizon)
    _draw_trees(canvas, rng, horizon)
    _draw_ground(canvas, rng, street)


def draw_bonnet(canvas: Canvas, street: Street) -> None:
    """Draws the own car's bonnet at the bottom edge, as void."""
    if street.bonnet:
        canvas.begin(VOID)
        canvas.ellipse(canvas.width / 2, canvas.height * 1.1, canvas.width * 0.36, canvas.height * 0.15, (38, 40, 46))


def texture_strength(semantic: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of coarse and fine texture, float32 [height, width, 2]."""
    table = np.full((VOID + 1, 2), 1.5, np.float32)
    for class_id, strength in _TEXTURES.items():
        table[class_id] = strength
    return table[semantic]


def _draw_sky(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    canvas.begin(SKY)
    canvas.box(0, 0, canvas.width, horizon + 2, (0, 0, 0))
    zenith = np.array(pick(rng, ((88, 142, 214), (120, 160, 205), (150, 165, 185), (110, 140, 200))))
    low = np.array(pick(rng, ((196, 218, 238), (232, 212, 196), (205, 210, 216))))
    paint = canvas.paint()
    for y in range(int(horizon) + 2):
        share = min(y / horizon, 1.0)
        paint.line((0, y, canvas.width, y), fill=rgb(zenith + share * (low - zenith)))
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0, canvas.width), rng.uniform(0.02, 0.5) * horizon
        for _ in range(4):
            size = rng.uniform(0.05, 0.11) * canvas.height
            x += rng.uniform(0.3, 1.2) * size
            shift = rng.uniform(-0.3, 0.2) * size
            outline = (x - 1.3 * size, y + shift - 0.45 * size, x + 1.3 * size, y + shift + 0.35 * size)
            paint.ellipse(outline, fill=rgb(low * 0.7 + 66))


def _draw_houses(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    walls = ((176, 130, 104), (160, 152, 142), (190, 172, 140), (134, 118, 120), (150, 90, 76), (178, 178, 172))
    x = -rng.uniform(0, 0.3) * canvas.height
    while x < canvas.width:
        width = rng.uniform(0.3, 0.7) * canvas.height
        if rng.random() < 0.8:
            canvas.begin(BUILDING)
            top = horizon * rng.uniform(0.05, 0.6)
            wall = shade(pick(rng, walls), rng.uniform(0.8, 1.1))
            if rng.random() < 0.4:
                roof = shade((140, 70, 58), rng.uniform(0.6, 1.1))
                canvas.polygon([(x, top), (x + width / 2, top - 0.12 * canvas.height), (x + width, top)], roof)
            canvas.box(x, top, x + width, horizon + 4, wall)
            _draw_windows(canvas, rng, (x, top, x + width, horizon), wall)
        x += width


def _draw_windows(
    canvas: Canvas, rng: np.random.Generator, area: tuple[float, float, float, float], wall: Color
) -> None:
    left, top, right, bottom = area
    glass = shade((70, 84, 104), rng.uniform(0.6, 1.5))
    columns, pitch = int(rng.integers(3, 6)), 0.11 * canvas.height
    step = (right - left) / columns
    paint = canvas.paint()
    for row in range(int((bottom - top) // pitch)):
        y = top + (row + 0.25) * pitch
        for column in range(columns):
            x = left + (column + 0.25) * step
            pane = (240, 215, 140) if rng.random() < 0.06 else glass
            paint.rectangle((x, y, x + 0.5 * step, y + 0.55 * pitch), fill=pane)
    paint.line((right, top, right, bottom), fill=shade(wall, 0.7), width=2)


def _draw_trees(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    canvas.begin(VEGETATION)
    unit = canvas.height
    # A hedge runs along the houses, with gaps.
    x = rng.uniform(-0.2, 0.3) * unit
    while x < canvas.width:
        length, rise = rng.uniform(0.4, 1.2) * unit, rng.uniform(0.04, 0.09) * unit
        canvas.box(x, horizon - rise, x + length, horizon + 4, _leaf(rng), radius=0.02 * unit)
        x += length + rng.uniform(0.2, 1.0) * unit
    for _ in range(int(rng.integers(1, 5) * max(canvas.width / canvas.height / 2, 0.5) + 0.5)):
        x, size, leaf = rng.uniform(0, canvas.width), rng.uniform(0.08, 0.14) * unit, _leaf(rng)
        canvas.box(x - 0.12 * size, horizon - 1.6 * size, x + 0.12 * size, horizon + 3, (84, 62, 44))
        for _ in range(6):
            shift_x, shift_y = rng.uniform(-0.8, 0.8, 2) * size
            radius = rng.uniform(0.6, 0.9) * size
            canvas.ellipse(
                x + shift_x, horizon - 2.0 * size + shift_y, radius, radius, shade(leaf, rng.uniform(0.8, 1.2))
            )


def _draw_ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    horizon, width, height = street.horizon * canvas.height, canvas.width, canvas.height
    canvas.begin(SIDEWALK)
    slabs = shade(pick(rng, ((186, 174, 160), (176, 170, 168), (196, 180, 150))), rng.uniform(0.88, 1.06))
    canvas.box(0, horizon, width, height, slabs)
    paint, joint = canvas.paint(), shade(slabs, 0.86)
    for depth in np.linspace(0.02, 1, 9) ** 1.6:
        y = street.ground(float(depth)) * height
        paint.line((0, y, width, y), fill=joint, width=2)
    for spread in np.linspace(-2.6, 3.6, 19):
        paint.line((street.vanishing_x * width, horizon, spread * width, height), fill=joint, width=2)
    canvas.begin(ROAD)
    asphalt = shade((92, 92, 98), rng.uniform(0.8, 1.15))
    (far_left, far_right), (near_left, near_right) = street.road_edges(0), street.road_edges(1)
    corners = [(far_left, horizon), (far_right, horizon), (near_right, height), (near_left, height)]
    canvas.polygon([(x * width, y) for x, y in corners], asphalt)
    for side, (far, near) in enumerate(((far_left, near_left), (far_right, near_right))):
        kerb = 0.012 * width * (1 if side else -1)
        edge = [(far * width, horizon), (near * width, height), (near * width + kerb, height)]
        paint.polygon(edge, fill=shade(slabs, 1.15) if street.look % 2 else shade(slabs, 0.7))
    for begin in np.arange(0.04, 1, 0.16):
        dash = [
            (street.road_edges(d), street.ground(d) * height, 0.006 * street.scale(d)) for d in (begin, begin + 0.08)
        ]
        (near_edges, y0, half0), (far_edges, y1, half1) = dash
        x0, x1 = sum(near_edges) / 2, sum(far_edges) / 2
        outline = [(x0 - half0, y0), (x0 + half0, y0), (x1 + half1, y1), (x1 - half1, y1)]
        paint.polygon([(x * width, y) for x, y in outline], fill=(226, 222, 206))


def _leaf(rng: np.random.Generator) -> Color:
    return shade((78, 118, 52), rng.uniform(0.65, 1.15))
