"""Converts images with semantic maps, one channel of class ids a pixel, to TFRecords.

The layout: `{split}/images/` and `{split}/labels/`, an image and its map bearing the same name but for the
suffix. What the values mean, a label space says; where it has things, their pixels are crowds, since a map
does not tell instances apart, unless connected regions are to be instances.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord
from deeplab2_lite.data.conversion.labelled_record import Segment, labelled_record, number_segments
from deeplab2_lite.data.conversion.options import (
    add_high_depth_argument,
    add_label_divisor_argument,
    add_output_arguments,
    read_sources,
    write,
)
from deeplab2_lite.data.conversion.output import Conversion
from deeplab2_lite.data.converters.connected_components import connected_components
from deeplab2_lite.data.converters.label_spaces import label_space_of_names, read_label_space
from deeplab2_lite.data.converters.stem_pairs import pair_by_stem
from deeplab2_lite.data.images import HighDepth, load_image_for_record, read_instance_ids
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError

Instances = Literal["crowd", "connected_components"]

# What semantic maps commonly have where there is no class.
USUAL_VOID = 255
_LAYOUT = "{split}/images and {split}/labels"
_UNKNOWN = -1


class SplitSource(NamedTuple):
    """Where the parts of one split lie.

    Attributes:
        images: Folder of images.
        labels: Folder of semantic maps.
    """

    images: Path
    labels: Path


class MappedImage(NamedTuple):
    """An image and its semantic map."""

    image: Path
    label: Path


@dataclass(frozen=True)
class SemanticMapConverter:
    """Makes a record of an image with a semantic map.

    Attributes:
        info: The label space; the `original_id` of its classes are the values of the maps.
        void: Values of void.
        instances: What the pixels of things are: crowds, or each connected region an instance.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.
    """

    info: DatasetInfo
    void: tuple[int, ...]
    instances: Instances = "crowd"
    high_depth: HighDepth = "refuse"

    def __call__(self, item: MappedImage) -> ConvertedRecord:
        """Returns the record of one image.

        Raises:
            UserError: A file cannot be read faithfully, sizes differ, a value is neither a class nor void, or
                there are more instances of a class than the label divisor holds.
        """
        image = load_image_for_record(item.image, self.high_depth)
        semantic = self._classes(read_instance_ids(item.label), item.label)
        panoptic = semantic * np.int32(self.info.label_divisor)
        if self.instances == "connected_components":
            panoptic = _with_instances(panoptic, semantic, self.info, item.label)
        return labelled_record(image, item.image, panoptic, item.label, self.info)

    def files(self, item: MappedImage) -> Sequence[Path]:
        """Returns the image and its map."""
        return (item.image, item.label)

    def _classes(self, values: np.ndarray, label: Path) -> np.ndarray:
        known = {c.original_id: class_id for class_id, c in enumerate(self.info.classes) if c.original_id >= 0}
        known |= dict.fromkeys(self.void, self.info.ignore_label)
        # The last entry stands for all values beyond.
        table = np.full(max(known) + 2, _UNKNOWN, np.int32)
        table[list(known)] = list(known.values())
        classes = table[np.minimum(values, len(table) - 1)]
        unknown = values[classes == _UNKNOWN]
        if unknown.size:
            value = int(unknown.min())
            raise UserError(
                f"{label}: holds the value {value} ({(unknown == value).sum()} pixels), which is neither a class of "
                f"'{self.info.name}' nor void ({', '.join(map(str, self.void)) or 'no value'}); expected --void to "
                "name it, or a class with that original_id"
            )
        return classes


def folder_layout(folder: str | Path, splits: Sequence[str] = ("train", "val")) -> dict[str, SplitSource]:
    """Returns where the parts of `{split}/images` and `{split}/labels` lie.

    Args:
        folder: Holds the splits.
        splits: Names of the splits.

    Returns:
        The sources by split.
    """
    return {split: SplitSource(Path(folder) / split / "images", Path(folder) / split / "labels") for split in splits}


def plan(
    sources: Mapping[str, SplitSource],
    *,
    dataset_info: str | Path | DatasetInfo | None = None,
    classes: Sequence[str] = (),
    name: str = "semantic_maps",
    void: Sequence[int] | None = None,
    instances: Instances = "crowd",
    label_divisor: int | None = None,
    high_depth: HighDepth = "refuse",
) -> Conversion:
    """Finds what is to be converted of images with semantic maps.

    Args:
        sources: Where each split lies; see `folder_layout`.
        dataset_info: The label space, whose `original_id` are the values of the maps; or give `classes`.
        classes: Names of classes, all stuff, of the values 0, 1, ...
        name: Name of the data set, where the label space is made of `classes`.
        void: Values of void; None takes 255 unless that is a class.
        instances: What the pixels of things are: "crowd", or "connected_components", each region of
            neighbouring pixels of a class (8-connected, corners included) an instance, by first pixel.
        label_divisor: Panoptic id = class id * label_divisor + instance id; None is that of `dataset_info`,
            or 1000.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.

    Returns:
        The conversion, for `conversion.convert`.

    Raises:
        UserError: A folder is missing, an image or map stands alone or double, or the label space is
            ambiguous.
    """
    if (dataset_info is None) == (not classes):
        raise UserError("expected the meaning of the values: either --dataset_info or --classes")
    space = label_space_of_names(name, stuff=classes) if dataset_info is None else dataset_info
    info = read_label_space(space, label_divisor)
    values = [c.original_id for c in info.classes]
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"dataset_info '{info.name}': two classes have the original_id {value}")
    if void is None:
        void = () if USUAL_VOID in values else (USUAL_VOID,)
    for value in void:
        if value in values or value < 0:
            taken = f"is the class '{info.class_names[values.index(value)]}'" if value in values else "is negative"
            raise UserError(f"--void: {value} {taken}; expected values that are no class")
    items = {
        split: [MappedImage(*pair) for pair in pair_by_stem(source.images, source.labels, "label", _LAYOUT)]
        for split, source in sources.items()
    }
    return Conversion(SemanticMapConverter(info, tuple(void), instances, high_depth), items)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `deeplab2-lite convert semantic_maps`."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--input", metavar="DIR", help=f"folder with {_LAYOUT}")
    group.add_argument(
        "--split",
        nargs=3,
        action="append",
        metavar=("NAME", "IMAGES", "LABELS"),
        help="any other layout: a split's name, folder of images and folder of maps; may be repeated",
    )
    parser.add_argument(
        "--splits", nargs="+", default=["train", "val"], metavar="NAME", help="splits of --input (default: train val)"
    )
    space = parser.add_mutually_exclusive_group(required=True)
    space.add_argument(
        "--dataset_info", metavar="NAME_OR_FILE", help="the label space, its original_id being the values of the maps"
    )
    space.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME", help="names of stuff classes, of the values 0, 1, ..."
    )
    parser.add_argument("--name", default="semantic_maps", help="name of the data set (default: %(default)s)")
    parser.add_argument(
        "--void",
        nargs="*",
        type=int,
        metavar="VALUE",
        help=f"values of void (default: {USUAL_VOID} unless it is a class)",
    )
    parser.add_argument(
        "--instances",
        choices=get_args(Instances),
        default="crowd",
        help="things, which a map does not tell apart: a crowd of each class, or each connected region (corners "
        "included) an instance (default: %(default)s)",
    )
    add_high_depth_argument(parser)
    add_label_divisor_argument(parser, None)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Runs `deeplab2-lite convert semantic_maps` with parsed options."""
    sources = read_sources(arguments, folder_layout, SplitSource)
    conversion = plan(
        sources,
        dataset_info=arguments.dataset_info,
        classes=arguments.classes,
        name=arguments.name,
        void=arguments.void,
        instances=arguments.instances,
        label_divisor=arguments.label_divisor,
        high_depth=arguments.high_depth,
    )
    write(conversion, arguments)


def _with_instances(panoptic: np.ndarray, semantic: np.ndarray, info: DatasetInfo, label: Path) -> np.ndarray:
    regions = connected_components(semantic, np.isin(semantic, info.thing_ids))
    numbers, first = np.unique(regions, return_index=True)
    numbers, first = numbers[numbers > 0], first[numbers > 0]
    segments = [Segment(int(number), int(semantic.flat[pixel])) for number, pixel in zip(numbers, first, strict=True)]
    ids = np.array([0, *number_segments(segments, info, label)], np.int32)
    return np.where(regions > 0, ids[regions], panoptic)
