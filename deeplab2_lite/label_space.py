"""Label spaces as data: the classes of a data set, and how its panoptic ids are built.

A `DatasetInfo` lies beside the records of every data set (`dataset_info.yaml`), so that training,
evaluation and export learn all that they need from the folder. `dataset_info.py` reads it.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deeplab2_lite.errors import UserError
from deeplab2_lite.files import write_text_atomically
from deeplab2_lite.stored_labels import StoredLabels

FILE_NAME = "dataset_info.yaml"
# Labels are stored as three bytes a pixel.
MAX_PANOPTIC_ID = 2**24 - 1


@dataclass(frozen=True)
class ClassInfo:
    """One class of a label space.

    Attributes:
        name: Its name, as it appears in tables and pictures.
        isthing: Whether its pixels belong to countable instances.
        color: RGB, 0..255, for pictures.
        original_id: Its id in the source annotations (COCO category id, Cityscapes label id, ...).
        category: The group of classes that it belongs to, such as "vehicle", for figures by category.
        average_area: Pixels of an average instance, which weighs instances in Cityscapes' iIoU.
    """

    name: str
    isthing: bool
    color: tuple[int, int, int]
    original_id: int
    category: str | None = None
    average_area: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, as written to YAML."""
        optional = {"category": self.category, "average_area": self.average_area}
        return {
            "name": self.name,
            "isthing": self.isthing,
            "color": list(self.color),
            "original_id": self.original_id,
            **{key: value for key, value in optional.items() if value is not None},
        }


@dataclass(frozen=True)
class DatasetInfo:
    """The label space of a data set. A class's id is its position in `classes`.

    Attributes:
        name: Name of the data set.
        classes: The classes, things and stuff, in order of their contiguous ids from 0.
        ignore_label: Semantic id of void pixels; not a class id.
        label_divisor: Panoptic id = semantic_id * label_divisor + instance_id.
        stuff_area_limit: Predicted stuff segments of fewer pixels become void (paper section 4).
        splits: Number of records by split; empty for a preset.
        stored: How the labels in the records are numbered; None is as here.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    ignore_label: int = 255
    label_divisor: int = 1000
    stuff_area_limit: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    stored: StoredLabels | None = None

    def __post_init__(self) -> None:
        where = f"dataset_info '{self.name}'"
        if not self.classes:
            raise UserError(f"{where}: classes: expected at least one class")
        if self.label_divisor < 1:
            raise UserError(f"{where}: label_divisor: expected a positive integer, got {self.label_divisor}")
        if self.ignore_label < len(self.classes):
            raise UserError(
                f"{where}: ignore_label: expected an id that is no class (>= {len(self.classes)}), "
                f"got {self.ignore_label}"
            )
        if (self.ignore_label + 1) * self.label_divisor - 1 > MAX_PANOPTIC_ID:
            raise UserError(
                f"{where}: ignore_label {self.ignore_label} with label_divisor {self.label_divisor} gives "
                f"panoptic ids above {MAX_PANOPTIC_ID}, the most that an RGB label image holds"
            )
        if self.stuff_area_limit < 0:
            raise UserError(f"{where}: stuff_area_limit: expected 0 or more, got {self.stuff_area_limit}")
        if self.stored is not None:
            self.stored.check(f"{where}: stored", len(self.classes))

    @property
    def num_classes(self) -> int:
        """Number of classes, things and stuff; void is none of them."""
        return len(self.classes)

    @property
    def thing_ids(self) -> tuple[int, ...]:
        """Contiguous ids of the thing classes, ascending."""
        return tuple(i for i, c in enumerate(self.classes) if c.isthing)

    @property
    def stuff_ids(self) -> tuple[int, ...]:
        """Contiguous ids of the stuff classes, ascending."""
        return tuple(i for i, c in enumerate(self.classes) if not c.isthing)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by contiguous id."""
        return tuple(c.name for c in self.classes)

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories of the classes, in the order of their first classes."""
        return tuple(dict.fromkeys(c.category for c in self.classes if c.category is not None))

    @property
    def void_id(self) -> int:
        """Panoptic id of void pixels."""
        return self.ignore_label * self.label_divisor

    @property
    def max_instances(self) -> int:
        """The most instances of one class that an image's label can hold (instance id 0 is none)."""
        return self.label_divisor - 1

    @property
    def stores_other_ids(self) -> bool:
        """Whether labels in the records are numbered otherwise than here."""
        same = StoredLabels(self.label_divisor, self.ignore_label, tuple(range(self.num_classes)))
        return self.stored is not None and self.stored != same

    @property
    def colors(self) -> np.ndarray:
        """Class colours, uint8 [num_classes, 3]."""
        return np.array([c.color for c in self.classes], np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, as written to YAML."""
        stored = {} if self.stored is None else {"stored": self.stored.to_dict()}
        return {
            "name": self.name,
            "ignore_label": self.ignore_label,
            "label_divisor": self.label_divisor,
            "stuff_area_limit": self.stuff_area_limit,
            "splits": dict(self.splits),
            **stored,
            "classes": [c.to_dict() for c in self.classes],
        }

    def save(self, folder: str | Path) -> Path:
        """Writes `dataset_info.yaml` into a folder, whole or not at all.

        Args:
            folder: An existing folder.

        Returns:
            The path written.
        """
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=120)
        return write_text_atomically(Path(folder) / FILE_NAME, text)


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Returns colours far apart in hue, for label spaces that come without any.

    Args:
        count: How many.

    Returns:
        RGB triples, 0..255; the same for the same count prefix.
    """
    colors = []
    for i in range(count):
        # Steps of the golden ratio keep neighbours in the list far apart on the colour circle.
        hue = (0.61803398875 * i + 0.58) % 1.0
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 - 0.3 * (i % 2), 0.9 - 0.25 * ((i // 2) % 2))
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colors)


def label_space_difference(expected: DatasetInfo, found: DatasetInfo) -> str | None:
    """Tells two label spaces apart.

    Args:
        expected: One.
        found: The other; names of data sets, colours and original ids may differ.

    Returns:
        None if their panoptic ids mean the same; else in what they differ.
    """
    for key in ("num_classes", "ignore_label", "label_divisor"):
        if getattr(expected, key) != getattr(found, key):
            return f"{key} is {getattr(expected, key)} of '{expected.name}' and {getattr(found, key)} of '{found.name}'"
    for class_id, (ours, theirs) in enumerate(zip(expected.classes, found.classes, strict=True)):
        if (ours.name, ours.isthing) != (theirs.name, theirs.isthing):
            kinds = [f"{'thing' if c.isthing else 'stuff'} '{c.name}'" for c in (ours, theirs)]
            return f"class {class_id} is {kinds[0]} of '{expected.name}' and {kinds[1]} of '{found.name}'"
    return None
