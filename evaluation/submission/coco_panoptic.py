"""Panoptic maps as files that other tools read: PNG and JSON in the COCO panoptic format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.files import write_text_atomically
from deeplab2_lite.visualize import save_image


class CocoPanopticWriter:
    """Writes maps as `NAME.png` into a folder, and one JSON beside it that describes their segments."""

    def __init__(self, info: DatasetInfo, json_path: str | Path, png_dir: str | Path) -> None:
        """Makes the folder.

        Args:
            info: Label space of the maps; its original ids become the category ids.
            json_path: Written by `finish`.
            png_dir: Where the PNGs go.
        """
        self._info = info
        self._json_path = Path(json_path)
        self._png_dir = Path(png_dir)
        self._png_dir.mkdir(parents=True, exist_ok=True)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, file_name: str, panoptic: np.ndarray, image_id: int | str | None = None) -> None:
        """Adds one map, and writes its PNG.

        Args:
            file_name: Of the image; the PNG bears its stem.
            panoptic: Panoptic ids, int32 [height, width].
            image_id: Of the data set; None takes that of `coco_image_id`.
        """
        self.restore(self.write(file_name, panoptic, image_id))

    def write(self, file_name: str, panoptic: np.ndarray, image_id: int | str | None = None) -> dict[str, Any]:
        """Writes the PNG of one map, without adding the map to what `finish` writes.

        Args:
            file_name: As for `add`.
            panoptic: Likewise.
            image_id: Likewise.

        Returns:
            What the JSON says of the image, for `restore` here or in a later process; JSON can hold it.
        """
        stem = Path(file_name).stem
        image_id = coco_image_id(file_name) if image_id is None else image_id
        height, width = panoptic.shape
        ids = coco_segment_ids(panoptic, self._info)
        segments = coco_segments(ids, self._info)
        save_image(self._png_dir / f"{stem}.png", coco_channels(ids))
        return {
            "image": {"id": image_id, "file_name": file_name, "height": height, "width": width},
            "annotation": {
                "image_id": image_id,
                "file_name": f"{stem}.png",
                "segments_info": segments,
            },
        }

    def restore(self, entry: dict[str, Any]) -> None:
        """Adds a map whose PNG is written.

        Args:
            entry: What `write` gave.
        """
        self._images.append(entry["image"])
        self._annotations.append(entry["annotation"])

    def finish(self) -> Path:
        """Writes the JSON, whole or not at all, and returns its path."""
        categories = coco_categories(self._info)
        content = {"images": self._images, "annotations": self._annotations, "categories": categories}
        return write_text_atomically(self._json_path, json.dumps(content))


def coco_segment_ids(panoptic: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Returns the ids of a map's segments as the format has them: 0 is void.

    Args:
        panoptic: Panoptic ids, int32 [height, width].
        info: The label space.

    Returns:
        Panoptic id + 1, since class 0 without instance would be 0 too.
    """
    return np.where(panoptic // info.label_divisor == info.ignore_label, 0, panoptic + 1)


def coco_channels(ids: np.ndarray) -> np.ndarray:
    """Returns the picture that holds ids, uint8 [height, width, 3]: R + 256 G + 65536 B."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def coco_categories(info: DatasetInfo) -> list[dict[str, Any]]:
    """Returns the classes of a label space as the format's categories."""
    return [
        {"id": c.original_id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)} for c in info.classes
    ]


def coco_segments(ids: np.ndarray, info: DatasetInfo) -> list[dict[str, Any]]:
    """Describes the segments of an image.

    Args:
        ids: Of `coco_segment_ids`.
        info: The label space.

    Returns:
        The format's `segments_info`, by id.
    """
    found, inverse, areas = np.unique(ids, return_inverse=True, return_counts=True)
    # Pixels in the order of their segments, so that each segment is one stretch: no pass over the map for each.
    rows, columns = np.divmod(np.argsort(inverse.ravel(), kind="stable"), ids.shape[1])
    begins = np.cumsum(areas) - areas
    top, left = (np.minimum.reduceat(positions, begins) for positions in (rows, columns))
    bottom, right = (np.maximum.reduceat(positions, begins) for positions in (rows, columns))
    boxes = np.stack([left, top, right - left + 1, bottom - top + 1], axis=1)
    segments = []
    for segment_id, area, box in zip(found.tolist(), areas.tolist(), boxes.tolist(), strict=True):
        if segment_id == 0:
            continue
        class_id, instance = divmod(segment_id - 1, info.label_divisor)
        described = info.classes[class_id]
        segments.append(
            {
                "id": segment_id,
                "category_id": described.original_id,
                "area": area,
                "bbox": box,
                # Things without a number are a crowd; a network predicts none, but a label has them.
                "iscrowd": int(described.isthing and instance == 0),
            }
        )
    return segments


def coco_image_id(file_name: str) -> int | str:
    """Returns the id of an image that is known by its name alone.

    Args:
        file_name: Of the image.

    Returns:
        COCO's integer id for names as COCO's own (12 digits), else the stem, without the ending by which
        Cityscapes tells its images from its labels: its official annotations do without it.
    """
    stem = Path(file_name).stem.removesuffix("_leftImg8bit")
    return int(stem) if re.fullmatch("[0-9]{12}", stem) else stem
