"""Scored instance masks out of a JSON of COCO results, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import read_json

_KEYS = ("image_id", "category_id", "segmentation", "score")


class InstanceMasks(NamedTuple):
    """The instances of an image.

    Attributes:
        ids: 1 + row of the instance at each pixel, or 0; int32 [height, width].
        class_id: Class of each row, int32 [rows].
        score: Confidence of each row, float64 [rows].
    """

    ids: np.ndarray
    class_id: np.ndarray
    score: np.ndarray


class InstanceResults:
    """The masks of a JSON, as `deeplab2-lite predict --instances=coco` writes it. They must not overlap.

    Attributes:
        path: The JSON.
    """

    def __init__(self, path: str | Path, info: DatasetInfo, names: Sequence[str], *, allow_extra: bool = False) -> None:
        """Reads the JSON; decodes no mask.

        Args:
            path: A list of objects with `image_id`, `category_id`, `segmentation` (run lengths) and `score`.
            info: The label space, whose `original_id` are category ids.
            names: Ids of the images that are evaluated, as text. One without results has no instance.
            allow_extra: Leave out results of other images.

        Raises:
            UserError: The JSON cannot be read, or a result is of an unknown image or category, or of stuff.
        """
        self.path = Path(path)
        class_ids = {c.original_id: class_id for class_id, c in enumerate(info.classes) if c.isthing}
        known = set(names)
        self._results: dict[str, list[tuple[int, Any, float]]] = {}
        for position, result in enumerate(_read(self.path)):
            where = f"{self.path}: result {position}"
            if not isinstance(result, dict) or any(key not in result for key in _KEYS):
                raise UserError(f"{where}: expected an object with {', '.join(_KEYS)}")
            name, category, segmentation, score = (result[key] for key in _KEYS)
            if str(name) not in known:
                if allow_extra:
                    continue
                raise UserError(f"{where}: is of image '{name}', which has no truth")
            if category not in class_ids:
                raise UserError(f"{where}: category_id {category!r}; expected that of a thing of '{info.name}'")
            if not isinstance(score, int | float):
                raise UserError(f"{where}: score: expected a number, got {score!r}")
            if not isinstance(segmentation, dict) or "counts" not in segmentation:
                raise UserError(f"{where}: segmentation: expected run lengths, 'size' and 'counts'")
            self._results.setdefault(str(name), []).append((class_ids[category], segmentation, float(score)))

    def load(self, name: str, size: tuple[int, int]) -> InstanceMasks:
        """Decodes the masks of an image.

        Args:
            name: Id of the image.
            size: Height and width of its truth.

        Returns:
            Its instances, in the order of the JSON.

        Raises:
            UserError: A mask is damaged or of another size, or two overlap.
        """
        # A compiled package, which only those need who read masks.
        from pycocotools import mask as mask_utils

        results = self._results.get(name, [])
        ids = np.zeros(size, np.int32)
        for row, (_, segmentation, _) in enumerate(results):
            where = f"{self.path}: image '{name}', mask {row}"
            try:
                if isinstance(segmentation["counts"], list):
                    segmentation = mask_utils.frPyObjects(segmentation, *segmentation["size"])
                mask = mask_utils.decode(segmentation).astype(bool)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{where}: damaged run lengths ({' '.join(str(error).split())})") from None
            if mask.shape != size:
                raise UserError(f"{where}: {mask.shape[0]}x{mask.shape[1]} pixels; expected {size[0]}x{size[1]}")
            if ids[mask].any():
                raise UserError(
                    f"{where}: overlaps mask {ids[mask].max() - 1}; expected the disjoint masks of a panoptic map"
                )
            ids[mask] = row + 1
        return InstanceMasks(
            ids,
            np.array([class_id for class_id, _, _ in results], np.int32),
            np.array([score for _, _, score in results], np.float64),
        )


def _read(path: Path) -> list[Any]:
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list of COCO results")
    return content
