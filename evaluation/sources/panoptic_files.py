"""Panoptic maps in the COCO panoptic format, a JSON and a folder of PNGs: the files of the official evaluators.

Ids become those of a label space. Nothing here needs TensorFlow, so that processes that read and count start in
a moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.data.images import read_rgb_label
from deeplab2_lite.data.record_format import panoptic_from_channels
from deeplab2_lite.dataset_info import MAX_PANOPTIC_ID, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.metrics.overlaps import Overlaps, run_starts, sum_pairs
from deeplab2_lite.files import read_json


class SegmentMap(NamedTuple):
    """A PNG with the part of the JSON that is about it.

    Attributes:
        path: The PNG.
        channels: Of which its ids are made, uint8 [height, width, 3].
        ids: Those that the JSON lists and 0 for void, ascending, uint32 [segments + 1].
        panoptic_ids: Panoptic id of each, int32 [segments + 1].
    """

    path: Path
    channels: np.ndarray
    ids: np.ndarray
    panoptic_ids: np.ndarray


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

    def load_segments(self, name: str) -> SegmentMap:
        """Reads the map of an image as it is.

        Args:
            name: One of `names`.

        Returns:
            The ids in the PNG, and what they stand for.

        Raises:
            UserError: As for `read_panoptic_png`, but for ids that only PNG or only JSON have.
        """
        path = self.png_path(name)
        segments = self._annotations[name]["segments_info"]
        return SegmentMap(path, read_rgb_label(path), *_segment_table(path, segments, self._info, self._is_prediction))

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
    true, predicted = truth.load_segments(name), prediction.load_segments(name)
    _check_one_size(true.channels, predicted.channels, true.path, predicted.path)
    pairs = _count_segments(true.channels.reshape(-1, 3), predicted.channels.reshape(-1, 3))
    return sum_pairs(
        _translate(true, pairs.truth).astype(np.int64), _translate(predicted, pairs.prediction), pairs.pixels
    )


def read_panoptic_png(
    path: str | Path,
    segments_info: Sequence[Mapping[str, Any]],
    info: DatasetInfo,
    *,
    is_prediction: bool = False,
) -> np.ndarray:
    """Reads a PNG of segment ids (`R + 256 G + 65536 B`, 0 is void) into a label space.

    Instances of things count from 1 within each class, in the order of `segments_info`, and crowds have instance
    0 (several crowds of a class become one). A class of stuff has instance 0 too; if an image has several segments of
    one, the further ones count from 1, since the official evaluators score them apart.

    Args:
        path: An RGB PNG of 8 bits a channel.
        segments_info: Of each segment `id`, `category_id` and, in a truth, `iscrowd`.
        info: The label space, whose `original_id` are category ids.
        is_prediction: Whether it is a prediction, in which nothing is a crowd whatever `iscrowd` says.

    Returns:
        Panoptic ids, int32 [height, width].

    Raises:
        UserError: The PNG cannot be read or is of another kind; a segment is in the PNG alone or in the JSON alone, or
            is of an unknown category; there are more segments of a class than the label divisor holds.
    """
    path = Path(path)
    segments = SegmentMap(path, read_rgb_label(path), *_segment_table(path, segments_info, info, is_prediction))
    pixels = segments.channels.reshape(-1, 3)
    # Label maps are made of long runs: looking up runs instead of pixels costs next to nothing.
    starts = run_starts(pixels)
    lengths = np.diff(starts, append=len(pixels))
    values = _translate(segments, panoptic_from_channels(pixels[starts]))
    return np.repeat(values, lengths).reshape(segments.channels.shape[:2])


def _count_segments(truth: np.ndarray, prediction: np.ndarray) -> Overlaps:
    """Returns which ids meet in two maps, uint8 [pixels, 3]; what `count_overlaps` does, without making the ids."""
    starts = run_starts(truth, prediction)
    ids = (panoptic_from_channels(pixels[starts]).astype(np.int64) for pixels in (truth, prediction))
    return sum_pairs(*ids, np.diff(starts, append=len(truth)))


def _translate(segments: SegmentMap, found: np.ndarray) -> np.ndarray:
    """Returns the panoptic ids, int32, of all ids that are found in a PNG; raises UserError if JSON and PNG differ."""
    path, _, ids, values = segments
    position = np.searchsorted(ids, found).clip(max=len(ids) - 1)
    unknown = ids[position] != found
    if unknown.any():
        raise UserError(f"{path}: segment {found[unknown][0]} is in the PNG but not in the JSON")
    absent = np.ones(len(ids), bool)
    absent[position] = False
    absent[0] = False  # void need not be anywhere
    if absent.any():
        raise UserError(f"{path}: segment {ids[absent][0]} is in the JSON but not in the PNG")
    return values[position]


def _check_one_size(true: np.ndarray, predicted: np.ndarray, truth: Path, prediction: Path) -> None:
    if true.shape != predicted.shape:
        raise UserError(
            f"{prediction}: {predicted.shape[0]}x{predicted.shape[1]} pixels; expected "
            f"{true.shape[0]}x{true.shape[1]}, the size of {truth}"
        )


def _segment_table(
    path: Path, segments_info: Sequence[Mapping[str, Any]], info: DatasetInfo, is_prediction: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids in the PNG, ascending from void's 0, and the panoptic id of each."""
    class_ids = {c.original_id: class_id for class_id, c in enumerate(info.classes)}
    next_instance = [int(c.isthing) for c in info.classes]
    values = {0: info.void_id}
    for segment in segments_info:
        try:
            segment_id, category = segment["id"], segment["category_id"]
        except (KeyError, TypeError):
            raise UserError(
                f"{path}: a segment in the JSON is {segment!r}; expected the keys 'id' and 'category_id'"
            ) from None
        if type(segment_id) is not int or not 0 < segment_id <= MAX_PANOPTIC_ID:
            raise UserError(f"{path}: a segment in the JSON has id {segment_id!r}; expected 1..{MAX_PANOPTIC_ID}")
        if segment_id in values:
            raise UserError(f"{path}: two segments in the JSON have the id {segment_id}; expected one")
        class_id = class_ids.get(category) if isinstance(category, int) else None
        if class_id is None:
            raise UserError(
                f"{path}: segment {segment_id} has the category {category!r}; expected a category id of '{info.name}'"
            )
        instance = 0
        if is_prediction or not info.classes[class_id].isthing or not segment.get("iscrowd", 0):
            instance = next_instance[class_id]
            next_instance[class_id] += 1
        if instance > info.max_instances:
            raise UserError(
                f"{path}: more than {instance - 1} segments of '{info.class_names[class_id]}'; expected a label space "
                f"with a label_divisor above {info.label_divisor}"
            )
        values[segment_id] = class_id * info.label_divisor + instance
    ids = np.array(sorted(values), np.uint32)
    return ids, np.array([values[i] for i in ids.tolist()], np.int32)


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
