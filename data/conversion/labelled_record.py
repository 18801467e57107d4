"""What the converters of labelled images have in common: from an image and its segments to a record."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord, count_label
from deeplab2_lite.data.images import StoredImage
from deeplab2_lite.data.record_format import make_record
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError

# Of a JPEG made anew: artefacts below what a network sees, at a third of a PNG's size.
_JPEG_QUALITY = 95


class Segment(NamedTuple):
    """One segment of a source label.

    Attributes:
        id: Its id in the source.
        class_id: Its class, contiguous.
        iscrowd: Whether it is a group of things that are not told apart.
    """

    id: int
    class_id: int
    iscrowd: bool = False


def number_segments(segments: Iterable[Segment], info: DatasetInfo, label: Path) -> list[int]:
    """Gives panoptic ids to the segments of an image.

    Args:
        segments: In the order in which instances of a class are to be numbered.
        info: The label space.
        label: The file, for the message.

    Returns:
        An id for each: instances of things count from 1 within each class; stuff and crowds have instance 0.

    Raises:
        UserError: There are more instances of a class than the label divisor holds.
    """
    instances = dict.fromkeys(info.thing_ids, 0)
    ids = []
    for segment in segments:
        instance = 0
        if segment.class_id in instances and not segment.iscrowd:
            instance = instances[segment.class_id] = instances[segment.class_id] + 1
        ids.append(segment.class_id * info.label_divisor + instance)
    for class_id, count in instances.items():
        check_instance_count(count, class_id, info, label)
    return ids


def check_instance_count(count: int, class_id: int, info: DatasetInfo, label: Path) -> None:
    """Makes sure that the instances of a class have panoptic ids.

    Args:
        count: Instances of the class in an image.
        class_id: The class.
        info: The label space.
        label: The file, for the message.

    Raises:
        UserError: There are more than the label divisor holds.
    """
    if count > info.max_instances:
        raise UserError(
            f"{label}: {count} instances of '{info.class_names[class_id]}', but label_divisor "
            f"{info.label_divisor} holds {info.max_instances}; expected --label_divisor={count + 1} or more"
        )


def labelled_record(
    image: StoredImage,
    image_path: Path,
    panoptic: np.ndarray,
    label_path: Path,
    info: DatasetInfo,
    longest_side: int | None = None,
) -> ConvertedRecord:
    """Makes the record of an image and its label.

    Args:
        image: The image.
        image_path: Its file; the record bears its name.
        panoptic: Panoptic ids, integers [height, width].
        label_path: The file of the label, for the message.
        info: The label space.
        longest_side: Shrink both so that the longer side has so many pixels; None, or more than it has
            already, keeps the size.

    Returns:
        The record and its counts.

    Raises:
        UserError: Image and label differ in size.
    """
    if panoptic.shape != (image.height, image.width):
        raise UserError(
            f"{label_path}: {panoptic.shape[0]}x{panoptic.shape[1]} pixels, but its image {image_path} has "
            f"{image.height}x{image.width}"
        )
    if longest_side is not None and longest_side < max(panoptic.shape):
        image, panoptic = _shrink(image, panoptic, longest_side)
    serialized = make_record(image.encoded, image.format, image_path.name, panoptic, image.channels)
    return ConvertedRecord(serialized, count_label(panoptic, info))


def _shrink(image: StoredImage, panoptic: np.ndarray, longest_side: int) -> tuple[StoredImage, np.ndarray]:
    """Resizes by area in the image, and to the nearest pixel in the label, on one grid."""
    longest = max(panoptic.shape)
    # floor(side * longest_side / longest + 1/2), as in training and inference.
    height, width = (max((2 * side * longest_side + longest) // (2 * longest), 1) for side in panoptic.shape)
    with Image.open(io.BytesIO(image.encoded)) as decoded:
        resized = decoded.resize((width, height), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    if image.format == "jpeg":
        resized.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        resized.save(buffer, "PNG")
    rows, columns = (_nearest(size, target) for size, target in zip(panoptic.shape, (height, width), strict=True))
    return StoredImage(buffer.getvalue(), image.format, height, width, image.channels), panoptic[rows[:, None], columns]


def _nearest(source: int, target: int) -> np.ndarray:
    # floor((i + 1/2) * source / target) in integers.
    return (2 * np.arange(target) + 1) * source // (2 * target)
