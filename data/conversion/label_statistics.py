"""What a label holds, counted by class: the figures of a conversion's manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo


@dataclass(frozen=True)
class LabelStatistics:
    """Counts over any number of records. The tuples have one entry for each class.

    Attributes:
        records: Records counted.
        void_pixels: Pixels of no class.
        pixels: Pixels of each class.
        segments: Instances of each thing class (crowds are none), and for each class of stuff the images
            that show it.
        images: Images that show each class, be it as a crowd.
    """

    records: int
    void_pixels: int
    pixels: tuple[int, ...]
    segments: tuple[int, ...]
    images: tuple[int, ...]

    @classmethod
    def empty(cls, num_classes: int) -> LabelStatistics:
        """Returns the counts of no record at all."""
        none = (0,) * num_classes
        return cls(0, 0, none, none, none)

    def __add__(self, other: LabelStatistics) -> LabelStatistics:
        return LabelStatistics(
            self.records + other.records,
            self.void_pixels + other.void_pixels,
            *(
                tuple(a + b for a, b in zip(ours, theirs, strict=True))
                for ours, theirs in (
                    (self.pixels, other.pixels),
                    (self.segments, other.segments),
                    (self.images, other.images),
                )
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, as written to JSON."""
        return {
            "records": self.records,
            "void_pixels": self.void_pixels,
            "pixels": list(self.pixels),
            "segments": list(self.segments),
            "images": list(self.images),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LabelStatistics:
        """Reads what `to_dict` returned."""
        return cls(
            content["records"],
            content["void_pixels"],
            *(tuple(content[key]) for key in ("pixels", "segments", "images")),
        )


class ConvertedRecord(NamedTuple):
    """A record and what its label holds.

    Attributes:
        serialized: The `tf.train.Example`.
        statistics: Counts of this record alone.
    """

    serialized: bytes
    statistics: LabelStatistics


def count_label(panoptic: np.ndarray, info: DatasetInfo) -> LabelStatistics:
    """Counts the classes and segments of one label.

    Args:
        panoptic: Panoptic ids, integers [height, width], of classes in `info` or void.
        info: The label space.

    Returns:
        The counts of one record.

    Raises:
        ValueError: An id is of no class and not void.
    """
    area = np.bincount(panoptic.ravel())
    ids = np.flatnonzero(area)
    semantic, instance = np.divmod(ids, info.label_divisor)
    is_void = semantic == info.ignore_label
    if (semantic[~is_void] >= info.num_classes).any():
        raise ValueError(f"panoptic ids of unknown classes: {ids[~is_void & (semantic >= info.num_classes)]}")
    is_thing = np.isin(semantic, info.thing_ids)
    pixels = _sum_by_class(semantic[~is_void], area[ids][~is_void], info)
    is_segment = ~is_void & (~is_thing | (instance > 0))
    return LabelStatistics(
        records=1,
        void_pixels=int(area[ids][is_void].sum()),
        pixels=pixels,
        segments=_sum_by_class(semantic[is_segment], np.ones(int(is_segment.sum()), np.int64), info),
        images=tuple(int(count > 0) for count in pixels),
    )


def count_image_class(class_id: int, num_classes: int) -> LabelStatistics:
    """Counts an image that has one class as a whole, and no pixels of any."""
    images = tuple(int(i == class_id) for i in range(num_classes))
    return LabelStatistics(1, 0, (0,) * num_classes, (0,) * num_classes, images)


def _sum_by_class(semantic: np.ndarray, values: np.ndarray, info: DatasetInfo) -> tuple[int, ...]:
    sums = np.zeros(info.num_classes, np.int64)
    np.add.at(sums, semantic, values)
    return tuple(sums.tolist())


def sum_statistics(parts: Sequence[LabelStatistics], num_classes: int) -> LabelStatistics:
    """Adds up counts; those of nothing are zeros."""
    total = LabelStatistics.empty(num_classes)
    for part in parts:
        total += part
    return total
