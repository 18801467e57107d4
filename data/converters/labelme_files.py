"""The JSON files of labelme (versions 3 to 6), checked."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from deeplab2_lite.errors import UserError, nearest_name
from deeplab2_lite.files import read_json

# How many points each type of shape has, at least and at most.
_POINTS: Mapping[str, tuple[int, float]] = {
    "polygon": (3, float("inf")),
    "rectangle": (2, 2),
    "oriented_rectangle": (4, 4),
    "circle": (2, 2),
    "mask": (1, 2),
    "line": (2, 2),
    "linestrip": (2, float("inf")),
    "point": (1, 1),
}
# They have no area until somebody says how thick they are.
THIN_SHAPES = ("line", "linestrip", "point")

# Beyond any image; drawing takes time in proportion.
_MAX_COORDINATE = 100_000


class Shape(NamedTuple):
    """One shape that somebody drew.

    Attributes:
        label: What it shows.
        type: "polygon", "rectangle", "oriented_rectangle", "circle", "mask", "line", "linestrip" or "point".
        points: x and y in pixels of the upright image, 0 being the left or upper edge.
        group: Shapes of one label and group are one object; None is a group of its own.
        mask: Content of a mask's PNG, of which the first point is the upper left corner.
    """

    label: str
    type: str
    points: tuple[tuple[float, float], ...]
    group: int | str | None = None
    mask: bytes | None = None


class LabelmeFile(NamedTuple):
    """The content of a file.

    Attributes:
        path: The file.
        image_name: Path of the image from the file's folder.
        height: Of the image; None if the file does not say.
        width: Of the image; None if the file does not say.
        shapes: In the order in which they were drawn.
        image_data: The image itself in base64; None if it is not in the file.
    """

    path: Path
    image_name: str
    height: int | None
    width: int | None
    shapes: tuple[Shape, ...]
    image_data: str | None


def read_labelme_file(path: Path) -> LabelmeFile:
    """Reads a file.

    Args:
        path: The JSON file.

    Returns:
        Its content.

    Raises:
        UserError: It cannot be read, or is not of labelme.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise UserError(f"{path}: no list 'shapes'; expected a file of labelme")
    shapes = tuple(_read_shape(f"{path}: shapes[{i}]", row) for i, row in enumerate(content["shapes"]))
    image_name = _value(path, content, "imagePath", str)
    return LabelmeFile(
        path,
        # As labelme for Windows writes it.
        PureWindowsPath(image_name).as_posix() if image_name else path.stem,
        _value(path, content, "imageHeight", int),
        _value(path, content, "imageWidth", int),
        shapes,
        _value(path, content, "imageData", str),
    )


def decode_base64(where: str, text: str) -> bytes:
    """Decodes base64; `where` begins the message if it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: not valid base64 ({error})") from None


def _read_shape(where: str, row: Any) -> Shape:
    if not isinstance(row, dict) or not isinstance(row.get("label"), str):
        raise UserError(f"{where}: expected an object with a 'label'")
    where = f"{where} ('{row['label']}')"
    # Files of old versions know polygons alone.
    kind = row.get("shape_type") or "polygon"
    if kind not in _POINTS:
        raise UserError(f"{where}: shape_type '{kind}' is not known{nearest_name(str(kind), _POINTS)}")
    points = row.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise UserError(f"{where}: points: expected pairs of coordinates in pixels")
    least, most = _POINTS[kind]
    if not least <= len(points) <= most:
        expected = f"{least}" if least == most else f"{least} or more" if most > 2 else f"{least} to {most}"
        raise UserError(f"{where}: points: expected {expected} of a {kind}, got {len(points)}")
    group = row.get("group_id")
    if group is not None and type(group) not in (int, str):
        raise UserError(f"{where}: group_id: expected an integer, got {group!r}")
    mask = None
    if kind == "mask":
        if not isinstance(row.get("mask"), str):
            raise UserError(f"{where}: mask: expected a PNG in base64")
        mask = decode_base64(f"{where}: mask", row["mask"])
    return Shape(row["label"], kind, tuple((float(x), float(y)) for x, y in points), group, mask)


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        # Not-a-number is not within any bounds.
        and all(type(value) in (int, float) and abs(value) <= _MAX_COORDINATE for value in point)
    )


def _value(path: Path, content: Mapping[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if value is not None and type(value) is not kind:
        expected = "an integer" if kind is int else "text"
        raise UserError(f"{path}: {key}: expected {expected}, got {value!r}")
    return value
