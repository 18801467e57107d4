"""Converts a folder of images for each class, `{split}/{class}/*`, to the TFRecords of a classifier.

Records are as TF-slim writes ImageNet's: labels count from 1. Classes are in the order of their names, as is
usual for this layout; so ImageNet's own folders give the classes of the preset `imagenet`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deeplab2_lite.config import ClassificationConfig
from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord, count_image_class
from deeplab2_lite.data.conversion.options import add_high_depth_argument, add_output_arguments, write
from deeplab2_lite.data.conversion.output import Conversion
from deeplab2_lite.data.images import SUFFIXES, HighDepth, load_image_for_record
from deeplab2_lite.data.record_format import (
    CHANNELS_KEY,
    CLASS_LABEL_KEY,
    CLASS_NAME_KEY,
    FILENAME_KEY,
    HEIGHT_KEY,
    IMAGE_FORMAT_KEY,
    IMAGE_KEY,
    WIDTH_KEY,
    serialize_example,
)
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, distinct_colors
from deeplab2_lite.errors import UserError

_FIRST_LABEL = ClassificationConfig().first_label
# As many shards as the field gives ImageNet, about a thousand.
_RECORDS_PER_SHARD = 1280
_LEAST_IGNORE_LABEL = 255


class ClassImage(NamedTuple):
    """An image and the id of its class, from 0."""

    path: Path
    class_id: int


@dataclass(frozen=True)
class ImageFolderConverter:
    """Makes a record of an image.

    Attributes:
        info: The classes.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.
    """

    info: DatasetInfo
    high_depth: HighDepth = "refuse"

    def __call__(self, item: ClassImage) -> ConvertedRecord:
        """Returns the record of one image.

        Raises:
            UserError: It cannot be read faithfully.
        """
        image = load_image_for_record(item.path, self.high_depth)
        serialized = serialize_example(
            {
                IMAGE_KEY: image.encoded,
                FILENAME_KEY: item.path.name.encode(),
                IMAGE_FORMAT_KEY: image.format.encode(),
                HEIGHT_KEY: image.height,
                WIDTH_KEY: image.width,
                CHANNELS_KEY: image.channels,
                CLASS_LABEL_KEY: item.class_id + _FIRST_LABEL,
                CLASS_NAME_KEY: self.info.class_names[item.class_id].encode(),
            }
        )
        return ConvertedRecord(serialized, count_image_class(item.class_id, self.info.num_classes))

    def files(self, item: ClassImage) -> Sequence[Path]:
        """Returns the image."""
        return (item.path,)


def class_dataset_info(name: str, class_names: Sequence[str]) -> DatasetInfo:
    """Returns classes that are said of whole images.

    Args:
        name: Name of the data set.
        class_names: Names of the classes, in order of their ids.

    Returns:
        The label space; none of them is a thing, and there is no instance id.
    """
    colors = distinct_colors(len(class_names))
    classes = tuple(ClassInfo(c, False, colors[i], i + _FIRST_LABEL) for i, c in enumerate(class_names))
    return DatasetInfo(name, classes, ignore_label=max(_LEAST_IGNORE_LABEL, len(classes)), label_divisor=1)


def find_classes(folder: str | Path, splits: Sequence[str]) -> list[str]:
    """Returns the names of the classes that any split has a folder of, sorted.

    Args:
        folder: Holds `{split}/{class}/`.
        splits: Names of the splits.

    Raises:
        UserError: A split is not there, or has no folder of a class.
    """
    names: set[str] = set()
    for split in splits:
        split_folder = Path(folder) / split
        if not split_folder.is_dir():
            raise UserError(f"{split_folder}: no such folder; expected {{split}}/{{class}}/ with images")
        found = {path.name for path in split_folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
        if not found:
            raise UserError(f"{split_folder}: holds no folders; expected one for each class")
        names |= found
    return sorted(names)


def plan(
    folder: str | Path,
    *,
    splits: Sequence[str] = ("train", "val"),
    name: str = "classes",
    high_depth: HighDepth = "refuse",
) -> Conversion:
    """Finds what is to be converted of folders of images.

    Args:
        folder: Holds `{split}/{class}/` with images.
        splits: Names of the splits.
        name: Name of the data set.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.

    Returns:
        The conversion, for `conversion.convert`.

    Raises:
        UserError: A split is not there, or has no folder of a class.
    """
    classes = find_classes(folder, splits)
    items = {split: _images(Path(folder) / split, classes) for split in splits}
    return Conversion(ImageFolderConverter(class_dataset_info(name, classes), high_depth), items, _RECORDS_PER_SHARD)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `deeplab2-lite convert image_folders`."""
    parser.add_argument("--input", required=True, metavar="DIR", help="folder with {split}/{class}/ of images")
    parser.add_argument(
        "--splits", nargs="+", default=["train", "val"], metavar="NAME", help="splits to convert (default: train val)"
    )
    parser.add_argument("--name", default="classes", help="name of the data set (default: %(default)s)")
    add_high_depth_argument(parser)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Runs `deeplab2-lite convert image_folders` with parsed options."""
    conversion = plan(arguments.input, splits=arguments.splits, name=arguments.name, high_depth=arguments.high_depth)
    write(conversion, arguments)


def _images(split_folder: Path, classes: Sequence[str]) -> list[ClassImage]:
    found = []
    for class_id, name in enumerate(classes):
        class_folder = split_folder / name
        for path in sorted(class_folder.iterdir()) if class_folder.is_dir() else ():
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                found.append(ClassImage(path, class_id))
    return found
