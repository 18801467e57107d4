"""From a network's results to the files of a submission, image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.submission.coco_panoptic import CocoPanopticWriter
from deeplab2_lite.evaluation.submission.formats import SubmissionFormat
from deeplab2_lite.evaluation.submission.images import ExpectedImage
from deeplab2_lite.evaluation.submission.instances import CityscapesInstanceWriter
from deeplab2_lite.files import atomic_path
from deeplab2_lite.postprocessing.segmentation import PanopticResult


class SubmissionWriter(Protocol):
    """Writes the files of one format."""

    def write(self, image: ExpectedImage, result: PanopticResult, scores: np.ndarray) -> dict[str, Any]:
        """Writes the files of one image, whole or not at all.

        Args:
            image: Which.
            result: What `Predictor` gave of it.
            scores: Of the table's rows, floats [top_k].

        Returns:
            What `finish` takes of it, as JSON can hold it: `files`, their paths from the root with slashes, and more.
        """
        ...

    def finish(self, entries: list[dict[str, Any]]) -> list[str]:
        """Writes the files over all images; returns their paths from the root."""
        ...


def submission_writer(form: SubmissionFormat, info: DatasetInfo, folder: Path, stem: str) -> SubmissionWriter:
    """Returns the writer of a format.

    Args:
        form: Which.
        info: Label space of the results.
        folder: Root of the files; it must exist.
        stem: Name of the zip without its ending.
    """
    info = form.submitted_info(info)
    if form.kind == "semantic":
        return _SemanticWriter(info, folder)
    if form.kind == "instance":
        return _InstanceWriter(info, folder, "" if form.whole_name else "_pred")
    return _PanopticWriter(info, folder, stem)


def _check_size(image: ExpectedImage, panoptic: np.ndarray) -> None:
    if panoptic.shape != image.size:
        found = "x".join(str(side) for side in panoptic.shape)
        raise UserError(f"{image.path}: the model gave {found} pixels; expected {image.size[0]}x{image.size[1]}")


class _SemanticWriter:
    """`KEY.png`, 8-bit grey: the original id of each pixel's class. Sources: see submission_formats."""

    def __init__(self, info: DatasetInfo, folder: Path) -> None:
        self._folder = folder
        self._labels = np.array([c.original_id for c in info.classes], np.uint8)

    def write(self, image: ExpectedImage, result: PanopticResult, scores: np.ndarray) -> dict[str, Any]:
        _check_size(image, result.semantic)
        name = f"{image.key}.png"
        with atomic_path(self._folder / name) as temporary:
            Image.fromarray(self._labels[result.semantic]).save(temporary, format="PNG")
        return {"files": [name]}

    def finish(self, entries: list[dict[str, Any]]) -> list[str]:
        return []


class _InstanceWriter:
    """A list for each image, and its masks in a folder of the list's name."""

    def __init__(self, info: DatasetInfo, folder: Path, ending: str) -> None:
        self._folder = folder
        self._lists = CityscapesInstanceWriter(info, folder, ending)

    def write(self, image: ExpectedImage, result: PanopticResult, scores: np.ndarray) -> dict[str, Any]:
        _check_size(image, result.panoptic)
        # As a float32, the product of two probabilities may round to a little above 1.
        self._lists.add(image.key, result, np.minimum(scores, 1), image_id=image.key)
        path = self._lists.list_path(image.key, image_id=image.key)
        masks = [line.split(" ")[0] for line in path.read_text(encoding="utf-8").splitlines()]
        return {"files": [path.name, *masks]}

    def finish(self, entries: list[dict[str, Any]]) -> list[str]:
        return []


class _PanopticWriter:
    """`STEM.json` and `STEM/KEY.png`, in COCO's format."""

    def __init__(self, info: DatasetInfo, folder: Path, stem: str) -> None:
        self._stem = stem
        self._maps = CocoPanopticWriter(info, folder / f"{stem}.json", folder / stem)

    def write(self, image: ExpectedImage, result: PanopticResult, scores: np.ndarray) -> dict[str, Any]:
        _check_size(image, result.panoptic)
        # With an ending, for it is taken away: a key may have a dot.
        entry = self._maps.write(f"{image.key}.png", result.panoptic, image.image_id)
        entry["image"]["file_name"] = image.path.name
        return {"files": [f"{self._stem}/{image.key}.png"], "panoptic": entry}

    def finish(self, entries: list[dict[str, Any]]) -> list[str]:
        for entry in entries:
            self._maps.restore(entry["panoptic"])
        return [self._maps.finish().name]
