"""Converts folders of images and instance masks, as microscopy tools write them, to TFRecords.

The layout: `{split}/images/` and `{split}/masks/`, an image and its mask bearing the same name but for
the suffix. A mask has one channel of instance ids, 0 being the background.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord
from deeplab2_lite.data.conversion.labelled_record import check_instance_count, labelled_record
from deeplab2_lite.data.conversion.options import (
    add_high_depth_argument,
    add_label_divisor_argument,
    add_output_arguments,
    write,
)
from deeplab2_lite.data.conversion.output import Conversion
from deeplab2_lite.data.converters.stem_pairs import pair_by_stem
from deeplab2_lite.data.images import HighDepth, load_image_for_record, read_instance_ids
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo

BACKGROUND_ID = 0
OBJECT_ID = 1


class MaskedImage(NamedTuple):
    """An image and its mask."""

    image: Path
    mask: Path


@dataclass(frozen=True)
class InstanceMaskConverter:
    """Makes a record of an image with a mask.

    Attributes:
        info: The label space, with background (0) and one thing class (1).
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.
    """

    info: DatasetInfo
    high_depth: HighDepth = "refuse"

    def __call__(self, item: MaskedImage) -> ConvertedRecord:
        """Returns the record of one image.

        Raises:
            UserError: A file cannot be read faithfully, sizes differ, or there are more instances than
                the label divisor holds.
        """
        image = load_image_for_record(item.image, self.high_depth)
        ids = read_instance_ids(item.mask)
        instances = renumber(ids)
        check_instance_count(int(instances.max()), OBJECT_ID, self.info, item.mask)
        panoptic = np.where(instances > 0, OBJECT_ID * self.info.label_divisor + instances, BACKGROUND_ID)
        return labelled_record(image, item.image, panoptic, item.mask, self.info)

    def files(self, item: MaskedImage) -> Sequence[Path]:
        """Returns the image and its mask."""
        return (item.image, item.mask)


def renumber(ids: np.ndarray) -> np.ndarray:
    """Renumbers instances 1..n in the order of their ids; 0 stays 0.

    Args:
        ids: Non-negative integers of any shape.

    Returns:
        int32 of the same shape.
    """
    values, positions = np.unique(ids, return_inverse=True)
    first = 0 if values[0] == 0 else 1
    return (positions + first).reshape(ids.shape).astype(np.int32)


def instance_dataset_info(name: str, object_name: str = "object", label_divisor: int = 1000) -> DatasetInfo:
    """Returns the label space of a background and one class of things.

    Args:
        name: Name of the data set.
        object_name: Name of the things, such as "nucleus".
        label_divisor: Panoptic id = class id * label_divisor + instance id.

    Returns:
        The label space.
    """
    classes = (
        ClassInfo("background", False, (40, 40, 40), BACKGROUND_ID),
        ClassInfo(object_name, True, (60, 180, 230), OBJECT_ID),
    )
    return DatasetInfo(name, classes, label_divisor=label_divisor)


def find_pairs(folder: str | Path) -> list[MaskedImage]:
    """Pairs the images and masks of a split by name.

    Args:
        folder: Holds `images/` and `masks/`.

    Returns:
        The pairs in the order of their names.

    Raises:
        UserError: A folder is missing, or an image or mask stands alone or double.
    """
    folder = Path(folder)
    pairs = pair_by_stem(folder / "images", folder / "masks", "mask", "{split}/images and {split}/masks")
    return [MaskedImage(*pair) for pair in pairs]


def plan(
    folder: str | Path,
    *,
    splits: Sequence[str] = ("train", "val"),
    name: str = "instances",
    object_name: str = "object",
    label_divisor: int = 1000,
    high_depth: HighDepth = "refuse",
) -> Conversion:
    """Finds what is to be converted of a folder of images with instance masks.

    Args:
        folder: Holds `{split}/images` and `{split}/masks`.
        splits: Names of the splits.
        name: Name of the data set.
        object_name: Name of the things, such as "nucleus".
        label_divisor: Above the most instances of an image.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.

    Returns:
        The conversion, for `conversion.convert`.

    Raises:
        UserError: A folder is missing, or an image or mask stands alone or double.
    """
    converter = InstanceMaskConverter(instance_dataset_info(name, object_name, label_divisor), high_depth)
    items = {split: find_pairs(Path(folder) / split) for split in splits}
    return Conversion(converter, items)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `deeplab2-lite convert instance_masks`."""
    parser.add_argument(
        "--input", required=True, metavar="DIR", help="folder with {split}/images and {split}/masks (0 = background)"
    )
    parser.add_argument(
        "--splits", nargs="+", default=["train", "val"], metavar="NAME", help="splits to convert (default: train val)"
    )
    parser.add_argument("--name", default="instances", help="name of the data set (default: %(default)s)")
    parser.add_argument(
        "--object_name", default="object", metavar="NAME", help="what an instance is, such as nucleus (default: object)"
    )
    add_high_depth_argument(parser)
    add_label_divisor_argument(parser)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Runs `deeplab2-lite convert instance_masks` with parsed options."""
    conversion = plan(
        arguments.input,
        splits=arguments.splits,
        name=arguments.name,
        object_name=arguments.object_name,
        label_divisor=arguments.label_divisor,
        high_depth=arguments.high_depth,
    )
    write(conversion, arguments)
