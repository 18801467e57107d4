"""Converts Mapillary Vistas (versions 1.1, 1.2 and 2.0), in the layout of its download, to TFRecords.

Labels come from `instances/*.png` (16 bits: label * 256 + instance), or from `panoptic/*.png` with their
JSON; both give the same segments. The classes are the labels that the version's configuration has evaluated.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from absl import logging

from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord
from deeplab2_lite.data.conversion.labelled_record import Segment, labelled_record
from deeplab2_lite.data.conversion.options import add_label_divisor_argument, add_output_arguments, write
from deeplab2_lite.data.conversion.output import Conversion
from deeplab2_lite.data.converters.mapillary_labels import (
    VistasLabel,
    class_ids_by_label,
    dataset_info_from_labels,
    panoptic_from_instances,
    read_instances,
    read_labels,
)
from deeplab2_lite.data.converters.official_files import NamedFiles, add_only_pairs_argument, find_files, paired_stems
from deeplab2_lite.data.converters.segment_maps import read_panoptic_json, read_panoptic_png
from deeplab2_lite.data.images import load_image_for_record
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError, nearest_name

LabelSource = Literal["instances", "panoptic"]
Version = Literal["v1.1", "v1.2", "v2.0"]

FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


class _Layout(NamedTuple):
    """How a version names its parts."""

    dataset: str
    subfolder: str
    configs: tuple[str, ...]
    panoptic_json: str


# The labels of 1.1 and 1.2 are the same.
_LAYOUTS = {
    "v1.1": _Layout("mapillary_vistas", "", ("config.json", "config_v1.1.json"), "panoptic_2018.json"),
    "v1.2": _Layout("mapillary_vistas", "v1.2", ("config_v1.2.json", "config_v1.1.json"), "panoptic_2018.json"),
    "v2.0": _Layout("mapillary_vistas_v2", "v2.0", ("config_v2.0.json",), "panoptic_2020.json"),
}


class VistasImage(NamedTuple):
    """An image and its label.

    Attributes:
        image: The image.
        label: Its PNG in `instances`, or if it has `segments`, in `panoptic`; None of test images.
        segments: The segments of a panoptic PNG.
        longest_side: To shrink it to, in pixels; None keeps its size.
    """

    image: Path
    label: Path | None
    segments: tuple[Segment, ...] | None = None
    longest_side: int | None = None


@dataclass(frozen=True)
class MapillaryVistasConverter:
    """Makes a record of an image with its label, if it has one. Upright JPEGs are stored byte by byte.

    Attributes:
        info: The label space.
        class_ids: Class of each label, `ignore_label` for void.
    """

    info: DatasetInfo
    class_ids: tuple[int, ...]

    def __call__(self, item: VistasImage) -> ConvertedRecord:
        """Returns the record of one image; one without a label is all void.

        Raises:
            UserError: A file cannot be read, sizes differ, a value is of no label of the version, the PNG and
                its JSON differ, or there are more instances of a class than the label divisor holds.
        """
        image = load_image_for_record(item.image)
        if item.label is None:
            panoptic = np.full((image.height, image.width), self.info.void_id, np.int32)
        elif item.segments is None:
            panoptic = panoptic_from_instances(read_instances(item.label), self.class_ids, self.info, item.label)
        else:
            panoptic = read_panoptic_png(item.label, item.segments, self.info)
        return labelled_record(image, item.image, panoptic, item.label or item.image, self.info, item.longest_side)

    def files(self, item: VistasImage) -> Sequence[Path]:
        """Returns the image and its label."""
        return (item.image,) if item.label is None else (item.image, item.label)


def plan(
    folder: str | Path,
    *,
    version: Version = "v1.2",
    splits: Sequence[str] = ("train", "val"),
    labels: LabelSource = "instances",
    config: str | Path | None = None,
    longest_side: int | None = None,
    resize_splits: Sequence[str] | None = None,
    only_pairs: bool = False,
    label_divisor: int = 1000,
) -> Conversion:
    """Finds what is to be converted of Mapillary Vistas.

    Args:
        folder: Holds `training/` and `validation/` (and `testing/`), each with `images/` and its labels: in
            `v1.2/` or `v2.0/`, or of version 1.1 beside the images.
        version: Whose labels.
        splits: "train", "val" or "test"; test images have no labels, and their records are all void.
        labels: From `instances/*.png`, or from `panoptic/*.png` and their JSON.
        config: The version's configuration; None takes the one in `folder`.
        longest_side: Shrink the images of `resize_splits` so that the longer side has so many pixels.
        resize_splits: None is "train" alone, since official evaluation is at full size.
        only_pairs: Leave out images without labels and labels without images, instead of refusing them.
        label_divisor: Panoptic id = class id * label_divisor + instance id.

    Returns:
        The conversion, for `conversion.convert`.

    Raises:
        UserError: Something is missing, stands alone or double, or a JSON is at fault.
    """
    for key, value, kinds in (("version", version, _LAYOUTS), ("labels", labels, get_args(LabelSource))):
        if value not in kinds:
            raise UserError(f"{key}: unknown value '{value}'{nearest_name(value, kinds)}")
    for split in splits:
        if split not in FOLDERS:
            raise UserError(f"splits: unknown split '{split}'{nearest_name(split, FOLDERS)}")
    sides = _longest_sides(splits, longest_side, resize_splits)
    folder, layout = Path(folder), _LAYOUTS[version]
    known = read_labels(_find_config(folder, layout) if config is None else Path(config))
    info = dataset_info_from_labels(layout.dataset, known, label_divisor)
    class_ids = class_ids_by_label(known, info)

    def find(split: str) -> list[VistasImage]:
        images = find_files(folder / FOLDERS[split] / "images", ".jpg")
        label_folder = folder / FOLDERS[split] / layout.subfolder / labels
        if split == "test" and not label_folder.is_dir():
            logging.info("%s: no such folder; the %d records of 'test' are all void", label_folder, len(images.by_stem))
            found = [VistasImage(path, None) for path in images.by_stem.values()]
        elif labels == "instances":
            found = _with_instances(images, label_folder, only_pairs)
        else:
            categories = _category_classes(known, class_ids)
            found = _with_panoptic(images, label_folder / layout.panoptic_json, categories, only_pairs)
        return [item._replace(longest_side=sides[split]) for item in found]

    return Conversion(MapillaryVistasConverter(info, class_ids), {split: find(split) for split in splits})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `deeplab2-lite convert mapillary_vistas`."""
    parser.add_argument(
        "--input",
        required=True,
        metavar="DIR",
        help="folder with training/, validation/ and config_v1.2.json (or v2.0)",
    )
    parser.add_argument(
        "--version", choices=get_args(Version), default="v1.2", help="whose labels (default: %(default)s, 65 classes)"
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        default=["train", "val"],
        metavar="NAME",
        help="splits to convert, of train, val, test (default: train val)",
    )
    parser.add_argument(
        "--labels",
        choices=get_args(LabelSource),
        default="instances",
        help="instances/*.png, or panoptic/*.png with their JSON (default: %(default)s)",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the version's configuration (default: config_v1.2.json, ... of --input)"
    )
    parser.add_argument(
        "--longest_side",
        type=int,
        metavar="N",
        help="shrink images so that the longer side has N pixels, such as 2177 (default: keep their size)",
    )
    parser.add_argument(
        "--resize_splits",
        nargs="+",
        metavar="NAME",
        help="splits that --longest_side shrinks (default: train; official evaluation is at full size)",
    )
    add_only_pairs_argument(parser)
    add_label_divisor_argument(parser)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Runs `deeplab2-lite convert mapillary_vistas` with parsed options."""
    conversion = plan(
        arguments.input,
        version=arguments.version,
        splits=arguments.splits,
        labels=arguments.labels,
        config=arguments.config,
        longest_side=arguments.longest_side,
        resize_splits=arguments.resize_splits,
        only_pairs=arguments.only_pairs,
        label_divisor=arguments.label_divisor,
    )
    write(conversion, arguments)


def _longest_sides(
    splits: Sequence[str], longest_side: int | None, resize_splits: Sequence[str] | None
) -> dict[str, int | None]:
    if longest_side is None:
        if resize_splits is not None:
            raise UserError("resize_splits: nothing to resize them to; expected --longest_side too")
        return dict.fromkeys(splits)
    if longest_side < 1:
        raise UserError(f"longest_side: expected 1 or more, got {longest_side}")
    resized = ("train",) if resize_splits is None else resize_splits
    for split in resized:
        if split not in splits:
            raise UserError(f"resize_splits: '{split}' is not converted; expected some of: {', '.join(splits)}")
    return {split: longest_side if split in resized else None for split in splits}


def _find_config(folder: Path, layout: _Layout) -> Path:
    for name in layout.configs:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder / layout.configs[0]}: no such file; it comes with the data set and lists its labels (--config takes "
        "it from elsewhere)"
    )


def _with_instances(images: NamedFiles, folder: Path, only_pairs: bool) -> list[VistasImage]:
    labels = find_files(folder, ".png")
    return [
        VistasImage(images.by_stem[stem], labels.by_stem[stem]) for stem in paired_stems(images, labels, only_pairs)
    ]


def _with_panoptic(
    images: NamedFiles, json_path: Path, categories: Mapping[str, int], only_pairs: bool
) -> list[VistasImage]:
    def class_of(category: Mapping[str, Any]) -> int | None:
        # Its full name is the supercategory, the readable one its name.
        return categories.get(category.get("supercategory"), categories.get(category["name"]))

    annotations = read_panoptic_json(json_path, json_path.parent, class_of)
    pngs = {stem: annotation.png for stem, annotation in annotations.items()}
    stems = paired_stems(images, NamedFiles(json_path, ".png", pngs), only_pairs)
    return [VistasImage(images.by_stem[stem], *annotations[stem]) for stem in stems]


def _category_classes(labels: Sequence[VistasLabel], class_ids: Sequence[int]) -> dict[str, int]:
    return {
        name: class_id
        for label, class_id in zip(labels, class_ids, strict=True)
        for name in (label.name, label.readable)
    }
