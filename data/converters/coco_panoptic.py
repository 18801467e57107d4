"""Converts COCO panoptic annotations, and any data set in their format, to TFRecords.

The format: images, one JSON with `images`, `annotations` (a list of `segments_info` each) and
`categories`, and a folder of PNGs whose pixels are segment ids (`R + 256 G + 65536 B`, 0 = unlabelled).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord
from deeplab2_lite.data.conversion.labelled_record import Segment, labelled_record
from deeplab2_lite.data.conversion.options import (
    add_high_depth_argument,
    add_label_divisor_argument,
    add_output_arguments,
    read_sources,
    write,
)
from deeplab2_lite.data.conversion.output import Conversion
from deeplab2_lite.data.converters.label_spaces import read_label_space
from deeplab2_lite.data.converters.segment_maps import listed_segments, read_json_lists, read_panoptic_png
from deeplab2_lite.data.images import HighDepth, load_image_for_record
from deeplab2_lite.dataset_info import DatasetInfo, dataset_info_from_categories, load_preset
from deeplab2_lite.errors import UserError


class SplitSource(NamedTuple):
    """Where the parts of one split lie.

    Attributes:
        images: Folder of images.
        annotations: The panoptic JSON.
        panoptic: Folder of its PNGs.
    """

    images: Path
    annotations: Path
    panoptic: Path


class AnnotatedImage(NamedTuple):
    """One image and its annotation."""

    image: Path
    panoptic: Path
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class CocoPanopticConverter:
    """Makes a record of an annotated image. JPEGs are stored byte by byte.

    Attributes:
        info: The label space.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.
    """

    info: DatasetInfo
    high_depth: HighDepth = "refuse"

    def __call__(self, item: AnnotatedImage) -> ConvertedRecord:
        """Returns the record of one image.

        Raises:
            UserError: A file is damaged, sizes differ, the PNG and the JSON name different segments, or
                there are more instances of a class than the label divisor holds.
        """
        image = load_image_for_record(item.image, self.high_depth)
        panoptic = read_panoptic_png(item.panoptic, item.segments, self.info)
        return labelled_record(image, item.image, panoptic, item.panoptic, self.info)

    def files(self, item: AnnotatedImage) -> Sequence[Path]:
        """Returns the image and its PNG."""
        return (item.image, item.panoptic)


def official_layout(folder: str | Path, splits: Sequence[str] = ("train", "val")) -> dict[str, SplitSource]:
    """Returns where the official download of COCO panoptic has its parts.

    Args:
        folder: Holds `{split}2017/` and `annotations/panoptic_{split}2017{.json,/}`.
        splits: Names of the splits.

    Returns:
        The sources by split.
    """
    folder = Path(folder)
    annotations = folder / "annotations"
    return {
        split: SplitSource(
            folder / f"{split}2017", annotations / f"panoptic_{split}2017.json", annotations / f"panoptic_{split}2017"
        )
        for split in splits
    }


def plan(
    sources: Mapping[str, SplitSource],
    *,
    dataset_info: str | Path | DatasetInfo | None = None,
    label_divisor: int | None = None,
    high_depth: HighDepth = "refuse",
) -> Conversion:
    """Finds what is to be converted of splits in COCO-panoptic format.

    Class ids are contiguous from 0 in the order of the category ids. Stuff and crowds have instance 0,
    instances of things count from 1 within each class in the order of the JSON.

    Args:
        sources: Where each split lies; see `official_layout`.
        dataset_info: The label space, whose `original_id` are category ids; None takes the categories of
            the JSON files (and the preset "coco" where they are COCO's).
        label_divisor: Panoptic id = class id * label_divisor + instance id; None is that of `dataset_info`, or
            1000.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.

    Returns:
        The conversion, for `conversion.convert`.

    Raises:
        UserError: A file is missing, damaged or contradicts another; the message names it.
    """
    contents = {split: _read_annotations(source) for split, source in sources.items()}
    known = _info_from_categories(sources, contents) if dataset_info is None else dataset_info
    info = read_label_space(known, label_divisor)
    items = {split: _annotated_images(sources[split], content, info) for split, content in contents.items()}
    return Conversion(CocoPanopticConverter(info, high_depth), items)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `deeplab2-lite convert coco_panoptic`."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--input", metavar="DIR", help="the official layout: {split}2017/, annotations/panoptic_{split}2017{.json,/}"
    )
    group.add_argument(
        "--split",
        nargs=4,
        action="append",
        metavar=("NAME", "IMAGES", "JSON", "PNGS"),
        help="any other layout: a split's name, folder of images, annotations and folder of PNGs; may be repeated",
    )
    parser.add_argument(
        "--splits", nargs="+", default=["train", "val"], metavar="NAME", help="splits of --input (default: train val)"
    )
    parser.add_argument(
        "--dataset_info",
        metavar="NAME_OR_FILE",
        help="the label space, its original_id being category ids (default: the categories of the annotations)",
    )
    add_high_depth_argument(parser)
    add_label_divisor_argument(parser, default=None)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Runs `deeplab2-lite convert coco_panoptic` with parsed options."""
    sources = read_sources(arguments, official_layout, SplitSource)
    conversion = plan(
        sources,
        dataset_info=arguments.dataset_info,
        label_divisor=arguments.label_divisor,
        high_depth=arguments.high_depth,
    )
    write(conversion, arguments)


def _read_annotations(source: SplitSource) -> dict[str, Any]:
    for path in (source.images, source.panoptic):
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; expected the images, and the PNGs of {source.annotations}")
    return read_json_lists(source.annotations, ("images", "annotations", "categories"))


def _info_from_categories(sources: Mapping[str, SplitSource], contents: Mapping[str, dict[str, Any]]) -> DatasetInfo:
    infos = {
        split: dataset_info_from_categories(
            sources[split].annotations.stem, content["categories"], sources[split].annotations
        )
        for split, content in contents.items()
    }
    first, *others = infos
    for other in others:
        if infos[other].classes != infos[first].classes:
            raise UserError(f"{sources[other].annotations}: other categories than {sources[first].annotations}")
    coco = load_preset("coco")
    labels = [[(c.original_id, c.name, c.isthing) for c in info.classes] for info in (infos[first], coco)]
    return coco if labels[0] == labels[1] else infos[first]


def _annotated_images(source: SplitSource, content: Mapping[str, Any], info: DatasetInfo) -> list[AnnotatedImage]:
    class_ids = {c.original_id: class_id for class_id, c in enumerate(info.classes)}
    try:
        images = {image["id"]: image for image in content["images"]}
        annotations = {annotation["image_id"]: annotation for annotation in content["annotations"]}
        for image_id, image in images.items():
            if image_id not in annotations:
                raise UserError(f"{source.annotations}: image '{image['file_name']}' (id {image_id}) has no annotation")
        items = []
        for image_id, annotation in annotations.items():
            if image_id not in images:
                name = annotation["file_name"]
                raise UserError(
                    f"{source.annotations}: annotation '{name}' is of image {image_id}, which is not listed"
                )
            where = f"{source.annotations}: annotation '{annotation['file_name']}'"
            segments = listed_segments(where, annotation["segments_info"], class_ids)
            image = source.images / images[image_id]["file_name"]
            items.append(AnnotatedImage(image, source.panoptic / annotation["file_name"], segments))
    except KeyError as error:
        raise UserError(f"{source.annotations}: an image, annotation or segment lacks the key {error}") from None
    except TypeError as error:
        raise UserError(f"{source.annotations}: not as COCO's panoptic annotations are ({error})") from None
    if len(annotations) < len(content["annotations"]):
        raise UserError(f"{source.annotations}: two annotations of the same image")
    return items
