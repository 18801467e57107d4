"""The label space of a conversion: read or made of names, with a class for what no annotation covers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, distinct_colors, load_dataset_info
from deeplab2_lite.errors import UserError

_BACKGROUND_COLOR = (40, 40, 40)


def read_label_space(source: str | Path | DatasetInfo, label_divisor: int | None = None) -> DatasetInfo:
    """Loads a label space to write records of.

    Args:
        source: A preset's name, a file or folder, see `dataset_info.load_dataset_info`; or a label space.
        label_divisor: Of the records; None keeps that of the source.

    Returns:
        The label space, whose ids are those that the records will hold.

    Raises:
        UserError: Nothing is there, or it is no label space.
    """
    info = source if isinstance(source, DatasetInfo) else load_dataset_info(source)
    divisor = info.label_divisor if label_divisor is None else label_divisor
    return dataclasses.replace(info, label_divisor=divisor, splits={}, stored=None)


def label_space_of_names(
    name: str, things: Sequence[str] = (), stuff: Sequence[str] = (), label_divisor: int = 1000
) -> DatasetInfo:
    """Makes a label space of names.

    Args:
        name: Name of the data set.
        things: Names of the thing classes, whose ids come first.
        stuff: Names of the stuff classes.
        label_divisor: Panoptic id = class id * label_divisor + instance id.

    Returns:
        The label space, with ids and `original_id` from 0 in the order of the names.

    Raises:
        UserError: There is no name, or one stands twice.
    """
    names = (*things, *stuff)
    for class_name in names:
        if names.count(class_name) > 1:
            raise UserError(f"{name}: class '{class_name}' is given twice; expected a different name for each")
    colors = distinct_colors(len(names))
    classes = tuple(ClassInfo(c, i < len(things), colors[i], i) for i, c in enumerate(names))
    return DatasetInfo(name, classes, ignore_label=max(255, len(classes)), label_divisor=label_divisor)


def with_background(info: DatasetInfo, name: str | None) -> tuple[DatasetInfo, int]:
    """Finds the class of pixels that no annotation covers, adding it as the last one if need be.

    Args:
        info: The label space.
        name: Name of a stuff class; None means that such pixels are void.

    Returns:
        The label space, and the id that such pixels have in it: a class, or `ignore_label`.

    Raises:
        UserError: The class is a thing.
    """
    if name is None:
        return info, info.ignore_label
    if name in info.class_names:
        class_id = info.class_names.index(name)
        if info.classes[class_id].isthing:
            raise UserError(f"--background={name}: is a thing in '{info.name}'; expected a class of stuff")
        return info, class_id
    class_id = info.num_classes
    taken = {c.original_id for c in info.classes}
    original_id = next(i for i in range(class_id + 1) if i not in taken)
    classes = (*info.classes, ClassInfo(name, False, _BACKGROUND_COLOR, original_id))
    ignore_label = max(info.ignore_label, len(classes))
    return dataclasses.replace(info, classes=classes, ignore_label=ignore_label), class_id
