"""What the records of a split hold, gathered record by record: the figures of an inspection."""

from __future__ import annotations

import array
import collections
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.data.inspection.records import RecordContent
from deeplab2_lite.dataset_info import DatasetInfo

# The paper's small instances have fewer pixels (section 3.3).
SMALL_INSTANCE_AREA = 64 * 64


class AreaSummary(NamedTuple):
    """Areas of segments, in pixels.

    Attributes:
        smallest: The least.
        lower_quartile: A quarter of them are at most this large.
        median: Half of them; the mean of the two in the middle where their number is even.
        largest: The greatest.
    """

    smallest: int
    lower_quartile: float
    median: float
    largest: int


@dataclass(frozen=True)
class ClassSummary:
    """What a split holds of one class.

    Attributes:
        name: Of the class.
        isthing: Whether it has instances.
        images: That show it, be it as a crowd.
        pixels: Of it.
        share: Of all pixels that are not void; 0 where there are none.
        segments: Instances of things (crowds are none); of stuff, the images that show it.
        crowds: Images with pixels of things that are not told apart.
        areas: Of the segments; None where there is none.
        below_stuff_limit: Segments of stuff with fewer pixels than the data set's `stuff_area_limit`.
    """

    name: str
    isthing: bool
    images: int
    pixels: int
    share: float
    segments: int
    crowds: int
    areas: AreaSummary | None
    below_stuff_limit: int


class SizeCount(NamedTuple):
    """How many images have a size in pixels."""

    height: int
    width: int
    images: int


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds.

    Attributes:
        shards: Files that are there.
        bytes: Their size.
        records: That can be found in them.
        inspected: How many of these were looked at.
        readable: How many of those training can read; all that follows counts these alone.
        sizes: Sizes of the images, the most common first.
        image_formats: Images by format.
        label_formats: Labels by format.
        void_share: Share of void in all pixels.
        classes: One for each class of the label space.
        instances: Of all things.
        instance_areas: Their areas; None where there is none.
        small_instances: Those of fewer than 64 x 64 pixels.
        instances_per_image: Median number.
        most_instances: Of an image.
        most_instances_in: That image's file name; "" where there are no instances.
        largest_instance_id: The greatest that occurs.
    """

    shards: int
    bytes: int
    records: int
    inspected: int
    readable: int
    sizes: tuple[SizeCount, ...]
    image_formats: dict[str, int]
    label_formats: dict[str, int]
    void_share: float
    classes: tuple[ClassSummary, ...]
    instances: int
    instance_areas: AreaSummary | None
    small_instances: int
    instances_per_image: float
    most_instances: int
    most_instances_in: str
    largest_instance_id: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, as written to JSON."""
        return {
            **vars(self),
            "sizes": [size._asdict() for size in self.sizes],
            "instance_areas": self.instance_areas and self.instance_areas._asdict(),
            "classes": [{**vars(c), "areas": c.areas and c.areas._asdict()} for c in self.classes],
        }


class SplitStatistics:
    """Running statistics; memory grows by a number for each segment."""

    def __init__(self, info: DatasetInfo) -> None:
        """Counts nothing yet.

        Args:
            info: The label space.
        """
        self._info = info
        self._isthing = np.array([c.isthing for c in info.classes], bool)
        self._sizes: collections.Counter[tuple[int, int]] = collections.Counter()
        self._image_formats: collections.Counter[str] = collections.Counter()
        self._label_formats: collections.Counter[str] = collections.Counter()
        self._void_pixels = 0
        self._pixels, self._images, self._crowds = np.zeros((3, info.num_classes), np.int64)
        self._areas = [array.array("q") for _ in info.classes]
        self._instances = array.array("q")
        self._most = (0, "")
        self._largest_id = 0

    def add(self, filename: str, content: RecordContent) -> None:
        """Counts a record.

        Args:
            filename: Name of its image.
            content: What it holds.
        """
        self._sizes[content.height, content.width] += 1
        self._image_formats[content.image_format] += 1
        self._label_formats[content.label_format] += 1
        semantic, instance = np.divmod(content.ids, self._info.label_divisor)
        is_void = semantic == self._info.ignore_label
        self._void_pixels += int(content.areas[is_void].sum())
        semantic, instance, areas = semantic[~is_void], instance[~is_void], content.areas[~is_void]
        np.add.at(self._pixels, semantic, areas)
        self._images[np.unique(semantic)] += 1
        is_thing = self._isthing[semantic]
        self._crowds[semantic[is_thing & (instance == 0)]] += 1
        is_instance = is_thing & (instance > 0)
        for class_id, area in zip(semantic[is_instance].tolist(), areas[is_instance].tolist(), strict=True):
            self._areas[class_id].append(area)
        for class_id in np.unique(semantic[~is_thing]).tolist():
            # One segment, even where a faulty label numbers its parts.
            self._areas[class_id].append(int(areas[semantic == class_id].sum()))
        count = int(is_instance.sum())
        self._instances.append(count)
        if count > self._most[0]:
            self._most = (count, filename)
        self._largest_id = max(self._largest_id, int(instance[is_instance].max(initial=0)))

    def summary(self, shards: int, size: int, records: int, inspected: int) -> SplitSummary:
        """Sums up.

        Args:
            shards: Files that are there.
            size: Their bytes.
            records: Records that can be found in them.
            inspected: How many of these were looked at.

        Returns:
            The figures.
        """
        labelled = int(self._pixels.sum())
        instance_areas = np.concatenate(
            [np.zeros(0, np.int64), *(np.asarray(self._areas[i], np.int64) for i in self._info.thing_ids)]
        )
        return SplitSummary(
            shards=shards,
            bytes=size,
            records=records,
            inspected=inspected,
            readable=len(self._instances),
            sizes=tuple(
                SizeCount(*image_size, count)
                for image_size, count in sorted(self._sizes.items(), key=lambda item: (-item[1], item[0]))
            ),
            image_formats=dict(sorted(self._image_formats.items())),
            label_formats=dict(sorted(self._label_formats.items())),
            void_share=self._void_pixels / max(labelled + self._void_pixels, 1),
            classes=tuple(self._class_summary(class_id, labelled) for class_id in range(self._info.num_classes)),
            instances=len(instance_areas),
            instance_areas=_summarize(instance_areas),
            small_instances=int((instance_areas < SMALL_INSTANCE_AREA).sum()),
            instances_per_image=float(np.median(self._instances)) if self._instances else 0.0,
            most_instances=self._most[0],
            most_instances_in=self._most[1],
            largest_instance_id=self._largest_id,
        )

    def _class_summary(self, class_id: int, labelled: int) -> ClassSummary:
        areas = np.asarray(self._areas[class_id], np.int64)
        is_thing = bool(self._isthing[class_id])
        return ClassSummary(
            name=self._info.class_names[class_id],
            isthing=is_thing,
            images=int(self._images[class_id]),
            pixels=int(self._pixels[class_id]),
            share=int(self._pixels[class_id]) / max(labelled, 1),
            segments=len(areas),
            crowds=int(self._crowds[class_id]),
            areas=_summarize(areas),
            below_stuff_limit=0 if is_thing else int((areas < self._info.stuff_area_limit).sum()),
        )


def _summarize(areas: np.ndarray) -> AreaSummary | None:
    if not areas.size:
        return None
    lower, median = np.quantile(areas, [0.25, 0.5]).tolist()
    return AreaSummary(int(areas.min()), lower, median, int(areas.max()))
