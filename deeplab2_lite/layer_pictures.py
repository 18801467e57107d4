"""Pictures of what a network says of an image: semantic map, instances, centre heatmap, offsets, all on one sheet.

They are those of the paper's Figures 4 and 9 to 11.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.legend import Key, add_legend, class_keys, draw_ring, heatmap_key, mark_key, offset_key, text_size
from deeplab2_lite.segment_colors import Color, segment_colors, thing_pixels
from deeplab2_lite.segment_drawing import enlarge_labels, instance_borders
from deeplab2_lite.visualize import (
    colorize_heatmap,
    colorize_offsets,
    colorize_panoptic,
    legible_scale,
    overlay_panoptic,
    side_by_side,
)

Colors = Mapping[int, Color]

LAYERS = ("semantic", "instance", "heatmap", "offsets", "sheet")
# Those that an export does not give.
HEAD_LAYERS = ("heatmap", "offsets")
# Panels of a sheet are reduced to this longer side.
_PANEL_SIDE = 1024
_SHEET_PROPORTION = 1.5
_TITLES = {"heatmap": "centre heatmap", "offsets": "centre offsets", "instance": "instances"}


class Seen(NamedTuple):
    """An image and what a network says of it.

    Attributes:
        image: RGB, uint8 [height, width, 3].
        panoptic: Panoptic ids, int32 [height, width].
        semantic: Class ids, int32 [height, width].
        centers: (y, x) of the instances' centres in pixels, [instances, 2].
        center_heatmap: Floats [height, width]; None where it is not at hand.
        center_offset: Floats [height, width, 2], (dy, dx); None likewise.
    """

    image: np.ndarray
    panoptic: np.ndarray
    semantic: np.ndarray
    centers: np.ndarray
    center_heatmap: np.ndarray | None = None
    center_offset: np.ndarray | None = None

    @property
    def has_heads(self) -> bool:
        """Whether heatmap and offsets can be drawn."""
        return self.center_heatmap is not None and self.center_offset is not None


class Layer(NamedTuple):
    """A picture, and what its colours mean.

    Attributes:
        picture: uint8 RGB [height, width, 3].
        keys: For its legend.
    """

    picture: np.ndarray
    keys: list[Key]


def draw_layer(name: str, seen: Seen, info: DatasetInfo, legend: bool = True, scale: int | None = None) -> np.ndarray:
    """Draws one of `LAYERS`, or "overlay".

    Args:
        name: Which.
        seen: What is to be seen; the heads, for those that need them.
        info: The label space.
        legend: Explain the colours in a strip below.
        scale: Whole factor by which the image is enlarged; None enlarges small images until names are legible.

    Returns:
        uint8 RGB [height, width, 3].
    """
    # One choice for all pictures, whatever their resolution.
    colors = segment_colors(seen.panoptic, info)
    if name == "sheet":
        return _sheet(seen, info, colors, legend)
    scale = legible_scale(seen.panoptic) if scale is None else scale
    size = text_size(scale * max(seen.panoptic.shape))
    layer = _draw(name, seen, info, colors, scale, size)
    return add_legend(layer.picture, layer.keys, size) if legend else layer.picture


def _draw(name: str, seen: Seen, info: DatasetInfo, colors: Colors, scale: int, size: int) -> Layer:
    """Draws a picture of the image, enlarged by a whole factor; the text of its keys has a size."""
    if name == "overlay":
        picture = overlay_panoptic(seen.image, seen.panoptic, info, scale=scale, colors=colors)
        return Layer(picture, class_keys(seen.panoptic, info, size, colors))
    if name == "semantic":
        classes = seen.semantic * info.label_divisor
        picture = overlay_panoptic(seen.image, classes, info, scale=scale)
        return Layer(picture, class_keys(classes, info, size, segment_colors(classes, info)))
    if name == "instance":
        return _draw_instances(seen, info, colors, scale, size)
    if name == "heatmap":
        return _draw_heatmap(seen, scale, size)
    return _draw_offsets(seen, info, scale, size)


def _draw_instances(seen: Seen, info: DatasetInfo, colors: Colors, scale: int, size: int) -> Layer:
    panoptic = enlarge_labels(seen.panoptic, scale)
    is_thing = thing_pixels(panoptic, info)
    # Void in the place of stuff, which then has no colour and no key.
    things = np.where(is_thing, panoptic, info.void_id)
    picture = 0.45 * _grey(_enlarged(seen.image, scale))
    picture[is_thing] = 0.5 * picture[is_thing] + 0.8 * colorize_panoptic(things, info, colors)[is_thing]
    thickness = max(1, round(max(panoptic.shape) / 900))
    picture[instance_borders(things, info, thickness)] = 255
    keys = [key for key in class_keys(things, info, size, colors) if key.text != "void"]
    return Layer(np.clip(np.round(picture), 0, 255).astype(np.uint8), keys)


def _draw_heatmap(seen: Seen, scale: int, size: int) -> Layer:
    ground = 0.5 * _grey(_enlarged(seen.image, scale))
    heat = _enlarged_floats(np.nan_to_num(seen.center_heatmap, nan=0.0, posinf=1.0, neginf=0.0), scale)
    # The square root lets faint maxima be seen; their colours are those of the key.
    weight = np.sqrt(np.clip(heat, 0, 1))[..., None]
    picture = ground * (1 - weight) + colorize_heatmap(heat) * weight
    canvas = Image.fromarray(np.round(picture).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    radius = max(4.0, max(canvas.size) / 160)
    for y, x in (np.asarray(seen.centers) + 0.5) * scale - 0.5:
        draw_ring(draw, x, y, radius)
    keys = [heatmap_key(size), *([mark_key(size)] if len(seen.centers) else [])]
    return Layer(np.asarray(canvas), keys)


def _draw_offsets(seen: Seen, info: DatasetInfo, scale: int, size: int) -> Layer:
    # Offsets of stuff are never used and never trained; they would hide those that are.
    is_thing = np.isin(seen.semantic, info.thing_ids)
    offset = seen.center_offset * is_thing[..., None]
    length = np.hypot(offset[..., 0], offset[..., 1])
    # A few wild pixels are not to make all others pale.
    known = length[is_thing & np.isfinite(length)]
    longest = max(1.0, float(np.percentile(known, 99))) if known.size else 1.0
    picture = colorize_offsets(offset, longest)
    return Layer(_enlarged(picture, scale, Image.Resampling.NEAREST), [offset_key(longest, size)])


def _sheet(seen: Seen, info: DatasetInfo, colors: Colors, legend: bool) -> np.ndarray:
    seen = _reduced(seen, _PANEL_SIDE)
    names = ["semantic", "heatmap", "offsets", "instance", "panoptic"]
    if not seen.has_heads:
        names = [name for name in names if name not in HEAD_LAYERS]
    scale = legible_scale(seen.panoptic)
    height, width = (side * scale for side in seen.panoptic.shape)
    columns = _columns(len(names) + 1, height, width)
    size = max(16, round(columns * width / 100))
    panels, keys = {"image": _enlarged(seen.image, scale)}, {}
    for name in names:
        layer = _draw("overlay" if name == "panoptic" else name, seen, info, colors, scale, size)
        panels[_TITLES.get(name, name)] = layer.picture
        # Of classes the panoptic picture's keys say most.
        if name not in ("semantic", "instance"):
            keys[name] = layer.keys
    sheet = side_by_side(list(panels.values()), list(panels), columns)
    # In two groups, so that the wheel, which is high, stands with its like.
    ordered = [*keys.pop("panoptic"), *(key for layer_keys in keys.values() for key in layer_keys)]
    return add_legend(sheet, ordered, size) if legend else sheet


def _columns(panels: int, height: int, width: int) -> int:
    """Returns the number of columns by which the grid is full and nearest to the proportions of a screen."""
    full = [columns for columns in range(1, panels + 1) if panels % columns == 0]
    return min(full, key=lambda c: abs(math.log(c * width / (panels / c * height) / _SHEET_PROPORTION)))


def _reduced(seen: Seen, longest: int) -> Seen:
    """Returns the same, with a longer side of at most so many pixels."""
    height, width = seen.panoptic.shape
    if max(height, width) <= longest:
        return seen
    factor = longest / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, (height, width), strict=True)
    )
    image = np.asarray(Image.fromarray(seen.image).resize(size[::-1], Image.Resampling.LANCZOS))
    labels = [labels[rows[:, None], columns] for labels in (seen.panoptic, seen.semantic)]
    heads: Sequence[np.ndarray | None] = (None, None)
    if seen.has_heads:
        # Offsets keep the length that they have in pixels of the image: that is what the key speaks of.
        heads = [head[rows[:, None], columns] for head in (seen.center_heatmap, seen.center_offset)]
    return Seen(image, *labels, (np.asarray(seen.centers) + 0.5) * factor - 0.5, *heads)


def _enlarged(picture: np.ndarray, scale: int, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    if scale == 1:
        return picture
    size = (picture.shape[1] * scale, picture.shape[0] * scale)
    return np.asarray(Image.fromarray(picture).resize(size, resampling))


def _enlarged_floats(values: np.ndarray, scale: int) -> np.ndarray:
    size = (values.shape[1] * scale, values.shape[0] * scale)
    return np.asarray(Image.fromarray(values.astype(np.float32), mode="F").resize(size, Image.Resampling.BILINEAR))


def _grey(picture: np.ndarray) -> np.ndarray:
    """Returns a picture without its colours, and as bright as it can be: the ground for what is drawn on it."""
    grey = np.asarray(Image.fromarray(picture).convert("L"), np.float64)
    low, high = np.percentile(grey, (0.5, 99.5))
    stretched = np.clip((grey - low) / max(high - low, 1.0), 0, 1) * 255
    return np.repeat(stretched[..., None], 3, axis=2)
