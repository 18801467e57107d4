"""The ids that labels bear in records, where another library than this one wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deeplab2_lite.errors import UserError, nearest_name

# One table entry for each id that a record may hold: beyond it, tables no longer fit beside the data.
MAX_STORED_ID = 2**24 - 1

_KEYS = ("label_divisor", "ignore_label", "first_class", "class_ids")


@dataclass(frozen=True)
class StoredLabels:
    """How the labels of records are numbered: stored id = stored class id * label_divisor + instance id.

    Attributes:
        label_divisor: Of the stored ids.
        ignore_label: Stored class id of void pixels.
        class_ids: Stored id of each class, in the order of the data set's classes.
    """

    label_divisor: int
    ignore_label: int
    class_ids: tuple[int, ...]

    @property
    def num_ids(self) -> int:
        """One more than the highest stored id."""
        return (max(*self.class_ids, self.ignore_label) + 1) * self.label_divisor

    def check(self, where: str, num_classes: int) -> None:
        """Refuses ids that do not fit together.

        Args:
            where: Begins the message.
            num_classes: Number of classes of the data set.

        Raises:
            UserError: There is not one id for each class, or ids are negative, ambiguous or too large.
        """
        if self.label_divisor < 1:
            raise UserError(f"{where}: label_divisor: expected a positive integer, got {self.label_divisor}")
        if len(self.class_ids) != num_classes:
            raise UserError(
                f"{where}: class_ids: expected one id for each of {num_classes} classes, got {len(self.class_ids)}"
            )
        ids = (*self.class_ids, self.ignore_label)
        if min(ids) < 0:
            raise UserError(f"{where}: expected ids of 0 or more, got {min(ids)}")
        twice = {i for i in ids if ids.count(i) > 1}
        if twice:
            raise UserError(f"{where}: expected a different id for each class and for void, got {min(twice)} twice")
        if self.num_ids - 1 > MAX_STORED_ID:
            raise UserError(
                f"{where}: class {max(ids)} with label_divisor {self.label_divisor} gives ids above {MAX_STORED_ID}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, as written to YAML."""
        common = {"label_divisor": self.label_divisor, "ignore_label": self.ignore_label}
        first = self.class_ids[0]
        if self.class_ids == tuple(range(first, first + len(self.class_ids))):
            return common | {"first_class": first}
        return common | {"class_ids": list(self.class_ids)}


def stored_labels_from_dict(
    where: str, content: Any, num_classes: int, label_divisor: int, ignore_label: int
) -> StoredLabels:
    """Reads what `StoredLabels.to_dict` gave, or a user wrote.

    Args:
        where: Begins messages.
        content: A mapping of `label_divisor`, `ignore_label`, and either `first_class`, from which on classes
            are numbered in order, or `class_ids`. What it lacks is as in the label space itself.
        num_classes: Number of classes of the label space.
        label_divisor: Its divisor.
        ignore_label: Its id of void.

    Returns:
        The numbering, not yet checked.

    Raises:
        UserError: It is no such mapping.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected a mapping of {', '.join(_KEYS)}, got {content!r}")
    for key, value in content.items():
        if key not in _KEYS:
            raise UserError(f"{where}: unknown key '{key}'{nearest_name(str(key), _KEYS)}")
        if key != "class_ids" and type(value) is not int:
            raise UserError(f"{where}: {key}: expected an integer, got {value!r}")
    if "first_class" in content and "class_ids" in content:
        raise UserError(f"{where}: expected either first_class or class_ids, got both")
    first = content.get("first_class", 0)
    class_ids = content.get("class_ids", list(range(first, first + num_classes)))
    if not isinstance(class_ids, list) or not all(type(i) is int for i in class_ids):
        raise UserError(f"{where}: class_ids: expected a list of integers, got {class_ids!r}")
    return StoredLabels(
        content.get("label_divisor", label_divisor), content.get("ignore_label", ignore_label), tuple(class_ids)
    )
