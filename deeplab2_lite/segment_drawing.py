"""Borders and names of the segments of a panoptic map: the drawing behind `visualize.overlay_panoptic`."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.segment_colors import thing_pixels

# Of the pixels that a name's plate hides, so many at least are of what it names; names of stuff give way to things.
_LEAST_OWN_GROUND = {True: 0.6, False: 0.9}
# Places for names are sought on a map of this longer side: exact enough, and quick on large images.
_SEARCH_SIDE = 320


class LabelPlace(NamedTuple):
    """Where a segment has most room for its name.

    Attributes:
        panoptic_id: The segment.
        row: Row of the innermost pixel.
        column: Its column.
        radius: Its distance in pixels to the segment's border.
        area: Pixels of the segment, roughly.
    """

    panoptic_id: int
    row: int
    column: int
    radius: int
    area: int


def instance_borders(panoptic: np.ndarray, info: DatasetInfo, thickness: int) -> np.ndarray:
    """Finds the pixels along the borders of thing instances.

    Args:
        panoptic: Panoptic ids, integers [height, width].
        info: The label space.
        thickness: Width of the line in pixels.

    Returns:
        bool [height, width].
    """
    thing = thing_pixels(panoptic, info)
    borders = np.zeros(panoptic.shape, bool)
    borders[1:] |= (panoptic[1:] != panoptic[:-1]) & (thing[1:] | thing[:-1])
    borders[:, 1:] |= (panoptic[:, 1:] != panoptic[:, :-1]) & (thing[:, 1:] | thing[:, :-1])
    for step in range(1, thickness):
        line = borders.copy()
        # Grown to both sides in turn, so that the line stays on the border.
        if step % 2:
            borders[:-1] |= line[1:]
            borders[:, :-1] |= line[:, 1:]
        else:
            borders[1:] |= line[:-1]
            borders[:, 1:] |= line[:, :-1]
    return borders


def hatch(picture: np.ndarray, where: np.ndarray, thickness: int) -> None:
    """Draws grey diagonals over a part of a picture, in place: what has no colour of its own is seen on any ground.

    Args:
        picture: RGB in 0..255, floats [height, width, 3].
        where: bool [height, width].
        thickness: Of the lines in pixels.
    """
    rows, columns = np.nonzero(where)
    on_line = (rows + columns) % (9 * thickness) < thickness
    rows, columns = rows[on_line], columns[on_line]
    picture[rows, columns] = 0.45 * picture[rows, columns] + 0.55 * 150


def enlarge_labels(labels: np.ndarray, scale: int) -> np.ndarray:
    """Enlarges a label map by a whole factor, with smooth borders where repeated pixels would give stairs.

    Args:
        labels: Integers [height, width].
        scale: The factor.

    Returns:
        [scale * height, scale * width] of the same dtype: at each pixel the label that has the most
        weight in bilinear interpolation; no label that is not there.
    """
    if scale == 1:
        return labels
    (top, bottom, y), (left, right, x) = (_neighbours(size, scale) for size in labels.shape)
    y, x = y[:, None], x[None]
    corners = (
        (labels[top][:, left], (1 - y) * (1 - x)),
        (labels[top][:, right], (1 - y) * x),
        (labels[bottom][:, left], y * (1 - x)),
        (labels[bottom][:, right], y * x),
    )
    votes = [sum((other == label) * weight for other, weight in corners) for label, _ in corners]
    winner = np.argmax(votes, axis=0)
    return np.choose(winner, [label for label, _ in corners])


def _neighbours(size: int, scale: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for each of scale * size pixels the sources before and after it, and the latter's weight."""
    position = np.clip((np.arange(size * scale) + 0.5) / scale - 0.5, 0, size - 1)
    before = position.astype(np.int64)
    return before, np.minimum(before + 1, size - 1), (position - before).astype(np.float32)


def label_places(panoptic: np.ndarray) -> list[LabelPlace]:
    """Finds the innermost pixel of every segment, the largest segment first.

    Args:
        panoptic: Ids, integers [height, width].

    Returns:
        A place for each id.
    """
    if panoptic.size == 0:
        return []
    step = -(-max(panoptic.shape) // _SEARCH_SIDE)
    coarse = panoptic[step // 2 :: step, step // 2 :: step]
    if coarse.size == 0:
        step, coarse = 1, panoptic
    depth = _depth(coarse)
    ids, segment, areas = np.unique(coarse, return_inverse=True, return_counts=True)
    segment = segment.ravel()
    rows, columns = (axis.ravel() for axis in np.indices(coarse.shape))
    # Of equally deep pixels the one nearest to the segment's middle looks best.
    middle_row, middle_column = (np.bincount(segment, axis) / areas for axis in (rows, columns))
    distance = np.hypot(rows - middle_row[segment], columns - middle_column[segment])
    order = np.lexsort([distance, -depth.ravel(), segment])
    best = order[np.searchsorted(segment[order], np.arange(ids.size))]
    places = [
        LabelPlace(
            panoptic_id=int(ids[i]),
            row=int(rows[pixel]) * step + step // 2,
            column=int(columns[pixel]) * step + step // 2,
            radius=int(depth.ravel()[pixel]) * step,
            area=int(areas[i]) * step * step,
        )
        for i, pixel in enumerate(best)
    ]
    return sorted(places, key=lambda place: -place.area)


def _depth(labels: np.ndarray) -> np.ndarray:
    """Returns how many times a map's segments can be eroded until a pixel is gone, int64 [height, width]."""
    depth = np.zeros(labels.shape, np.int64)
    inside = np.ones((labels.shape[0] + 2, labels.shape[1] + 2), bool)
    inside[[0, -1]] = inside[:, [0, -1]] = False
    inner = inside[1:-1, 1:-1]
    padded = np.pad(labels, 1, mode="edge")
    same = {
        (dy, dx): padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx] == labels
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if (dy, dx) != (0, 0)
    }
    for rounds in range(max(labels.shape)):
        if not inner.any():
            break
        depth += inner
        # Every other time diagonals count as well: the contours become octagons, which are nearly round.
        diagonals = rounds % 2 == 1
        kept = inner.copy()
        for (dy, dx), equal in same.items():
            if diagonals or dy == 0 or dx == 0:
                kept &= equal & inside[1 + dy : inside.shape[0] - 1 + dy, 1 + dx : inside.shape[1] - 1 + dx]
        inner[...] = kept
    return depth


def draw_names(picture: Image.Image, panoptic: np.ndarray, info: DatasetInfo) -> Image.Image:
    """Writes class names on the segments that have room for them, on dark plates that never overlap.

    Args:
        picture: RGB.
        panoptic: Panoptic ids, integers of the picture's size.
        info: The label space.

    Returns:
        A new RGB picture.
    """
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    largest = max(13, round(max(picture.size) / 75))
    smallest = max(10, round(0.65 * largest))
    taken: list[tuple[float, float, float, float]] = []
    for place in label_places(panoptic):
        class_id = place.panoptic_id // info.label_divisor
        if class_id == info.ignore_label or place.radius < 0.8 * smallest:
            continue
        size = min(largest, max(smallest, round(0.8 * place.radius)))
        name = info.classes[class_id].name
        left, top, right, bottom = draw.textbbox((0, 0), name, font=font(size), anchor="mm")
        margin = round(0.3 * size)
        # The whole plate stays inside the picture.
        x = min(max(place.column, margin - left), picture.width - right - margin)
        y = min(max(place.row, margin - top), picture.height - bottom - margin)
        plate = (x + left - margin, y + top - margin, x + right + margin, y + bottom + margin)
        below = panoptic[max(0, int(plate[1])) : int(plate[3]) + 1, max(0, int(plate[0])) : int(plate[2]) + 1]
        if (below == place.panoptic_id).mean() < _LEAST_OWN_GROUND[info.classes[class_id].isthing]:
            continue
        # A plate may hide half of its segment at most.
        plate_area = (right - left + 2 * margin) * (bottom - top + 2 * margin)
        if 2 * plate_area > place.area or any(_overlap(plate, other) for other in taken):
            continue
        taken.append(plate)
        draw.rounded_rectangle(plate, radius=margin, fill=(12, 14, 18, 165))
        draw.text((x, y), name, font=font(size), anchor="mm", fill=(255, 255, 255, 255))
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font: pictures look the same on every machine."""
    return ImageFont.load_default(size)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
