"""The labels of Mapillary Vistas: what the configuration of a version lists, and what its `instances` show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from deeplab2_lite.data.conversion.labelled_record import Segment
from deeplab2_lite.data.converters.segment_maps import panoptic_from_values
from deeplab2_lite.data.images import read_instance_ids
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import read_json

_STUFF_AREA_LIMIT = 4096  # paper section 4
_INSTANCES_PER_LABEL = 256


class VistasLabel(NamedTuple):
    """One label; its id is its place in the list.

    Attributes:
        name: Its name in the hierarchy, such as "object--vehicle--car".
        readable: Its short name.
        instances: Whether its instances are told apart.
        evaluate: Whether it is a class; all others are void.
        color: RGB, 0..255.
    """

    name: str
    readable: str
    instances: bool
    evaluate: bool
    color: tuple[int, int, int]


def read_labels(path: Path) -> tuple[VistasLabel, ...]:
    """Reads the labels of a version.

    Args:
        path: Its configuration, such as `config_v1.2.json`.

    Returns:
        The labels in the order of their ids.

    Raises:
        UserError: The file cannot be read, or lists no labels.
    """
    content = read_json(path)
    rows = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: no list 'labels'; expected the configuration that comes with Mapillary Vistas")
    labels = tuple(_label_from_row(f"{path}: labels[{index}]", row) for index, row in enumerate(rows))
    if not any(label.evaluate for label in labels):
        raise UserError(f"{path}: no label has evaluate: true; expected those of the classes to have it")
    return labels


def dataset_info_from_labels(name: str, labels: Sequence[VistasLabel], label_divisor: int = 1000) -> DatasetInfo:
    """Builds the label space of what is evaluated.

    Args:
        name: Name of the data set.
        labels: All labels.
        label_divisor: Panoptic id = class id * label_divisor + instance id.

    Returns:
        The label space, contiguous in the order of the labels, whose ids are its `original_id`.
    """
    classes = tuple(
        ClassInfo(label.readable, label.instances, label.color, index, label.name.split("--")[0])
        for index, label in enumerate(labels)
        if label.evaluate
    )
    return DatasetInfo(name, classes, label_divisor=label_divisor, stuff_area_limit=_STUFF_AREA_LIMIT)


def class_ids_by_label(labels: Sequence[VistasLabel], info: DatasetInfo) -> tuple[int, ...]:
    """Returns the class of each label, `ignore_label` for void."""
    class_ids = {c.original_id: class_id for class_id, c in enumerate(info.classes)}
    return tuple(class_ids.get(index, info.ignore_label) for index in range(len(labels)))


def read_instances(path: Path) -> np.ndarray:
    """Reads a PNG of `instances`.

    Args:
        path: The file.

    Returns:
        Label * 256 + instance, int32 [height, width].

    Raises:
        UserError: It cannot be read, or has not 16 bits.
    """
    values = read_instance_ids(path)
    with Image.open(path) as image:
        # The 8-bit label ids would pass for instances of the first label.
        if image.mode != "I" and not image.mode.startswith("I;16"):
            raise UserError(f"{path}: expected 16 bits a pixel (label * 256 + instance), got mode {image.mode}")
    return values


def panoptic_from_instances(values: np.ndarray, class_ids: Sequence[int], info: DatasetInfo, label: Path) -> np.ndarray:
    """Gives panoptic ids to the values of a PNG of `instances`.

    Args:
        values: Label * 256 + instance, integers [height, width].
        class_ids: Class of each label, `ignore_label` for void.
        info: The label space.
        label: The file, for the message.

    Returns:
        Panoptic ids, int32 [height, width]; instances of a class count from 1 in the order of their values.

    Raises:
        UserError: A value is of no label, or an instance of a class that has none; or there are more
            instances of a class than the label divisor holds.
    """

    def segment_of(value: int) -> Segment:
        label_id, instance = divmod(value, _INSTANCES_PER_LABEL)
        if label_id >= len(class_ids):
            raise UserError(
                f"{label}: value {value} is of label {label_id}, but the configuration has {len(class_ids)} labels"
            )
        class_id = class_ids[label_id]
        if instance and class_id in info.stuff_ids:
            name = info.class_names[class_id]
            raise UserError(f"{label}: value {value} is instance {instance} of '{name}', a class without instances")
        return Segment(value, class_id)

    return panoptic_from_values(values, segment_of, info, label)


def _label_from_row(where: str, row: Any) -> VistasLabel:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object with 'readable', 'instances' and 'evaluate', got {row!r}")
    for key, kind, expected in (
        ("name", str, "text"),
        ("readable", str, "text"),
        ("instances", bool, "true or false"),
        ("evaluate", bool, "true or false"),
        ("color", list, "three integers in 0..255"),
    ):
        if not isinstance(row.get(key), kind):
            raise UserError(f"{where}: {key}: expected {expected}, got {row.get(key)!r}")
    color = tuple(row["color"])
    if len(color) != 3 or not all(type(value) is int and 0 <= value <= 255 for value in color):
        raise UserError(f"{where}: color: expected three integers in 0..255, got {list(color)}")
    return VistasLabel(row["name"], row["readable"], row["instances"], row["evaluate"], color)
