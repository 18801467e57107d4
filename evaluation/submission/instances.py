"""Scored instance masks as files that other tools read: COCO results, and the Cityscapes lists of masks."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.submission.coco_panoptic import coco_image_id
from deeplab2_lite.files import atomic_path, write_text_atomically
from deeplab2_lite.postprocessing.segmentation import PanopticResult


class CocoInstanceWriter:
    """Writes one JSON of COCO results (`loadRes` of pycocotools): a run-length mask for each instance.

    There is no `bbox`: pycocotools would take a result's size from it, and sort instances into small, medium
    and large by the areas of boxes. Without, it takes boxes and sizes from the masks.
    """

    def __init__(self, info: DatasetInfo, json_path: str | Path) -> None:
        """Starts without images.

        Args:
            info: Label space of the results; its original ids become the category ids.
            json_path: Written by `finish`; its folder must exist.
        """
        self._info = info
        self._json_path = Path(json_path)
        self._annotations: list[dict[str, Any]] = []

    def add(
        self, file_name: str, result: PanopticResult, instance_scores: np.ndarray, image_id: int | str | None = None
    ) -> None:
        """Adds the instances of one image.

        Args:
            file_name: Of the image.
            result: What `Predictor` gave: NumPy arrays without batch dimension.
            instance_scores: Scores of the table's rows, floats [top_k].
            image_id: Of the data set; None takes that of `coco_image_id`.

        Raises:
            UserError: The result is a batch, or scores or label space do not fit it.
        """
        self.restore(self.write(file_name, result, instance_scores, image_id))

    def write(
        self, file_name: str, result: PanopticResult, instance_scores: np.ndarray, image_id: int | str | None = None
    ) -> list[dict[str, Any]]:
        """Encodes the instances of one image, without adding them to what `finish` writes.

        Args:
            file_name: As for `add`.
            result: Likewise.
            instance_scores: Likewise.
            image_id: Likewise.

        Returns:
            What the JSON says of the image, for `restore` here or in a later process; JSON can hold it.

        Raises:
            UserError: As for `add`.
        """
        # Only who writes this format needs pycocotools, a compiled package.
        from deeplab2_lite.evaluation.metrics.coco_ap import encode_segments

        rows = list(_instances(result, instance_scores, self._info))
        image_id = coco_image_id(file_name) if image_id is None else image_id
        encoded = encode_segments(result.panoptic) if rows else {}
        annotations = []
        for row in rows:
            run_lengths = encoded[row.panoptic_id]
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": row.original_id,
                    "segmentation": {"size": run_lengths["size"], "counts": run_lengths["counts"].decode("ascii")},
                    "score": row.score,
                    "area": row.area,
                }
            )
        return annotations

    def restore(self, entry: list[dict[str, Any]]) -> None:
        """Adds an image.

        Args:
            entry: What `write` gave.
        """
        self._annotations += entry

    def finish(self) -> Path:
        """Writes the JSON, whole or not at all, and returns its path."""
        return write_text_atomically(self._json_path, json.dumps(self._annotations))


class CityscapesInstanceWriter:
    """Writes `NAME_pred.txt` for each image, lines of mask, label id and score, and the masks beside it.

    The folder is a prediction root of cityscapesScripts' instance-level evaluation, which finds the lists by
    the names of Cityscapes' images. Masks are `NAME_pred/ROW.png`, 8 bits, 255 in the instance.
    """

    def __init__(self, info: DatasetInfo, folder: str | Path, ending: str = "_pred") -> None:
        """Makes the folder.

        Args:
            info: Label space of the results; its original ids are the label ids.
            folder: Where lists and masks go.
            ending: Of the names of lists; Mapillary Vistas has none, its lists are named as the images.
        """
        self._info = info
        self._ending = ending
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def add(
        self, file_name: str, result: PanopticResult, instance_scores: np.ndarray, image_id: int | str | None = None
    ) -> None:
        """Writes the instances of one image; files of an earlier run on it are replaced.

        Args:
            file_name: Of the image.
            result: What `Predictor` gave: NumPy arrays without batch dimension.
            instance_scores: Scores of the table's rows, floats [top_k].
            image_id: The NAME of the files; None takes the stem of the image.

        Raises:
            UserError: The result is a batch, or scores or label space do not fit it.
        """
        rows = list(_instances(result, instance_scores, self._info))
        list_path = self.list_path(file_name, image_id)
        # The list's fields end at spaces, so that no path in it may have one.
        mask_dir = self._folder / re.sub(r"[\s%]", lambda character: quote(character[0]), list_path.stem)
        # The list goes first and comes last: where it lies, its masks are whole.
        list_path.unlink(missing_ok=True)
        mask_dir.mkdir(exist_ok=True)
        for old in mask_dir.glob("*.png"):
            old.unlink()
        lines = []
        mask = np.zeros(result.panoptic.shape, np.uint8)
        for row in rows:
            ymin, xmin, ymax, xmax = row.box
            inside = (slice(ymin, ymax), slice(xmin, xmax))
            mask[inside] = 255 * (result.panoptic[inside] == row.panoptic_id)
            mask_path = mask_dir / f"{row.index:03d}.png"
            _save_mask(mask_path, mask)
            mask[inside] = 0
            lines.append(f"{mask_dir.name}/{mask_path.name} {row.original_id} {row.score!r}\n")
        write_text_atomically(list_path, "".join(lines))

    def list_path(self, file_name: str, image_id: int | str | None = None) -> Path:
        """Returns the path of an image's list; where it exists, its masks are whole.

        Args:
            file_name: As for `add`.
            image_id: Likewise.
        """
        name = Path(file_name).stem if image_id is None else image_id
        return self._folder / f"{name}{self._ending}.txt"

    def finish(self) -> Path:
        """Returns the folder, in which the files of each image are whole since it was added."""
        return self._folder


class _Instance(NamedTuple):
    """A valid row of an instance table, in Python's own numbers; `box` as there."""

    index: int
    original_id: int
    panoptic_id: int
    score: float
    area: int
    box: list[int]


def _instances(result: PanopticResult, instance_scores: np.ndarray, info: DatasetInfo) -> Iterator[_Instance]:
    """Yields the valid rows of an image's table, best centre first."""
    table, scores = result.instances, np.asarray(instance_scores)
    if np.ndim(result.panoptic) != 2:
        raise UserError(
            f"result: expected one image, maps of [height, width], got the shape {list(np.shape(result.panoptic))}"
        )
    if scores.shape != table.valid.shape:
        raise UserError(
            f"instance_scores: expected one for each row of the table, {list(table.valid.shape)}, "
            f"got the shape {list(scores.shape)}"
        )
    for index in np.flatnonzero(table.valid).tolist():
        class_id = int(table.class_id[index])
        if class_id not in info.thing_ids:
            raise UserError(f"class_id[{index}]: expected the id of a thing class of '{info.name}', got {class_id}")
        if not np.isfinite(scores[index]):
            raise UserError(f"instance_scores[{index}]: expected a finite number, got {scores[index]}")
        yield _Instance(
            index,
            info.classes[class_id].original_id,
            int(table.panoptic_id[index]),
            float(scores[index]),
            int(table.area[index]),
            table.box[index].tolist(),
        )


def _save_mask(path: Path, mask: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        # Masks are long runs: on them this is nearly twice as fast as zlib's default, and smaller.
        Image.fromarray(mask).save(temporary, format="PNG", compress_type=zlib.Z_RLE)
