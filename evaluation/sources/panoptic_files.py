"""Panoptic maps in the COCO panoptic format, a JSON and a folder of PNGs: the files of the official evaluators.

Ids become those of a label space. Nothing here needs TensorFlow, so that processes that read and count start in
a moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.metrics.overlaps import Overlaps, Runs, overlaps_of_runs
from deeplab2_lite.evaluation.sources.panoptic_png import read_panoptic_png, read_panoptic_runs
from deeplab2_lite.files import read_json


class PanopticFolder:
    """The maps of a JSON and its PNGs, by the ids of their images.

    Attributes:
        json_path: The JSON.
        png_dir: The folder of PNGs.
        names: Ids of the images as text, in the order of the JSON.
    """

    def __init__(
        self, json_path: str | Path, png_dir: str | Path, info: DatasetInfo, *, is_prediction: bool = False
    ) -> None:
        """Reads the JSON, and looks whether its PNGs are there; opens none.

        Args:
            json_path: COCO panoptic annotations, or results (which may have `annotations` alone).
            png_dir: The folder of their PNGs.
            info: The label space, whose `original_id` are category ids.
            is_prediction: Whether these are predictions, see `read_panoptic_png`.

        Raises:
            UserError: A file is missing, the JSON is not of this format, or two annotations are of one image.
        """
        self.json_path, self.png_dir = Path(json_path), Path(png_dir)
        self._info, self._is_prediction = info, is_prediction
        content = _read_json(self.json_path)
        self._annotations = _by_image(self.json_path, content["annotations"])
        images = content.get("images")
        self._image_files = {
            str(image["id"]): str(image["file_name"])
            for image in (images if isinstance(images, list) else ())
            if isinstance(image, dict) and "id" in image and "file_name" in image
        }
        self.names = tuple(self._annotations)
        self._check_pngs_are_there()

    def png_path(self, name: str) -> Path:
        """Returns where the PNG of an image is."""
        return self.png_dir / self._annotations[name]["file_name"]

    def image_file(self, name: str) -> str | None:
        """Returns the file name of the image itself, where the JSON lists it under `images`."""
        return self._image_files.get(name)

    def load(self, name: str) -> np.ndarray:
        """Reads the map of an image.

        Args:
            name: One of `names`.

        Returns:
            Panoptic ids, int32 [height, width].

        Raises:
            UserError: As for `read_panoptic_png`.
        """
        segments = self._annotations[name]["segments_info"]
        return read_panoptic_png(self.png_path(name), segments, self._info, is_prediction=self._is_prediction)

    def load_runs(self, name: str) -> Runs:
        """Reads the map of an image as its runs.

        Args:
            name: One of `names`.

        Returns:
            The runs of what `load` returns.

        Raises:
            UserError: As for `read_panoptic_png`.
        """
        segments = self._annotations[name]["segments_info"]
        return read_panoptic_runs(self.png_path(name), segments, self._info, is_prediction=self._is_prediction)

    def _check_pngs_are_there(self) -> None:
        if not self.png_dir.is_dir():
            raise UserError(f"{self.png_dir}: no such folder; expected the PNGs of {self.json_path}")
        missing = [name for name in self.names if not self.png_path(name).is_file()]
        if missing:
            raise UserError(
                f"{self.png_path(missing[0])}: no such file{_and_more(missing)}; expected the PNG of image "
                f"'{missing[0]}' in {self.json_path}"
            )


def check_same_images(truth: PanopticFolder, prediction: PanopticFolder) -> None:
    """Makes sure that both folders are about the same images.

    Args:
        truth: The truth.
        prediction: The predictions.

    Raises:
        UserError: An image has a truth but no prediction, or a prediction but no truth; the message names it.
    """
    for first, second, what in ((truth, prediction, "prediction"), (prediction, truth, "truth")):
        others = set(second.names)
        missing = [name for name in first.names if name not in others]
        if missing:
            raise UserError(
                f"{second.json_path}: no {what} of image '{missing[0]}'{_and_more(missing)}; expected one for each "
                f"image of {first.json_path}"
            )


def load_pair(truth: PanopticFolder, prediction: PanopticFolder, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the truth and the prediction of an image.

    Args:
        truth: The truth.
        prediction: The predictions.
        name: Of the image.

    Returns:
        Panoptic ids of both, int32 [height, width].

    Raises:
        UserError: As for `read_panoptic_png`, or they differ in size.
    """
    maps = truth.load(name), prediction.load(name)
    _check_one_size(*maps, truth.png_path(name), prediction.png_path(name))
    return maps


def load_overlaps(truth: PanopticFolder, prediction: PanopticFolder, name: str) -> Overlaps:
    """Reads what meets in the truth and the prediction of an image: all that figures of panoptic maps need.

    Args:
        truth: The truth.
        prediction: The predictions.
        name: Of the image.

    Returns:
        What `count_overlaps` returns for the maps of `load_pair`, without making them.

    Raises:
        UserError: As for `load_pair`.
    """
    runs = truth.load_runs(name), prediction.load_runs(name)
    _check_one_size(*runs, truth.png_path(name), prediction.png_path(name))
    return overlaps_of_runs(*runs)


def _check_one_size(true: np.ndarray | Runs, predicted: np.ndarray | Runs, truth: Path, prediction: Path) -> None:
    if true.shape != predicted.shape:
        raise UserError(
            f"{prediction}: {predicted.shape[0]}x{predicted.shape[1]} pixels; expected "
            f"{true.shape[0]}x{true.shape[1]}, the size of {truth}"
        )


def _read_json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise UserError(f"{path}: no list 'annotations'; expected the COCO panoptic format")
    return content


def _by_image(path: Path, annotations: list[Any]) -> dict[str, Mapping[str, Any]]:
    by_image: dict[str, Mapping[str, Any]] = {}
    for position, annotation in enumerate(annotations):
        where = f"{path}: annotations[{position}]"
        if not isinstance(annotation, dict):
            raise UserError(f"{where}: expected an object, got {annotation!r}")
        for key, kinds in (("image_id", (int, str)), ("file_name", (str,)), ("segments_info", (list,))):
            if not isinstance(annotation.get(key), kinds):
                raise UserError(
                    f"{where}: {key}: expected {' or '.join(kind.__name__ for kind in kinds)}, "
                    f"got {annotation.get(key)!r}"
                )
        name = str(annotation["image_id"])
        if name in by_image:
            raise UserError(f"{where}: a second annotation of image '{name}'; expected one")
        by_image[name] = annotation
    return by_image


def _and_more(names: Sequence[str]) -> str:
    return f" (nor of {len(names) - 1} more)" if len(names) > 1 else ""
