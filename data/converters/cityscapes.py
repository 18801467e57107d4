"""Converts Cityscapes, in the layout of its download, to TFRecords.

Labels come from `*_instanceIds.png` directly, or from what cityscapesScripts' createPanopticImgs made of them;
both give the same records. A value from 1000 on is an instance of the label `value // 1000`; a smaller one is
the label itself: a crowd, where the class is of things. Labels that are not evaluated are void.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord
from deeplab2_lite.data.conversion.labelled_record import Segment, labelled_record
from deeplab2_lite.data.conversion.options import add_label_divisor_argument, add_output_arguments, write
from deeplab2_lite.data.conversion.output import Conversion
from deeplab2_lite.data.converters.official_files import NamedFiles, add_only_pairs_argument, find_files, paired_stems
from deeplab2_lite.data.converters.segment_maps import panoptic_from_values, read_panoptic_json, read_panoptic_png
from deeplab2_lite.data.images import load_image_for_record, read_instance_ids
from deeplab2_lite.dataset_info import DatasetInfo, load_preset
from deeplab2_lite.errors import UserError, nearest_name

LabelSource = Literal["instance_ids", "panoptic", "coarse_instance_ids"]

IMAGE_ENDING = "_leftImg8bit.png"
# unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, parking, rail track, guard rail,
# bridge, tunnel, polegroup, caravan, trailer: labels that are not evaluated.
VOID_LABELS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)

_FIRST_INSTANCE_VALUE = 1000
# License plates have the label -1: as bytes, and as 16 bits.
_LICENSE_PLATE_VALUES = (2**8 - 1, 2**16 - 1)


class CityscapesImage(NamedTuple):
    """An image and its label.

    Attributes:
        image: The image.
        label: Its `_instanceIds.png`, or if it has `segments`, its panoptic PNG.
        segments: The segments of a panoptic PNG.
    """

    image: Path
    label: Path
    segments: tuple[Segment, ...] | None = None


@dataclass(frozen=True)
class CityscapesConverter:
    """Makes a record of an image with a label; instances of a class count from 1 in the order of their ids."""

    info: DatasetInfo

    def __call__(self, item: CityscapesImage) -> ConvertedRecord:
        """Returns the record of one image.

        Raises:
            UserError: A file cannot be read, sizes differ, a value is of no label of Cityscapes, the PNG and
                its JSON differ, or there are more instances of a class than the label divisor holds.
        """
        image = load_image_for_record(item.image)
        if item.segments is None:
            panoptic = panoptic_from_instance_ids(read_instance_ids(item.label), self.info, item.label)
        else:
            panoptic = read_panoptic_png(item.label, item.segments, self.info)
        return labelled_record(image, item.image, panoptic, item.label, self.info)

    def files(self, item: CityscapesImage) -> Sequence[Path]:
        """Returns the image and its label."""
        return (item.image, item.label)


def panoptic_from_instance_ids(ids: np.ndarray, info: DatasetInfo, label: Path) -> np.ndarray:
    """Gives panoptic ids to the values of an `_instanceIds.png`.

    Args:
        ids: Its values, non-negative integers [height, width].
        info: The label space, whose `original_id` are label ids.
        label: The file, for the message.

    Returns:
        Panoptic ids, int32 [height, width].

    Raises:
        UserError: A value is of no label, or an instance of a class that has none; or there are more
            instances of a class than the label divisor holds.
    """
    class_ids = {c.original_id: class_id for class_id, c in enumerate(info.classes)}

    def segment_of(value: int) -> Segment:
        is_instance = value >= _FIRST_INSTANCE_VALUE
        label_id = value // _FIRST_INSTANCE_VALUE if is_instance else value
        if label_id in VOID_LABELS or value in _LICENSE_PLATE_VALUES:
            return Segment(value, info.ignore_label)
        if label_id not in class_ids:
            raise UserError(f"{label}: value {value} is of label {label_id}, which Cityscapes does not have")
        class_id = class_ids[label_id]
        is_thing = info.classes[class_id].isthing
        if is_instance and not is_thing:
            name = info.class_names[class_id]
            raise UserError(f"{label}: value {value} is an instance of '{name}', a class without instances")
        return Segment(value, class_id, iscrowd=is_thing and not is_instance)

    return panoptic_from_values(ids, segment_of, info, label)


def plan(
    folder: str | Path,
    *,
    splits: Sequence[str] = ("train", "val"),
    labels: LabelSource = "instance_ids",
    only_pairs: bool = False,
    label_divisor: int = 1000,
) -> Conversion:
    """Finds what is to be converted of Cityscapes.

    Args:
        folder: Holds `leftImg8bit/`, and `gtFine/`, `gtFine_panoptic/` or `gtCoarse/`.
        splits: "train", "val" or "test"; "train_extra" has coarse labels alone. The published labels of
            "test" are dummies, all void.
        labels: `gtFine/{split}/{city}/*_instanceIds.png`; `cityscapes_panoptic_{split}.json` with its folder of
            PNGs, in `gtFine_panoptic/` or `gtFine/`; or `gtCoarse/{split}/{city}/*_instanceIds.png`.
        only_pairs: Leave out images without labels and labels without images, instead of refusing them.
        label_divisor: Panoptic id = class id * label_divisor + instance id.

    Returns:
        The conversion, for `conversion.convert`.

    Raises:
        UserError: Something is missing, stands alone or double, or the JSON is at fault.
    """
    if labels not in get_args(LabelSource):
        raise UserError(f"labels: unknown source '{labels}'{nearest_name(labels, get_args(LabelSource))}")
    folder = Path(folder)
    info = dataclasses.replace(load_preset("cityscapes"), label_divisor=label_divisor)
    items = {split: _find_items(folder, split, labels, only_pairs, info) for split in splits}
    return Conversion(CityscapesConverter(info), items)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `deeplab2-lite convert cityscapes`."""
    parser.add_argument(
        "--input",
        required=True,
        metavar="DIR",
        help="folder with leftImg8bit/ and gtFine/ (or gtFine_panoptic/, gtCoarse/)",
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        default=["train", "val"],
        metavar="NAME",
        help="splits to convert, of train, val, test, train_extra (default: train val)",
    )
    parser.add_argument(
        "--labels",
        choices=get_args(LabelSource),
        default="instance_ids",
        help="gtFine's *_instanceIds.png, what createPanopticImgs made of them (the same records), or gtCoarse's "
        "*_instanceIds.png (default: %(default)s)",
    )
    add_only_pairs_argument(parser)
    add_label_divisor_argument(parser)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Runs `deeplab2-lite convert cityscapes` with parsed options."""
    conversion = plan(
        arguments.input,
        splits=arguments.splits,
        labels=arguments.labels,
        only_pairs=arguments.only_pairs,
        label_divisor=arguments.label_divisor,
    )
    write(conversion, arguments)


def _find_items(
    folder: Path, split: str, source: LabelSource, only_pairs: bool, info: DatasetInfo
) -> list[CityscapesImage]:
    images = find_files(folder / "leftImg8bit" / split, IMAGE_ENDING, pattern="*/")
    if source == "panoptic":
        json_path = _panoptic_json(folder, split)
        annotations = read_panoptic_json(json_path, json_path.with_suffix(""), lambda c: _class_of(c, info))
        pngs = {stem: annotation.png for stem, annotation in annotations.items()}
        stems = paired_stems(images, NamedFiles(json_path, "_gtFine_panoptic.png", pngs), only_pairs)
        return [CityscapesImage(images.by_stem[stem], *annotations[stem]) for stem in stems]
    kind = "gtFine" if source == "instance_ids" else "gtCoarse"
    labels = find_files(folder / kind / split, f"_{kind}_instanceIds.png", pattern="*/")
    stems = paired_stems(images, labels, only_pairs)
    return [CityscapesImage(images.by_stem[stem], labels.by_stem[stem]) for stem in stems]


def _panoptic_json(folder: Path, split: str) -> Path:
    name = f"cityscapes_panoptic_{split}.json"
    paths = [folder / "gtFine_panoptic" / name, folder / "gtFine" / name]
    for path in paths:
        if path.is_file():
            return path
    raise UserError(
        f"{paths[0]}: no such file; expected there or in {paths[1].parent} what cityscapesScripts' createPanopticImgs "
        "writes; --labels=instance_ids does without"
    )


def _class_of(category: Mapping[str, Any], info: DatasetInfo) -> int | None:
    for class_id, known in enumerate(info.classes):
        if (known.original_id, known.name) == (category["id"], category["name"]):
            return class_id
    return None
