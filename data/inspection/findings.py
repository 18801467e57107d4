"""What an inspection finds wrong: errors, which training or evaluation trip over, and hints, which may be meant."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo

# What each kind of finding is about; `Finding.kind` is one of these words.
ERRORS = {
    "shard": "shards that are missing, damaged, or not those of the conversion",
    "unreadable": "damaged records",
    "refused": "records that training refuses",
    "size": "image/height and image/width that are not the image's",
    "stuff_instances": "stuff with instance ids",
    "void": "labels that are entirely void, where others are not",
    "duplicate_name": "file names that come twice in a split",
    "shared_image": "images that are in two splits",
}
HINTS = {
    "unlabelled": "splits whose labels are all void",
    "one_class": "labels of a single class",
    "id_gaps": "instances that are not numbered 1..n",
    "one_pixel": "instances of a single pixel",
    "void_instances": "void with instance ids",
    "duplicate_image": "images that come twice in a split",
    "shared_name": "file names that are in two splits",
    "unnamed": "records without a file name",
    "format": "image/format that is not the image's",
    "deep_image": "images of 16 bits a channel",
    "unfinished": "a conversion that has not come to its end",
}


class Fault(NamedTuple):
    """Something wrong, wherever it is.

    Attributes:
        kind: A key of `ERRORS` or `HINTS`.
        message: What is wrong, and what was expected, in a clause.
    """

    kind: str
    message: str


class Finding(NamedTuple):
    """Something wrong, and where.

    Attributes:
        kind: A key of `ERRORS` or `HINTS`.
        message: What is wrong, and what was expected, in a clause.
        split: The split; "" for the folder as a whole.
        file: The shard, or another file of the folder.
        record: Place of the record in its shard, from 0; None for the file as a whole.
        filename: Name of the record's image; "" where it is not known.
    """

    kind: str
    message: str
    split: str
    file: str
    record: int | None = None
    filename: str = ""

    @property
    def is_error(self) -> bool:
        """Whether it is an error, and no mere hint."""
        return self.kind in ERRORS

    @property
    def where(self) -> str:
        """The place, such as "train-00001-of-00004.tfrecord record 17 (frankfurt_0001.png)"."""
        return record_place(self.file, self.record, self.filename)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, as written to JSON."""
        return {"severity": "error" if self.is_error else "hint", **self._asdict()}


def record_place(file: str, record: int | None, filename: str) -> str:
    """Names a record, or a file as a whole where `record` is None."""
    if record is None:
        return file
    return f"{file} record {record} ({filename})" if filename else f"{file} record {record}"


def check_segments(ids: np.ndarray, areas: np.ndarray, info: DatasetInfo) -> list[Fault]:
    """Checks the segments of one label.

    Args:
        ids: Panoptic ids that occur, ascending, integers [segments], of classes in `info` or void.
        areas: Pixels of each.
        info: The label space.

    Returns:
        What is wrong.
    """
    semantic, instance = np.divmod(ids, info.label_divisor)
    is_void = semantic == info.ignore_label
    if is_void.all():
        return [Fault("void", "the label is entirely void")]
    faults = []
    if (instance[is_void] > 0).any():
        faults.append(Fault("void_instances", f"void has instance ids, such as {instance[is_void].max()}; expected 0"))
    present = np.unique(semantic[~is_void])
    if len(present) == 1:
        faults.append(Fault("one_class", f"all that is labelled is '{info.class_names[present[0]]}'"))
    for class_id in present.tolist():
        own = semantic == class_id
        faults += _check_class(instance[own], areas[own], info.classes[class_id].isthing, info.class_names[class_id])
    return faults


def _check_class(instance: np.ndarray, areas: np.ndarray, isthing: bool, name: str) -> list[Fault]:
    numbered = instance[instance > 0]
    if not numbered.size:
        return []
    if not isthing:
        return [Fault("stuff_instances", f"'{name}' is stuff, but has instance ids {_some(numbered)}; expected 0")]
    faults = []
    if numbered[-1] != numbered.size:
        message = f"{numbered.size} instances of '{name}' are numbered {_some(numbered)}, not 1..{numbered.size}"
        faults.append(Fault("id_gaps", message))
    if tiny := int((areas[instance > 0] == 1).sum()):
        instances = "instance" if tiny == 1 else "instances"
        faults.append(Fault("one_pixel", f"{tiny} {instances} of '{name}' of a single pixel"))
    return faults


def _some(numbers: np.ndarray) -> str:
    shown = ", ".join(map(str, numbers[:3]))
    return shown if numbers.size <= 3 else f"{shown}, ... {numbers[-1]}"
