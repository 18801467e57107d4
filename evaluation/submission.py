"""Panoptic maps as files that other tools read: PNG and JSON in the COCO panoptic format."""

from __future__ import annotations

import json
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
        """Writes one map.

        Args:
            file_name: Of the image; the PNG bears its stem.
            panoptic: Panoptic ids, int32 [height, width].
            image_id: Of the data set; None takes the stem.
        """
        stem = Path(file_name).stem
        image_id = stem if image_id is None else image_id
        height, width = panoptic.shape
        # In this format 0 is void, and class 0 without instance would be 0 too: count from 1.
        ids = np.where(panoptic // self._info.label_divisor == self._info.ignore_label, 0, panoptic + 1)
        save_image(
            self._png_dir / f"{stem}.png", np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        )
        self._images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        self._annotations.append(
            {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": self._segments(ids)}
        )

    def finish(self) -> Path:
        """Writes the JSON, whole or not at all, and returns its path."""
        categories = [
            {"id": c.original_id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)}
            for c in self._info.classes
        ]
        content = {"images": self._images, "annotations": self._annotations, "categories": categories}
        return write_text_atomically(self._json_path, json.dumps(content))

    def _segments(self, ids: np.ndarray) -> list[dict[str, Any]]:
        segments = []
        found, inverse, areas = np.unique(ids, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(ids.shape)
        for position, (segment_id, area) in enumerate(zip(found, areas, strict=True)):
            if segment_id == 0:
                continue
            rows, columns = np.nonzero(inverse == position)
            top, left = int(rows.min()), int(columns.min())
            box = [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
            class_id = (int(segment_id) - 1) // self._info.label_divisor
            segments.append(
                {
                    "id": int(segment_id),
                    "category_id": self._info.classes[class_id].original_id,
                    "area": int(area),
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
        return segments
