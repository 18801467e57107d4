"""From label images of segment ids to panoptic ids, be their classes told by the ids or by a panoptic JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.data.conversion.labelled_record import Segment, number_segments
from deeplab2_lite.data.images import read_rgb_label
from deeplab2_lite.data.record_format import panoptic_from_channels
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import read_json

MAX_VALUE = 2**16 - 1


class PanopticAnnotation(NamedTuple):
    """The annotation of one image.

    Attributes:
        png: Its segment ids, `R + 256 G + 65536 B`, 0 = unlabelled.
        segments: Its segments in the order of their ids; those of void have `ignore_label` as their class.
    """

    png: Path
    segments: tuple[Segment, ...]


def panoptic_from_values(
    values: np.ndarray, segment_of: Callable[[int], Segment], info: DatasetInfo, label: Path
) -> np.ndarray:
    """Gives panoptic ids to a label image whose values tell their classes.

    Args:
        values: 16-bit values, non-negative integers [height, width].
        segment_of: The segment of a value; void has `ignore_label` as its class.
        info: The label space.
        label: The file, for the message.

    Returns:
        Panoptic ids, int32 [height, width]; instances of a class count from 1 in the order of their values.

    Raises:
        UserError: A value is above 16 bits, or there are more instances than the label divisor holds.
    """
    largest = int(values.max())
    if largest > MAX_VALUE:
        raise UserError(f"{label}: expected ids of 16 bits, got {largest}")
    shown = np.flatnonzero(np.bincount(values.ravel()))
    table = np.zeros(largest + 1, np.int32)
    table[shown] = number_segments([segment_of(value) for value in shown.tolist()], info, label)
    return table[values]


def read_panoptic_png(png: Path, segments: Sequence[Segment], info: DatasetInfo) -> np.ndarray:
    """Reads a panoptic PNG.

    Args:
        png: The file.
        segments: What a JSON says of it, in the order in which instances are to be numbered.
        info: The label space.

    Returns:
        Panoptic ids, int32 [height, width].

    Raises:
        UserError: The PNG cannot be read, it shows other segments than the JSON lists, or there are more
            instances of a class than the label divisor holds.
    """
    segment_ids = panoptic_from_channels(read_rgb_label(png))
    listed = [Segment(0, info.ignore_label), *segments]
    ids = np.array([segment.id for segment in listed])
    values = np.array(number_segments(listed, info, png), np.int32)
    order = np.argsort(ids)
    ids, values = ids[order], values[order]
    position = np.searchsorted(ids, segment_ids).clip(max=len(ids) - 1)
    unknown = ids[position] != segment_ids
    if unknown.any():
        raise UserError(f"{png}: segment {segment_ids[unknown][0]} is in the PNG but not in the JSON")
    pixels = np.bincount(position.ravel(), minlength=len(ids))
    absent = ids[(pixels == 0) & (ids != 0)]
    if len(absent):
        raise UserError(f"{png}: segment {absent[0]} is in the JSON but not in the PNG")
    return values[position]


def read_panoptic_json(
    path: Path, folder: Path, class_of: Callable[[Mapping[str, Any]], int | None]
) -> dict[str, PanopticAnnotation]:
    """Reads panoptic annotations in COCO's format whose image ids are names.

    Args:
        path: The JSON.
        folder: Of its PNGs.
        class_of: The class of a category, `ignore_label` for void; None if it is of no label space known.

    Returns:
        The annotations by image id.

    Raises:
        UserError: The JSON is damaged or contradicts itself.
    """
    content = read_json_lists(path, ("annotations", "categories"))
    try:
        classes = {category["id"]: class_of(category) for category in content["categories"]}
        for category in content["categories"]:
            if classes[category["id"]] is None:
                raise UserError(
                    f"{path}: category {category['id']} ('{category['name']}') is none of the data set's labels"
                )
        annotations: dict[str, PanopticAnnotation] = {}
        for annotation in content["annotations"]:
            image_id, name = annotation["image_id"], annotation["file_name"]
            if image_id in annotations:
                raise UserError(f"{path}: two annotations of image '{image_id}'")
            segments = listed_segments(f"{path}: annotation '{name}'", annotation["segments_info"], classes)
            annotations[image_id] = PanopticAnnotation(folder / name, tuple(sorted(segments)))
    except KeyError as error:
        raise UserError(f"{path}: a category, annotation or segment lacks the key {error}") from None
    except TypeError as error:
        raise UserError(f"{path}: not as COCO's panoptic annotations are ({error})") from None
    return annotations


def read_json_lists(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Reads annotations in COCO's format.

    Args:
        path: The JSON.
        keys: Lists that it must hold.

    Returns:
        Its content.

    Raises:
        UserError: It cannot be read, is no JSON, or lacks a list.
    """
    content = read_json(path)
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path}: no list '{key}'; expected annotations in COCO's format")
    return content


def listed_segments(where: str, rows: Sequence[Mapping[str, Any]], classes: Mapping[int, int]) -> tuple[Segment, ...]:
    """Reads the `segments_info` of an annotation.

    Args:
        where: Begins messages.
        rows: The segments.
        classes: Class of each category id.

    Returns:
        The segments in their order.

    Raises:
        UserError: A segment is of no category listed, or has an id that is no number above 0 of its own.
        KeyError: A segment lacks an id or a category.
        TypeError: A segment is no object.
    """
    segments: dict[int, Segment] = {}
    for row in rows:
        segment_id, category = row["id"], row["category_id"]
        if type(segment_id) is not int or segment_id < 0:
            raise UserError(f"{where}: segment id {segment_id!r}: expected an integer above 0")
        if category not in classes:
            raise UserError(f"{where}: segment {segment_id} has category {category}, which is not listed")
        if segment_id == 0:
            raise UserError(f"{where}: a segment has id 0, which stands for unlabelled pixels")
        if segment_id in segments:
            raise UserError(f"{where}: two segments have the id {segment_id}")
        segments[segment_id] = Segment(segment_id, classes[category], bool(row.get("iscrowd", 0)))
    return tuple(segments.values())
