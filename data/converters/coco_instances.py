"""Converts COCO instance annotations, and any data set in their format, to TFRecords.

The format: images, and one JSON with `images`, `annotations` (each with `image_id`, `category_id`,
`segmentation`, `iscrowd`) and `categories`. Masks may overlap; what becomes of that, `overlaps.py` says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
from deeplab2_lite.data.converters.coco_masks import check_segmentation, decode_mask, encode_segmentation, mask_area
from deeplab2_lite.data.converters.label_spaces import read_label_space, with_background
from deeplab2_lite.data.converters.overlaps import back_to_front, panoptic_from_owners
from deeplab2_lite.data.images import HighDepth, load_image_for_record
from deeplab2_lite.dataset_info import DatasetInfo, dataset_info_from_categories
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import read_json


class SplitSource(NamedTuple):
    """Where the parts of one split lie.

    Attributes:
        images: Folder of images.
        annotations: The JSON.
    """

    images: Path
    annotations: Path


class AnnotatedImage(NamedTuple):
    """One image and its annotations.

    Attributes:
        image: Its file.
        height: As the annotations say.
        width: As the annotations say.
        segments: Its annotations, in their order.
        masks: The `segmentation` of each, as JSON.
    """

    image: Path
    height: int
    width: int
    segments: tuple[Segment, ...]
    masks: tuple[str, ...]


@dataclass(frozen=True)
class CocoInstancesConverter:
    """Makes a record of an annotated image. JPEGs are stored byte by byte.

    Attributes:
        info: The label space.
        uncovered: Class of pixels that no mask covers; `info.ignore_label` makes them void.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.
    """

    info: DatasetInfo
    uncovered: int
    high_depth: HighDepth = "refuse"

    def __call__(self, item: AnnotatedImage) -> ConvertedRecord:
        """Returns the record of one image.

        Raises:
            UserError: The image is damaged or of another size than the annotations say, or there are more
                instances of a class than the label divisor holds.
        """
        image = load_image_for_record(item.image, self.high_depth)
        if (image.height, image.width) != (item.height, item.width):
            raise UserError(
                f"{item.image}: {image.height}x{image.width} pixels, but its annotations are of "
                f"{item.height}x{item.width}"
            )
        owners = _paint(item, self.info)
        panoptic = panoptic_from_owners(owners, item.segments, self.uncovered, self.info, item.image)
        return labelled_record(image, item.image, panoptic, item.image, self.info)

    def files(self, item: AnnotatedImage) -> Sequence[Path]:
        """Returns the image."""
        return (item.image,)


def official_layout(folder: str | Path, splits: Sequence[str] = ("train", "val")) -> dict[str, SplitSource]:
    """Returns where the official download of COCO has its parts.

    Args:
        folder: Holds `{split}2017/` and `annotations/instances_{split}2017.json`.
        splits: Names of the splits.

    Returns:
        The sources by split.
    """
    folder = Path(folder)
    return {
        split: SplitSource(folder / f"{split}2017", folder / "annotations" / f"instances_{split}2017.json")
        for split in splits
    }


def plan(
    sources: Mapping[str, SplitSource],
    *,
    dataset_info: str | Path | DatasetInfo | None = None,
    name: str = "instances",
    background: str | None = None,
    label_divisor: int | None = None,
    high_depth: HighDepth = "refuse",
) -> Conversion:
    """Finds what is to be converted of splits in COCO's instance format.

    Class ids are contiguous from 0 in the order of the category ids; categories are things, unless an
    `isthing` of theirs says otherwise. Crowds have instance 0; instances count from 1 within each class in
    the order of the JSON, less those that others hide. Images without annotations become records that are
    void or background all over.

    Args:
        sources: Where each split lies; see `official_layout`.
        dataset_info: The label space, whose `original_id` are category ids; None takes the categories of
            the JSON files.
        name: Name of the data set, where the label space is that of the JSON files.
        background: Class of stuff that pixels belong to which no mask covers, added as the last one if the
            label space has it not; None makes them void.
        label_divisor: Panoptic id = class id * label_divisor + instance id; None is that of `dataset_info`,
            or 1000.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.

    Returns:
        The conversion, for `conversion.convert`.

    Raises:
        UserError: A file is missing, damaged or contradicts another; the message names it.
    """
    contents = {split: _read_annotations(source) for split, source in sources.items()}
    categories = _info_from_categories(name, sources, contents) if dataset_info is None else dataset_info
    info = read_label_space(categories, label_divisor)
    class_ids = {c.original_id: class_id for class_id, c in enumerate(info.classes)}
    info, uncovered = with_background(info, background)
    items = {split: _annotated_images(sources[split], content, class_ids) for split, content in contents.items()}
    return Conversion(CocoInstancesConverter(info, uncovered, high_depth), items)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `deeplab2-lite convert coco_instances`."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--input", metavar="DIR", help="the official layout: {split}2017/, annotations/instances_{split}2017.json"
    )
    group.add_argument(
        "--split",
        nargs=3,
        action="append",
        metavar=("NAME", "IMAGES", "JSON"),
        help="any other layout: a split's name, folder of images, and annotations; may be repeated",
    )
    parser.add_argument(
        "--splits", nargs="+", default=["train", "val"], metavar="NAME", help="splits of --input (default: train val)"
    )
    parser.add_argument(
        "--dataset_info",
        metavar="NAME_OR_FILE",
        help="the label space, its original_id being category ids (default: the categories of the annotations)",
    )
    parser.add_argument("--name", default="instances", help="name of the data set (default: %(default)s)")
    parser.add_argument(
        "--background",
        metavar="NAME",
        help="class of stuff for pixels that no mask covers (default: they are void)",
    )
    add_high_depth_argument(parser)
    add_label_divisor_argument(parser, None)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Runs `deeplab2-lite convert coco_instances` with parsed options."""
    sources = read_sources(arguments, official_layout, SplitSource)
    conversion = plan(
        sources,
        dataset_info=arguments.dataset_info,
        name=arguments.name,
        background=arguments.background,
        label_divisor=arguments.label_divisor,
        high_depth=arguments.high_depth,
    )
    write(conversion, arguments)


def _paint(item: AnnotatedImage, info: DatasetInfo) -> np.ndarray:
    """Paints the masks over each other; returns 1 + the position of each pixel's, 0 where there is none."""
    # Run lengths are small: not all masks of an image need fit into memory at once.
    masks = [encode_segmentation(json.loads(text), item.height, item.width) for text in item.masks]
    owners = np.zeros((item.height, item.width), np.int32)
    for position in back_to_front(item.segments, [mask_area(mask) for mask in masks], info):
        owners[decode_mask(masks[position])] = position + 1
    return owners


def _read_annotations(source: SplitSource) -> dict[str, Any]:
    if not source.images.is_dir():
        raise UserError(f"{source.images}: no such folder; expected the images of {source.annotations}")
    content = read_json(source.annotations)
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{source.annotations}: no list '{key}' of objects; expected COCO instance annotations")
    return content


def _info_from_categories(
    name: str, sources: Mapping[str, SplitSource], contents: Mapping[str, dict[str, Any]]
) -> DatasetInfo:
    infos = {}
    for split, content in contents.items():
        if not content["categories"]:
            raise UserError(f"{sources[split].annotations}: categories: expected at least one")
        categories = [{"isthing": 1, **category} for category in content["categories"]]
        infos[split] = dataset_info_from_categories(name, categories, sources[split].annotations)
    first, *others = infos
    for other in others:
        if infos[other].classes != infos[first].classes:
            raise UserError(f"{sources[other].annotations}: other categories than {sources[first].annotations}")
    return infos[first]


def _annotated_images(
    source: SplitSource, content: Mapping[str, Any], class_ids: Mapping[int, int]
) -> list[AnnotatedImage]:
    try:
        images = {image["id"]: image for image in content["images"]}
        if len(images) < len(content["images"]):
            raise UserError(f"{source.annotations}: two images have the same id")
        for image in images.values():
            if type(image["height"]) is not int or type(image["width"]) is not int:
                raise UserError(f"{source.annotations}: image '{image['file_name']}': expected its height and width")
        found: dict[Any, list[tuple[Segment, str]]] = {image_id: [] for image_id in images}
        for annotation in content["annotations"]:
            image_id = annotation["image_id"]
            if image_id not in images:
                raise UserError(
                    f"{source.annotations}: annotation {annotation['id']} is of image {image_id}, which is not listed"
                )
            found[image_id].append(_segment(source, annotation, images[image_id], class_ids))
        return [
            AnnotatedImage(
                source.images / image["file_name"],
                image["height"],
                image["width"],
                tuple(segment for segment, _ in found[image_id]),
                tuple(mask for _, mask in found[image_id]),
            )
            for image_id, image in images.items()
        ]
    except KeyError as error:
        raise UserError(f"{source.annotations}: an image or annotation lacks the key {error}") from None
    except TypeError as error:
        raise UserError(f"{source.annotations}: an image or annotation is malformed ({error})") from None


def _segment(
    source: SplitSource, annotation: dict[str, Any], image: Mapping[str, Any], class_ids: Mapping[int, int]
) -> tuple[Segment, str]:
    where = f"{source.annotations}: annotation {annotation['id']} of '{image['file_name']}'"
    category = annotation["category_id"]
    if category not in class_ids:
        raise UserError(f"{where}: category {category} is not listed")
    # Taken out, since the numbers of a large data set's polygons fill gigabytes, and its text a tenth of it.
    segmentation = annotation.pop("segmentation")
    check_segmentation(segmentation, image["height"], image["width"], where)
    segment = Segment(annotation["id"], class_ids[category], bool(annotation.get("iscrowd", 0)))
    return segment, json.dumps(segmentation, separators=(",", ":"))
