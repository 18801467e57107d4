"""A PNG of segment ids with its part of a JSON, as a map of a label space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeplab2_lite.data.images import read_rgb_label
from deeplab2_lite.data.record_format import panoptic_from_channels
from deeplab2_lite.dataset_info import MAX_PANOPTIC_ID, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.metrics.overlaps import Runs, run_starts


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
    runs = read_panoptic_runs(path, segments_info, info, is_prediction=is_prediction)
    return np.repeat(runs.ids.astype(np.int32), runs.lengths).reshape(runs.shape)


def read_panoptic_runs(
    path: str | Path,
    segments_info: Sequence[Mapping[str, Any]],
    info: DatasetInfo,
    *,
    is_prediction: bool = False,
) -> Runs:
    """Reads what `read_panoptic_png` reads, without making the map.

    Args:
        path: Of `read_panoptic_png`, as all arguments.
        segments_info: Likewise.
        info: Likewise.
        is_prediction: Likewise.

    Returns:
        Runs of panoptic ids; neighbours may have one id, where several crowds become one.

    Raises:
        UserError: As for `read_panoptic_png`.
    """
    path = Path(path)
    channels = read_rgb_label(path)
    height, width, _ = channels.shape
    pixels = channels.reshape(-1, 3)
    # Label maps are made of long runs: looking up runs instead of pixels costs next to nothing.
    starts = run_starts(pixels)
    found = panoptic_from_channels(pixels[starts])
    ids, panoptic_ids = _segment_table(path, segments_info, info, is_prediction)
    return Runs(starts, panoptic_ids[_positions(path, ids, found)], (height, width))


def _positions(path: Path, ids: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns where the ids found in a PNG are among those of its JSON; raises UserError if the two differ."""
    position = np.searchsorted(ids, found).clip(max=len(ids) - 1)
    unknown = ids[position] != found
    if unknown.any():
        raise UserError(f"{path}: segment {found[unknown][0]} is in the PNG but not in the JSON")
    absent = np.ones(len(ids), bool)
    absent[position] = False
    absent[0] = False  # void need not be anywhere
    if absent.any():
        raise UserError(f"{path}: segment {ids[absent][0]} is in the JSON but not in the PNG")
    return position


def _segment_table(
    path: Path, segments_info: Sequence[Mapping[str, Any]], info: DatasetInfo, is_prediction: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of the JSON, int32 ascending from void's 0, and the panoptic id of each, int64."""
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
    ids = np.array(sorted(values), np.int32)
    return ids, np.array([values[i] for i in ids.tolist()], np.int64)
