"""What the benchmark servers take: names, label ids, PNG modes and sizes, each with where that is said."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from deeplab2_lite.dataset_info import DatasetInfo, load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.submission.coco_panoptic import coco_image_id

Kind = Literal["semantic", "instance", "panoptic"]


@dataclass(frozen=True)
class SubmissionFormat:
    """One kind of submission to one server.

    Attributes:
        name: As the command calls it.
        kind: "semantic": a PNG of label ids for each image; "instance": a list of masks, label ids and scores for
            each image; "panoptic": a JSON and a folder of PNGs of segment ids.
        preset: Name of the label space that the server evaluates.
        image_key: The part of a file's name that tells the image, a pattern to match its beginning.
        whole_name: Whether the name of an image's file is that part alone, but for its ending.
        nested: Whether the files of images may lie in folders; the server looks for them by name.
        map_modes: Pillow's modes of a semantic PNG.
        label_count: Label ids of a semantic PNG are below.
        category_offset: Category id of a panoptic JSON minus label id.
        integer_ids: Whether image ids are numbers, else they are the images' keys.
        zip_stem: Pattern of the zip's name without its ending.
        zip_example: A name that fits it.
        json_named_as_zip: Whether the server wants that name of a panoptic JSON, too.
        size: Height and width of all images of the data set; None where they differ.
        split_images: Number of images by split.
    """

    name: str
    kind: Kind
    preset: str
    image_key: str
    whole_name: bool = True
    nested: bool = False
    map_modes: tuple[str, ...] = ("L",)
    label_count: int = 0
    category_offset: int = 0
    integer_ids: bool = False
    zip_stem: str = r".+"
    zip_example: str = "results.zip"
    json_named_as_zip: bool = False
    size: tuple[int, int] | None = None
    split_images: Mapping[str, int] | None = None

    @property
    def info(self) -> DatasetInfo:
        """The label space that the server evaluates."""
        return _preset(self.preset)

    def key_of(self, file_name: str) -> str | None:
        """Returns which image a file is of, or None if its name is of none.

        Args:
            file_name: Without folders.
        """
        if self.whole_name:
            stem = Path(file_name).stem
            return stem if re.fullmatch(self.image_key, stem) else None
        match = re.match(self.image_key, file_name)
        return match[0] if match else None

    def image_id_of(self, key: str) -> int | str:
        """Returns the id of an image in a panoptic JSON, where no list of images says it."""
        return coco_image_id(key) if self.integer_ids else key

    def check_zip_name(self, path: Path) -> None:
        """Raises a UserError unless a zip may bear this name."""
        if path.suffix != ".zip" or not re.fullmatch(self.zip_stem, path.stem):
            raise UserError(f"{path}: expected a name such as {self.zip_example} for {self.name}")

    def submitted_info(self, info: DatasetInfo) -> DatasetInfo:
        """Returns a label space whose original ids are those of the submission's files."""
        if not (self.kind == "panoptic" and self.category_offset):
            return info
        shifted = (replace(c, original_id=c.original_id + self.category_offset) for c in info.classes)
        return replace(info, classes=tuple(shifted))

    def check_label_space(self, info: DatasetInfo, where: str) -> None:
        """Refuses a model whose classes are not those that the server evaluates.

        Args:
            info: Label space of the model.
            where: Put before the message.

        Raises:
            UserError: An original id is missing or unknown, or a class is a thing here and stuff there.
        """
        expected = {c.original_id: c for c in self.info.classes}
        found = {c.original_id: c for c in info.classes}
        where = f"{where}: its label space '{info.name}'"
        needs = f"{self.name} needs the {len(expected)} classes of '{self.preset}' by their original_id"
        for own, others, word in ((expected, found, "lacks"), (found, expected, "has")):
            alone = sorted(own.keys() - others.keys())
            if alone:
                more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
                raise UserError(f"{where} {word} {alone[0]} ('{own[alone[0]].name}'){more}; {needs}")
        if len(found) != len(info.classes):
            raise UserError(f"{where} has two classes of one original_id; {needs}")
        for original_id, known in expected.items():
            if found[original_id].isthing != known.isthing:
                kind = "thing" if known.isthing else "stuff"
                raise UserError(f"{where} does not have {original_id} ('{known.name}') as {kind}; {needs}")


@functools.cache
def _preset(name: str) -> DatasetInfo:
    return load_dataset_info(name)


# cityscapesScripts 2.3, evaluation/evalPixelLevelSemanticLabeling.py and evalInstanceLevelSemanticLabeling.py
# ("used to evaluate the results on the test set", its README): files are searched recursively by
# {city}_{seq}_{frame}*.png or .txt, exactly one an image; label ids as in helpers/labels.py, 0..33, not train ids.
# Image counts and sizes: its README; the data set's paper (arXiv 1604.01685, section 2).
_CITYSCAPES = SubmissionFormat(
    name="cityscapes_semantic",
    kind="semantic",
    preset="cityscapes",
    image_key=r"[^_]+_[0-9]{6}_[0-9]{6}",
    whole_name=False,
    nested=True,
    # The script takes the array of whatever Pillow opens: of a palette image, its indices.
    map_modes=("L", "P"),
    label_count=34,
    zip_example="cityscapes_semantic.zip",
    size=(1024, 2048),
    split_images={"val": 500, "test": 1525},
)
# mapillary/mapillary_vistas ("form the basis of our evaluation server", its README): 8-bit grey PNGs of indices into
# the list of labels, named exactly as the labels; lists of instances NAME.txt, both in one folder. Image counts:
# research.mapillary.com/eccv18.
_VISTAS = SubmissionFormat(
    name="mapillary_semantic",
    kind="semantic",
    preset="mapillary_vistas",
    image_key=r".+",
    label_count=66,
    zip_example="mapillary_semantic.zip",
    split_images={"val": 2000, "test": 5000},
)

_ALL = (
    _CITYSCAPES,
    replace(_CITYSCAPES, name="cityscapes_instance", kind="instance", zip_example="cityscapes_instance.zip"),
    # evaluation/evalPanopticSemanticLabeling.py: COCO's format; image ids {city}_{seq}_{frame}, category ids are label
    # ids; PNGs are looked for in NAME/ beside NAME.json.
    replace(
        _CITYSCAPES,
        name="cityscapes_panoptic",
        kind="panoptic",
        nested=False,
        zip_example="cityscapes_panoptic_test.zip",
    ),
    # cocodataset.org, #upload (names; the PNGs' folder bears the name of the JSON), #format-results and #format-data
    # (contents), #guidelines (submissions of val are taken, too). Counts: the lists of images that are downloaded.
    SubmissionFormat(
        name="coco_panoptic",
        kind="panoptic",
        preset="coco",
        image_key=r"[0-9]{12}",
        integer_ids=True,
        zip_stem=r"panoptic_(val2017|test-dev2017|test-challenge2017)_.+_results",
        zip_example="panoptic_test-dev2017_NAME_results.zip",
        json_named_as_zip=True,
        split_images={"val2017": 5000, "test-dev2017": 20288, "test-challenge2017": 40670},
    ),
    _VISTAS,
    replace(_VISTAS, name="mapillary_instance", kind="instance", zip_example="mapillary_instance.zip"),
    # The data set's own panoptic_2018.json is in COCO's format, and counts its categories from 1, labels from 0.
    replace(
        _VISTAS,
        name="mapillary_panoptic",
        kind="panoptic",
        category_offset=1,
        zip_example="mapillary_panoptic.zip",
    ),
)

FORMATS = {item.name: item for item in _ALL}
