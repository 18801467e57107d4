"""Truths and predictions as files: two JSONs with their folders of panoptic PNGs, as the official evaluators take."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeplab2_lite.data.images import read_rgb
from deeplab2_lite.dataset_info import DatasetInfo, load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.journal import file_stamp
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts
from deeplab2_lite.evaluation.sources.instance_results import InstanceResults
from deeplab2_lite.evaluation.sources.panoptic_files import (
    PanopticFolder,
    check_same_images,
    load_overlaps,
    load_pair,
)
from deeplab2_lite.evaluation.sources.source import CountedImage, Maps
from deeplab2_lite.processes import map_in_order

# Their classes have categories, average areas and colours, and a width of boundaries.
_PRESETS = ("cityscapes", "coco", "mapillary_vistas")


class FolderSource:
    """Pairs the maps of two folders by the ids of their images. Nothing of it needs TensorFlow."""

    step = None

    def __init__(
        self,
        truth: PanopticFolder,
        prediction: PanopticFolder,
        info: DatasetInfo,
        *,
        instances: InstanceResults | None = None,
        images: Path | None = None,
        allow_extra: bool = False,
        num_processes: int = 1,
    ) -> None:
        """Checks that both are about the same images.

        Args:
            truth: The truth; its images are those that are evaluated, in its order.
            prediction: The predictions.
            info: The label space of both.
            instances: Scored masks for instance AP.
            images: Where the images themselves lie, for pictures.
            allow_extra: Leave out predictions of images that the truth has not.
            num_processes: Processes that read and count.

        Raises:
            UserError: An image has no prediction, or a prediction no truth.
        """
        if not truth.names:
            raise UserError(f"{truth.json_path}: no annotations; expected at least one image")
        if allow_extra:
            known = set(truth.names)
            prediction.names = tuple(name for name in prediction.names if name in known)
        check_same_images(truth, prediction)
        self.info = info
        self._truth, self._prediction, self._instances = truth, prediction, instances
        self._images = images
        self._num_processes = num_processes

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._truth.names)

    def identity(self) -> Any:
        """Returns the stamps of the JSONs, and the label space."""
        instances = None if self._instances is None else file_stamp(self._instances.path)
        return [
            file_stamp(self._truth.json_path),
            file_stamp(self._prediction.json_path),
            instances,
            self.info.to_dict(),
        ]

    def stamp(self, index: int) -> Any:
        """Returns the stamps of both PNGs of an image."""
        name = self._truth.names[index]
        return [file_stamp(folder.png_path(name)) for folder in (self._truth, self._prediction)]

    def count(self, evaluation: Evaluation, indices: Sequence[int]) -> Generator[list[CountedImage], None, None]:
        """Reads and counts images, in processes; see `sources.Source`."""
        function = functools.partial(_count, evaluation, self._truth, self._prediction, self._instances)
        names = [self._truth.names[index] for index in indices]
        counted = map_in_order(function, names, self._num_processes, "evaluation")
        for index, counts in zip(indices, counted, strict=True):
            yield [CountedImage(index, counts)]

    def maps(self, indices: Sequence[int]) -> Iterator[Maps]:
        """Reads images to be looked at; see `sources.Source`."""
        for index in indices:
            name = self._truth.names[index]
            yield Maps(self._image(name), *load_pair(self._truth, self._prediction, name))

    def _image(self, name: str) -> np.ndarray | None:
        if self._images is None:
            return None
        file_name = _file_name(self._truth, self._prediction, name)
        path = self._found_images.get(Path(file_name).name) or self._images / file_name
        if not path.is_file():
            raise UserError(f"--images: no file {path}; expected image '{name}' of {self._truth.json_path}")
        return read_rgb(path)

    @functools.cached_property
    def _found_images(self) -> dict[str, Path]:
        # Cityscapes keeps its images in a folder for each city, of which its JSON says nothing.
        return {path.name: path for path in sorted(self._images.rglob("*")) if path.is_file()}


def open_folders(
    truth: Path,
    prediction: Path,
    *,
    truth_dir: Path | None = None,
    prediction_dir: Path | None = None,
    dataset_info: str | None = None,
    instances: Path | None = None,
    images: Path | None = None,
    allow_extra: bool = False,
    num_processes: int = 1,
) -> FolderSource:
    """Opens truths and predictions in the COCO panoptic format.

    Args:
        truth: JSON of the truth.
        prediction: JSON of the predictions.
        truth_dir: Folder of the truth's PNGs; None takes the JSON's path without its ending.
        prediction_dir: Likewise of the predictions.
        dataset_info: The label space, a name or file; None takes the `categories` of the truth.
        instances: COCO results with scored masks, for instance AP.
        images: Folder of the images, for pictures.
        allow_extra: Leave out predictions of images that the truth has not.
        num_processes: Processes that read and count.

    Returns:
        The source.

    Raises:
        UserError: A file is missing or damaged, or truths and predictions do not go together.
    """
    for flag, path in (("--truth", truth), ("--prediction", prediction)):
        if not path.is_file():
            raise UserError(f"{flag}: no file {path}; expected a JSON in the COCO panoptic format")
    if images is not None and not images.is_dir():
        raise UserError(f"--images: no folder {images}")
    info = _label_space_of(truth) if dataset_info is None else load_dataset_info(dataset_info)
    truths = PanopticFolder(truth, truth_dir or truth.with_suffix(""), info)
    predictions = PanopticFolder(prediction, prediction_dir or prediction.with_suffix(""), info, is_prediction=True)
    results = None
    if instances is not None:
        results = InstanceResults(instances, info, truths.names, allow_extra=allow_extra)
    return FolderSource(
        truths,
        predictions,
        info,
        instances=results,
        images=images,
        allow_extra=allow_extra,
        num_processes=num_processes,
    )


def _label_space_of(truth: Path) -> DatasetInfo:
    """Returns the preset whose categories those of the truth are, which says more of them; else what the truth says."""
    info = load_dataset_info(truth)
    for preset in map(load_dataset_info, _PRESETS):
        if [(c.original_id, c.name, c.isthing) for c in info.classes] == [
            (c.original_id, c.name, c.isthing) for c in preset.classes
        ]:
            return preset
    return info


def _count(
    evaluation: Evaluation,
    truths: PanopticFolder,
    predictions: PanopticFolder,
    instances: InstanceResults | None,
    name: str,
) -> ImageCounts:
    file_name = _file_name(truths, predictions, name)
    if instances is None and not evaluation.needs_panoptic_maps:
        return evaluation.count_overlaps(load_overlaps(truths, predictions, name), file_name)
    truth, panoptic = load_pair(truths, predictions, name)
    prediction = ImagePrediction(None, panoptic)
    if instances is not None:
        masks = instances.load(name, truth.shape)
        prediction = prediction._replace(instance=masks.ids, class_id=masks.class_id, score=masks.score)
    return evaluation.count(truth, prediction, file_name)


def _file_name(truths: PanopticFolder, predictions: PanopticFolder, name: str) -> str:
    file_name = truths.image_file(name) or predictions.image_file(name) or name
    # cityscapesScripts makes the names in its JSON from those of the labels; no image bears them.
    return file_name.replace("_gtFine_leftImg8bit", "_leftImg8bit")
