"""Converts images that were labelled with labelme to TFRecords.

The layout: a JSON file beside each image, in `{split}/` or in one folder that is divided here. Coordinates
are those of the upright image, as labelme turns images by their EXIF tag before it shows them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord
from deeplab2_lite.data.conversion.labelled_record import Segment, labelled_record
from deeplab2_lite.data.conversion.options import (
    add_high_depth_argument,
    add_label_divisor_argument,
    add_output_arguments,
    write,
)
from deeplab2_lite.data.conversion.output import Conversion
from deeplab2_lite.data.converters.label_spaces import label_space_of_names, read_label_space, with_background
from deeplab2_lite.data.converters.labelme_files import LabelmeFile, decode_base64, read_labelme_file
from deeplab2_lite.data.converters.labelme_folders import (
    VAL_FRACTION,
    find_image,
    find_labelme_files,
    images_beside,
    warn_of_unlabelled,
)
from deeplab2_lite.data.converters.labelme_shapes import check_thin, draw_shapes
from deeplab2_lite.data.converters.overlaps import panoptic_from_owners
from deeplab2_lite.data.images import HighDepth, StoredImage, load_image_for_record, make_storable
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError, nearest_name

# Labels that labelme's own examples use: what no shape covers, and what is not to be learnt.
BACKGROUND_LABEL = "_background_"
IGNORE_LABEL = "__ignore__"


class LabelledImage(NamedTuple):
    """An image and its labelme file.

    Attributes:
        annotation: The JSON file.
        image: The image; None if it is in the JSON file alone.
    """

    annotation: Path
    image: Path | None


@dataclass(frozen=True)
class LabelmeConverter:
    """Makes a record of an image and its labelme file.

    Attributes:
        info: The label space.
        uncovered: Class of pixels that no shape covers; `info.ignore_label` makes them void.
        void: Labels whose pixels are void.
        line_width: Width of lines and diameter of points in pixels; None refuses them.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.
    """

    info: DatasetInfo
    uncovered: int
    void: tuple[str, ...] = (IGNORE_LABEL,)
    line_width: int | None = None
    high_depth: HighDepth = "refuse"

    def __call__(self, item: LabelledImage) -> ConvertedRecord:
        """Returns the record of one image.

        Raises:
            UserError: A file is damaged, the image is of another size than its labels, or there are more
                instances of a class than the label divisor holds.
        """
        source = read_labelme_file(item.annotation)
        image, image_path = self._load_image(item, source)
        said = (source.height or image.height, source.width or image.width)
        if said != (image.height, image.width):
            raise UserError(
                f"{item.annotation}: imageHeight and imageWidth are {said[0]} and {said[1]}, but the image has "
                f"{image.height}x{image.width} pixels"
            )
        segments, values = self._segments(source)
        where = f"{item.annotation}: shapes"
        owners = draw_shapes(source.shapes, values, image.height, image.width, self.line_width, where)
        panoptic = panoptic_from_owners(owners, segments, self.uncovered, self.info, item.annotation)
        return labelled_record(image, image_path, panoptic, item.annotation, self.info)

    def files(self, item: LabelledImage) -> Sequence[Path]:
        """Returns the JSON file and the image."""
        return (item.annotation,) if item.image is None else (item.annotation, item.image)

    def class_ids(self) -> dict[str, int]:
        """Returns the class of each label, `info.ignore_label` for void."""
        names = {name: class_id for class_id, name in enumerate(self.info.class_names)}
        return {BACKGROUND_LABEL: self.uncovered} | dict.fromkeys(self.void, self.info.ignore_label) | names

    def _load_image(self, item: LabelledImage, source: LabelmeFile) -> tuple[StoredImage, Path]:
        if item.image is not None:
            return load_image_for_record(item.image, self.high_depth), item.image
        encoded = decode_base64(f"{item.annotation}: imageData", source.image_data or "")
        image = make_storable(item.annotation, encoded, self.high_depth)
        return image, Path(PurePosixPath(source.image_name).name)

    def _segments(self, source: LabelmeFile) -> tuple[list[Segment], list[int]]:
        """Joins shapes to segments; returns these, and for each shape 1 + the position of its own."""
        class_ids = self.class_ids()
        segments: list[Segment] = []
        positions: dict[object, int] = {}
        values = []
        for index, shape in enumerate(source.shapes):
            if shape.label not in class_ids:
                raise _unknown_label(source.path, shape.label, class_ids)
            key = (shape.label, index) if shape.group is None else (shape.label, "group", shape.group)
            if key not in positions:
                positions[key] = len(segments)
                segments.append(Segment(index, class_ids[shape.label]))
            values.append(positions[key] + 1)
        return segments, values


def plan(
    folder: str | Path,
    *,
    splits: Sequence[str] | None = None,
    val_fraction: float | None = None,
    dataset_info: str | Path | DatasetInfo | None = None,
    things: Sequence[str] = (),
    stuff: Sequence[str] = (),
    background: str | None = None,
    void: Sequence[str] = (IGNORE_LABEL,),
    name: str = "labelme",
    line_width: int | None = None,
    label_divisor: int | None = None,
    high_depth: HighDepth = "refuse",
) -> Conversion:
    """Finds what is to be converted of images labelled with labelme. Images without a file are left out.

    Shapes of one label and `group_id` are one instance; where shapes overlap, the later lies above, as in
    labelme's own converters. Instances count from 1 within each class in the order of their first shapes,
    less those that others hide.

    Args:
        folder: Holds `{split}/*.json`; or JSON files, which are divided into "train" and "val".
        splits: Names of the splits; None takes one folder if it holds JSON files, else train and val.
        val_fraction: Share of one folder's images that become "val"; which ones, their names alone say.
            None takes 0.1.
        dataset_info: The label space, whose names are labels; None takes the labels by name.
        things: Labels of things; none takes all that the files hold and that are no stuff.
        stuff: Labels of stuff.
        background: Class of stuff of pixels that no shape covers and of shapes labelled `_background_`, added
            as the last one if the label space has it not; None makes them void.
        void: Labels whose pixels are void.
        name: Name of the data set, where the label space is not given.
        line_width: Width of lines and diameter of points in pixels; None refuses them.
        label_divisor: Panoptic id = class id * label_divisor + instance id; None is that of `dataset_info`,
            or 1000.
        high_depth: What to do with 16-bit grey images, see `images.read_rgb`.

    Returns:
        The conversion, for `conversion.convert`.

    Raises:
        UserError: A file is missing, damaged, or has a label that is not in the label space.
    """
    if line_width is not None and line_width < 1:
        raise UserError(f"--line_width: expected 1 or more, got {line_width}")
    paths = find_labelme_files(Path(folder), splits, val_fraction)
    sources = _Sources({}, {})
    items = {split: _labelled_images(files, sources, line_width) for split, files in paths.items()}
    warn_of_unlabelled([path for files in paths.values() for path in files], sources.images)
    labels = sources.labels
    if dataset_info is None:
        found = set(labels) - {*stuff, *void, BACKGROUND_LABEL, background}
        names = tuple(things) or tuple(sorted(found))
        if not names and not stuff:
            raise UserError(f"{folder}: no shape in any file; expected labels, --things or --stuff")
        dataset_info = label_space_of_names(name, names, stuff)
    elif things or stuff:
        raise UserError("--dataset_info: says which labels are things and stuff; expected no --things and --stuff")
    info, uncovered = with_background(read_label_space(dataset_info, label_divisor), background)
    converter = LabelmeConverter(info, uncovered, tuple(void), line_width, high_depth)
    class_ids = converter.class_ids()
    for label in void:
        if label in info.class_names:
            raise UserError(f"--void={label}: is a class of '{info.name}'; expected other labels")
    for label, path in labels.items():
        if label not in class_ids:
            raise _unknown_label(path, label, class_ids)
    return Conversion(converter, items)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `deeplab2-lite convert labelme`."""
    parser.add_argument(
        "--input", required=True, metavar="DIR", help="folder with images and JSON files, or with such {split} folders"
    )
    parser.add_argument(
        "--splits", nargs="+", metavar="NAME", help="splits to convert (default: train val, if --input has no JSON)"
    )
    parser.add_argument(
        "--val_fraction",
        type=float,
        metavar="F",
        help=f"share of the images that become the split val where there are no {{split}} folders (default: "
        f"{VAL_FRACTION})",
    )
    parser.add_argument("--dataset_info", metavar="NAME_OR_FILE", help="the label space, whose names are labels")
    parser.add_argument(
        "--things", nargs="+", default=[], metavar="LABEL", help="labels of things (default: all that are no stuff)"
    )
    parser.add_argument("--stuff", nargs="+", default=[], metavar="LABEL", help="labels of stuff (default: none)")
    parser.add_argument(
        "--background",
        metavar="NAME",
        help=f"class of stuff for pixels that no shape covers, and shapes labelled {BACKGROUND_LABEL} (default: they "
        "are void)",
    )
    parser.add_argument(
        "--void", nargs="+", default=[IGNORE_LABEL], metavar="LABEL", help=f"labels of void (default: {IGNORE_LABEL})"
    )
    parser.add_argument("--name", default="labelme", help="name of the data set (default: %(default)s)")
    parser.add_argument(
        "--line_width",
        type=int,
        metavar="N",
        help="draw lines of so many pixels' width, and points of such a diameter (default: refuse them)",
    )
    add_high_depth_argument(parser)
    add_label_divisor_argument(parser, None)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Runs `deeplab2-lite convert labelme` with parsed options."""
    conversion = plan(
        arguments.input,
        splits=arguments.splits,
        val_fraction=arguments.val_fraction,
        dataset_info=arguments.dataset_info,
        things=arguments.things,
        stuff=arguments.stuff,
        background=arguments.background,
        void=arguments.void,
        name=arguments.name,
        line_width=arguments.line_width,
        label_divisor=arguments.label_divisor,
        high_depth=arguments.high_depth,
    )
    write(conversion, arguments)


class _Sources(NamedTuple):
    """What files hold: the first file of each label, and the file of each image."""

    labels: dict[str, Path]
    images: dict[Path, Path]


def _labelled_images(paths: Sequence[Path], sources: _Sources, line_width: int | None) -> list[LabelledImage]:
    """Reads the files of a split, and adds to `sources` what they hold."""
    beside = images_beside(paths)
    items: list[LabelledImage] = []
    for path in paths:
        content = read_labelme_file(path)
        for index, shape in enumerate(content.shapes):
            check_thin(shape, line_width, f"{path}: shapes[{index}] ('{shape.label}')")
            sources.labels.setdefault(shape.label, path)
        image = find_image(content, beside)
        if image is not None and sources.images.setdefault(image, path) != path:
            raise UserError(f"{path}: is of the same image as {sources.images[image]}; expected one file for {image}")
        items.append(LabelledImage(path, image))
    return items


def _unknown_label(path: Path, label: str, class_ids: Mapping[str, int]) -> UserError:
    return UserError(f"{path}: label '{label}' is none of the label space{nearest_name(label, class_ids)}")
