"""COCO's `segmentation` as a mask: polygons, or run lengths as a list or a string.

pycocotools draws the masks, so that their areas are those of the official tools. It checks nothing that it
is given, and reads and writes beyond its buffers where that is not sound: here everything is checked first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from deeplab2_lite.errors import UserError

# Beyond any image; drawing an edge takes time and memory in proportion to its length.
MAX_COORDINATE = 100_000
_LEAST_NUMBERS = 6

# A compressed count is a sequence of characters from '0' on, 5 bits each, the lowest first.
_FIRST_CHARACTER, _BITS, _VALUE, _SIGN, _MORE = 48, 5, 0x1F, 0x10, 0x20
_MOST_CHARACTERS = 7


def check_segmentation(segmentation: Any, height: int, width: int, where: str) -> None:
    """Refuses what is no mask of an image.

    Args:
        segmentation: As in the JSON.
        height: Of the image.
        width: Of the image.
        where: Begins messages.

    Raises:
        UserError: It is neither polygons nor run lengths, or of an image of another size.
    """
    if isinstance(segmentation, dict):
        _check_runs(segmentation, height, width, where)
    elif isinstance(segmentation, list) and segmentation:
        for polygon in segmentation:
            _check_polygon(polygon, where)
    else:
        raise UserError(f"{where}: segmentation: expected polygons or run lengths, got {_short(segmentation)}")


def encode_segmentation(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Turns a checked segmentation into run lengths; several polygons are one mask, their union.

    Args:
        segmentation: As in the JSON, see `check_segmentation`.
        height: Of the image.
        width: Of the image.

    Returns:
        `size` and `counts`, as pycocotools has them.
    """
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return {"size": [height, width], "counts": counts.encode("ascii")}


def mask_area(runs: dict[str, Any]) -> int:
    """Returns the number of pixels of a mask."""
    return int(coco_mask.area(runs))


def decode_mask(runs: dict[str, Any]) -> np.ndarray:
    """Returns a mask as bool [height, width]."""
    return coco_mask.decode(runs).view(bool)


def _check_polygon(polygon: Any, where: str) -> None:
    # Four numbers would be taken for a box.
    if not isinstance(polygon, list) or len(polygon) < _LEAST_NUMBERS or len(polygon) % 2:
        raise UserError(f"{where}: segmentation: expected polygons of 3 or more x, y, got {_short(polygon)}")
    for value in polygon:
        # Not-a-number is not within any bounds.
        if type(value) not in (int, float) or not abs(value) <= MAX_COORDINATE:
            raise UserError(f"{where}: segmentation: expected coordinates in pixels, got {_short(value)}")


def _check_runs(runs: dict[str, Any], height: int, width: int, where: str) -> None:
    size, counts = runs.get("size"), runs.get("counts")
    if size != [height, width]:
        raise UserError(f"{where}: segmentation: its size is {_short(size)}, but its image has [{height}, {width}]")
    if isinstance(counts, str):
        lengths = _decompress(counts)
    elif isinstance(counts, list) and all(type(count) is int and 0 <= count <= height * width for count in counts):
        lengths = np.array(counts, np.int64)
    else:
        lengths = None
    if lengths is None or (lengths < 0).any() or lengths.sum() != height * width:
        raise UserError(
            f"{where}: segmentation: expected run lengths that sum up to {height}x{width} pixels, got {_short(counts)}"
        )


def _decompress(text: str) -> np.ndarray | None:
    """Returns the run lengths of a string; None where it is none."""
    codes = np.array([ord(c) for c in text], np.int64) - _FIRST_CHARACTER
    if not len(codes) or codes.min() < 0 or codes.max() >= 2 * _MORE or codes[-1] & _MORE:
        return None
    ends = np.flatnonzero(codes & _MORE == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if sizes.max() > _MOST_CHARACTERS:
        return None
    shifts = _BITS * (np.arange(len(codes)) - np.repeat(starts, sizes))
    values = np.add.reduceat((codes & _VALUE) << shifts, starts)
    values -= np.where(codes[ends] & _SIGN, np.int64(1) << _BITS * sizes, 0)
    # From the fourth on, each is the difference to the one before the last.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
