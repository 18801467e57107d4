"""Pictures of panoptic maps, heatmaps and offsets, as uint8 RGB arrays; NumPy and Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import atomic_path
from deeplab2_lite.segment_colors import Color, present_ids, segment_colors
from deeplab2_lite.segment_drawing import draw_names, enlarge_labels, font, hatch, instance_borders

# Longer side in pixels up to which `overlay_panoptic` enlarges small images: names need room.
_LEGIBLE_SIDE = 640
BACKGROUND = (24, 26, 30)
_IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def colorize_panoptic(panoptic: Any, info: DatasetInfo, colors: Mapping[int, Color] | None = None) -> np.ndarray:
    """Colours a panoptic map: the class gives the colour, the instance a shade of it.

    Args:
        panoptic: Panoptic ids, integers [height, width].
        info: The label space.
        colors: Of its ids; None takes those of `segment_colors`.

    Returns:
        uint8 [height, width, 3]. Void is black; stuff and crowd have the colour of the class; an
        instance's colour follows from its id, unless a neighbour has nearly the same (`segment_colors`).

    Raises:
        UserError: It is no map of ids of the label space.
    """
    panoptic = _checked_panoptic(panoptic, info)
    table = np.zeros((int(panoptic.max(initial=0)) + 1, 3), np.uint8)
    colors = segment_colors(panoptic, info) if colors is None else colors
    for panoptic_id, color in colors.items():
        if panoptic_id < len(table):
            table[panoptic_id] = color
    return table[panoptic]


def overlay_panoptic(
    image: Any,
    panoptic: Any,
    info: DatasetInfo,
    alpha: float = 0.55,
    names: bool = True,
    scale: int | None = None,
    colors: Mapping[int, Color] | None = None,
) -> np.ndarray:
    """Draws a panoptic map over its image, with borders round instances and the names of classes.

    Args:
        image: uint8 RGB [height, width, 3].
        panoptic: Panoptic ids, integers [height, width].
        info: The label space.
        alpha: Weight of the colours over the image, 0..1. Void shows the image darkened and hatched.
        names: Write the class's name on segments that have room for it.
        scale: Whole factor by which the picture is enlarged; None enlarges small images until names
            are legible.
        colors: Of the ids; None takes those of `segment_colors` for this map.

    Returns:
        uint8 [scale * height, scale * width, 3].

    Raises:
        UserError: Image and map do not fit each other, or a value is out of its range.
    """
    image, panoptic = _checked_image(image, "image"), _checked_panoptic(panoptic, info)
    if image.shape[:2] != panoptic.shape:
        raise UserError(f"panoptic: expected the image's size {list(image.shape[:2])}, got {list(panoptic.shape)}")
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha: expected a number in 0..1, got {alpha}")
    if scale is None:
        scale = legible_scale(panoptic)
    elif scale < 1:
        raise UserError(f"scale: expected a whole number of at least 1, got {scale}")
    height, width = panoptic.shape[0] * scale, panoptic.shape[1] * scale
    # Chosen before it is enlarged: who is whose neighbour depends on the resolution.
    colors = segment_colors(panoptic, info) if colors is None else colors
    if scale > 1:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        panoptic = enlarge_labels(panoptic, scale)

    picture = image * (1 - alpha) + colorize_panoptic(panoptic, info, colors) * alpha
    thickness = max(1, round(max(height, width) / 900))
    hatch(picture, panoptic // info.label_divisor == info.ignore_label, thickness)
    borders = instance_borders(panoptic, info, thickness)
    picture[borders] = 0.2 * picture[borders] + 0.8 * 255
    canvas = Image.fromarray(np.round(picture).astype(np.uint8))
    if names:
        canvas = draw_names(canvas, panoptic, info)
    return np.asarray(canvas)


def legible_scale(panoptic: np.ndarray) -> int:
    """Returns the whole factor by which a map [height, width] must be enlarged so that names can be read on it."""
    return max(1, math.ceil(_LEGIBLE_SIDE / max(panoptic.shape)))


def colorize_offsets(offset: Any, max_magnitude: float | None = None) -> np.ndarray:
    """Colours a field of offsets by the wheel that is usual for optical flow (Baker et al., IJCV 2011).

    Args:
        offset: Floats [height, width, 2] as (dy, dx).
        max_magnitude: Length in pixels that has full saturation; None takes the longest.

    Returns:
        uint8 [height, width, 3]: the direction gives the hue (right is red, down yellow, left cyan, up
        violet), the length the saturation, so that no offset is white; not-finite offsets are black.

    Raises:
        UserError: It is no such array.
    """
    offset = np.asarray(offset)
    if offset.ndim != 3 or offset.shape[2] != 2 or offset.dtype.kind not in "fiu":
        raise UserError(f"offset: expected numbers [height, width, 2], got {offset.dtype} {list(offset.shape)}")
    offset = offset.astype(np.float32)
    finite = np.isfinite(offset).all(axis=2)
    dy, dx = np.where(finite, offset[..., 0], 0), np.where(finite, offset[..., 1], 0)
    length = np.hypot(dy, dx)
    if max_magnitude is None:
        max_magnitude = float(length.max(initial=0))
    saturation = np.minimum(length / max_magnitude, 1)[..., None] if max_magnitude > 0 else np.zeros((*dy.shape, 1))
    turn = np.arctan2(dy, dx) / (2 * np.pi) % 1.0
    # Red, yellow, green, cyan, blue, magenta: spaced by how many hues the eye tells apart between them.
    anchors = np.array([0, 15, 21, 25, 36, 49, 55]) / 55
    wheel = ([1, 1, 0, 0, 0, 1, 1], [0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0])
    hue = np.stack([np.interp(turn, anchors, channel) for channel in wheel], axis=-1)
    return np.round(255 * (1 - saturation * (1 - hue)) * finite[..., None]).astype(np.uint8)


def colorize_heatmap(heatmap: Any) -> np.ndarray:
    """Colours a heatmap from black (0) over violet, red and orange to pale yellow (1).

    Args:
        heatmap: Floats [height, width]; values outside 0..1 are clipped, NaN counts as 0.

    Returns:
        uint8 [height, width, 3].

    Raises:
        UserError: It is no such array.
    """
    heatmap = np.asarray(heatmap)
    if heatmap.ndim != 2 or heatmap.dtype.kind not in "fiu":
        raise UserError(f"heatmap: expected numbers [height, width], got {heatmap.dtype} {list(heatmap.shape)}")
    values = np.clip(np.nan_to_num(heatmap.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    anchors = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    ramp = ([0, 60, 150, 225, 250, 252], [0, 15, 35, 80, 165, 255], [4, 110, 105, 45, 25, 180])
    return np.round(np.stack([np.interp(values, anchors, channel) for channel in ramp], axis=-1)).astype(np.uint8)


def side_by_side(
    images: Sequence[Any], titles: Sequence[str] | None = None, columns: int | None = None, gap: int = 8
) -> np.ndarray:
    """Lays pictures out in a grid on a dark ground.

    Args:
        images: uint8 RGB [height, width, 3] each. All are enlarged to the size of the largest, their
            proportions kept.
        titles: A line above each picture.
        columns: Pictures in a row; None puts all in one.
        gap: Pixels between pictures and round them.

    Returns:
        uint8 [height, width, 3].

    Raises:
        UserError: There are no pictures, one is no picture, or titles do not match them.
    """
    panels = [_checked_image(image, f"images[{i}]") for i, image in enumerate(images)]
    if not panels:
        raise UserError("images: expected at least one picture")
    if titles is not None and len(titles) != len(panels):
        raise UserError(f"titles: expected one for each of the {len(panels)} pictures, got {len(titles)}")
    if columns is not None and columns < 1:
        raise UserError(f"columns: expected at least 1, got {columns}")
    columns = min(columns or len(panels), len(panels))
    height, width = max(p.shape[0] for p in panels), max(p.shape[1] for p in panels)
    font_size = max(12, round(max(height, width) / 36))
    title_height = round(1.6 * font_size) if titles is not None else 0
    rows = math.ceil(len(panels) / columns)
    canvas = Image.new(
        "RGB", (columns * (width + gap) + gap, rows * (height + title_height + gap) + gap), color=BACKGROUND
    )
    draw = ImageDraw.Draw(canvas)
    for i, panel in enumerate(panels):
        left = gap + (i % columns) * (width + gap)
        top = gap + (i // columns) * (height + title_height + gap)
        if titles is not None:
            draw.text(
                (left + 2, top + title_height / 2), titles[i], fill=(235, 235, 235), font=font(font_size), anchor="lm"
            )
        factor = min(height / panel.shape[0], width / panel.shape[1])
        size = (round(panel.shape[1] * factor), round(panel.shape[0] * factor))
        picture = Image.fromarray(panel)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.NEAREST if factor == int(factor) else None)
        canvas.paste(picture, (left, top + title_height))
    return np.asarray(canvas)


def save_image(path: str | Path, image: Any) -> Path:
    """Writes a picture as PNG or JPEG, by the path's ending, whole or not at all.

    Args:
        path: The file; its folder must exist.
        image: uint8 RGB [height, width, 3].

    Returns:
        The path.

    Raises:
        UserError: It is no picture, or the ending is none of .png, .jpg, .jpeg.
    """
    path = Path(path)
    image_format = _IMAGE_FORMATS.get(path.suffix.lower())
    if image_format is None:
        raise UserError(f"{path}: expected a file name that ends in {', '.join(_IMAGE_FORMATS)}")
    picture = Image.fromarray(_checked_image(image, str(path)))
    with atomic_path(path) as temporary:
        picture.save(temporary, format=image_format, **({"quality": 92} if image_format == "JPEG" else {}))
    return path


def _checked_image(image: Any, name: str) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise UserError(f"{name}: expected uint8 RGB [height, width, 3], got {array.dtype} {list(array.shape)}")
    return array


def _checked_panoptic(panoptic: Any, info: DatasetInfo) -> np.ndarray:
    array = np.asarray(panoptic)
    if array.dtype.kind not in "iu" or array.ndim != 2:
        raise UserError(f"panoptic: expected integers [height, width], got {array.dtype} {list(array.shape)}")
    if array.size and array.min() < 0:
        raise UserError(f"panoptic: expected ids of at least 0, got {array.min()}")
    highest = (info.ignore_label + 1) * info.label_divisor - 1
    if array.size and array.max() > highest:
        raise UserError(f"panoptic: expected ids up to {highest} for '{info.name}', got {array.max()}")
    classes = present_ids(array) // info.label_divisor
    unknown = classes[(classes >= info.num_classes) & (classes != info.ignore_label)]
    if unknown.size:
        raise UserError(f"panoptic: semantic id {unknown[0]} is unknown in '{info.name}'")
    return array
