"""What colours mean, as a strip to put below a picture: classes and their instances, the heatmap's scale, the wheel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.segment_colors import Color, present_ids
from deeplab2_lite.segment_drawing import font, hatch
from deeplab2_lite.visualize import BACKGROUND, colorize_heatmap, colorize_offsets

_TEXT = (235, 235, 235)
_FRAME = (120, 124, 130)
# Narrower pictures get ground to their sides, so that a name has room.
_LEAST_WIDTH = 260
_SHOWN_INSTANCES = 3


class Key(NamedTuple):
    """One entry of a legend.

    Attributes:
        swatch: uint8 RGB [height, width, 3].
        text: What it means.
    """

    swatch: np.ndarray
    text: str


def class_keys(panoptic: np.ndarray, info: DatasetInfo, size: int, colors: Mapping[int, Color]) -> list[Key]:
    """Explains the colours of a panoptic map.

    Args:
        panoptic: Panoptic ids, integers [height, width].
        info: The label space.
        size: Of the text, in pixels.
        colors: Of the ids in the map, as `segment_colors` gives them.

    Returns:
        A key for each class in the map, in the order of the label space, then one for void. A class of things shows
        its own colour, then those of its first instances; the text counts them.
    """
    present = present_ids(panoptic)
    keys = []
    for class_id, description in enumerate(info.classes):
        ids = present[present // info.label_divisor == class_id].tolist()
        if not ids:
            continue
        instances = [panoptic_id for panoptic_id in ids if description.isthing and panoptic_id % info.label_divisor]
        bars = [description.color, *(colors[panoptic_id] for panoptic_id in instances[:_SHOWN_INSTANCES])]
        text = f"{description.name}: {len(instances)}" if instances else description.name
        keys.append(Key(_bars(bars, size), text))
    if (present // info.label_divisor == info.ignore_label).any():
        swatch = np.full((size, round(1.6 * size), 3), 40.0)
        hatch(swatch, np.ones(swatch.shape[:2], bool), 1)
        keys.append(Key(_framed(swatch.astype(np.uint8)), "void"))
    return keys


def offset_key(longest: float, size: int) -> Key:
    """Explains the colours of `colorize_offsets`.

    Args:
        longest: Length in pixels that has full saturation.
        size: Of the text, in pixels.

    Returns:
        The wheel: the colour at a place is that of an offset from the middle to there.
    """
    side = 5 * size
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    offset = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    wheel = colorize_offsets(offset, 1.0)
    wheel[np.hypot(offset[..., 0], offset[..., 1]) > 1] = BACKGROUND
    return Key(wheel, f"offset to the centre of the instance: hue = direction, full colour = {longest:.3g} px")


def heatmap_key(size: int) -> Key:
    """Explains the colours of `colorize_heatmap`: from 0 to 1."""
    bar = colorize_heatmap(np.tile(np.linspace(0, 1, 9 * size), (size, 1)))
    return Key(_framed(bar), "centre heatmap from 0 to 1")


def mark_key(size: int) -> Key:
    """Explains the rings of `draw_centers`."""
    side = round(1.4 * size)
    swatch = Image.new("RGB", (side, side), BACKGROUND)
    draw_ring(ImageDraw.Draw(swatch), side / 2 - 0.5, side / 2 - 0.5, 0.4 * side)
    return Key(np.asarray(swatch), "centre of an instance")


def draw_ring(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    """Draws a white ring with a black edge on both sides: it is seen on any ground.

    Args:
        draw: Of the picture.
        x: Of the middle, in pixels.
        y: Likewise.
        radius: In pixels.
    """
    width = max(1, round(radius / 5))
    box = (x - radius, y - radius, x + radius, y + radius)
    wider = tuple(side + sign * width for side, sign in zip(box, (-1, -1, 1, 1), strict=True))
    draw.ellipse(wider, outline=(0, 0, 0), width=3 * width)
    draw.ellipse(box, outline=(255, 255, 255), width=width)


def text_size(longest_side: int) -> int:
    """Returns the size of text, in pixels, that suits a picture."""
    return max(13, round(longest_side / 70))


def add_legend(picture: np.ndarray, keys: Sequence[Key], size: int) -> np.ndarray:
    """Puts a legend below a picture.

    Args:
        picture: uint8 RGB [height, width, 3].
        keys: What to explain; none leaves the picture as it is.
        size: Of the text, in pixels.

    Returns:
        uint8 [height + legend, width, 3]; very narrow pictures become wider.
    """
    if not keys:
        return picture
    height, width = picture.shape[:2]
    strip = _flow(keys, max(width, _LEAST_WIDTH), size)
    canvas = Image.new("RGB", (strip.width, height + strip.height), BACKGROUND)
    canvas.paste(Image.fromarray(picture), ((strip.width - width) // 2, 0))
    canvas.paste(strip, (0, height))
    return np.asarray(canvas)


def _flow(keys: Sequence[Key], width: int, size: int) -> Image.Image:
    """Lays keys out in rows from left to right, as words in a paragraph."""
    margin, gap = round(0.8 * size), round(0.5 * size)
    room = width - 2 * margin
    rows: list[list[tuple[int, Key]]] = []
    heights: list[int] = []
    x = room
    for key in keys:
        text = _shortened(key.text, size, room - key.swatch.shape[1] - gap)
        key_width = key.swatch.shape[1] + gap + round(font(size).getlength(text))
        if x + key_width > room:
            rows.append([])
            heights.append(0)
            x = 0
        rows[-1].append((x, Key(key.swatch, text)))
        heights[-1] = max(heights[-1], key.swatch.shape[0], round(1.3 * size))
        x += key_width + round(1.6 * size)
    strip = Image.new("RGB", (width, sum(heights) + gap * (len(rows) - 1) + 2 * margin), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    top = margin
    for row, height in zip(rows, heights, strict=True):
        for x, (swatch, text) in row:
            strip.paste(Image.fromarray(swatch), (margin + x, top + (height - swatch.shape[0]) // 2))
            place = (margin + x + swatch.shape[1] + gap, top + height / 2)
            draw.text(place, text, font=font(size), anchor="lm", fill=_TEXT)
        top += height + gap
    return strip


def _shortened(text: str, size: int, room: int) -> str:
    if font(size).getlength(text) <= room:
        return text
    while text and font(size).getlength(text + "...") > room:
        text = text[:-1]
    return text + "..."


def _bars(colors: Sequence[tuple[int, int, int]], size: int) -> np.ndarray:
    """One colour beside the other, the first as wide as all others."""
    first, *others = colors
    swatch = np.empty((size, round(1.6 * size), 3), np.uint8)
    swatch[:] = first
    if others:
        right = np.array_split(np.arange(swatch.shape[1] // 2, swatch.shape[1]), len(others))
        for columns, color in zip(right, others, strict=True):
            swatch[:, columns] = color
    return _framed(swatch)


def _framed(swatch: np.ndarray) -> np.ndarray:
    framed = swatch.copy()
    framed[[0, -1]] = _FRAME
    framed[:, [0, -1]] = _FRAME
    return framed
