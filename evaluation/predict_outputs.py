"""The files that `deeplab2-lite predict` writes of images, or of the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.layer_pictures import HEAD_LAYERS, Seen, draw_layer
from deeplab2_lite.visualize import save_image


class Outputs:
    """The files of a run: those of each image, and the JSON over all of them.

    Attributes:
        paths: What is written, for the closing line.
    """

    def __init__(
        self,
        info: DatasetInfo,
        folder: Path,
        *,
        instances: str | None = None,
        pictures: Sequence[str] = (),
        legend: bool = True,
    ) -> None:
        """Makes the folders.

        Args:
            info: Label space of the results.
            folder: Where all goes.
            instances: Format of instance masks, "coco" or "cityscapes"; None writes none.
            pictures: What to draw, "overlay" or of `LAYERS`.
            legend: Whether pictures bear one.
        """
        from deeplab2_lite.evaluation.submission.coco_panoptic import CocoPanopticWriter
        from deeplab2_lite.evaluation.submission.instances import CityscapesInstanceWriter, CocoInstanceWriter

        self._info, self._legend = info, legend
        self._maps = folder / "panoptic"
        self._panoptic = CocoPanopticWriter(info, folder / "panoptic.json", self._maps)
        self._pictures = {name: picture_folder(folder, name) for name in pictures}
        for path in self._pictures.values():
            path.mkdir(parents=True, exist_ok=True)
        self.paths = [folder / "panoptic.json", self._maps, *self._pictures.values()]
        self._coco = self._cityscapes = None
        if instances == "coco":
            self.paths.append(folder / "instances.json")
            self._coco = CocoInstanceWriter(info, self.paths[-1])
        elif instances == "cityscapes":
            self.paths.append(folder / "instances")
            self._cityscapes = CityscapesInstanceWriter(info, self.paths[-1])

    def write(self, file_name: str, image: np.ndarray, observation: Any) -> dict[str, Any]:
        """Writes an image's own files.

        Args:
            file_name: Of the image.
            image: RGB, uint8 [height, width, 3].
            observation: Of the image, as `Predictor.observe` gives it.

        Returns:
            What `finish` takes of it, as JSON can hold it.
        """
        result, scores = observation.result, observation.instance_scores
        entry = {"panoptic": self._panoptic.write(file_name, result.panoptic)}
        if self._coco is not None:
            entry["instances"] = self._coco.write(file_name, result, scores)
        if self._cityscapes is not None:
            self._cityscapes.add(file_name, result, scores)
        seen = seen_of(image, observation)
        for name, folder in self._pictures.items():
            save_image(folder / f"{Path(file_name).stem}.png", draw_layer(name, seen, self._info, self._legend))
        return entry

    def have(self, file_name: str) -> bool:
        """Whether an image's own files are there."""
        stem = Path(file_name).stem
        files = [folder / f"{stem}.png" for folder in (self._maps, *self._pictures.values())]
        if self._cityscapes is not None:
            files.append(self._cityscapes.list_path(file_name))
        return all(file.is_file() for file in files)

    def finish(self, entries: Sequence[dict[str, Any]]) -> None:
        """Writes the JSON over all images, of which `write` gave the entries."""
        for entry in entries:
            self._panoptic.restore(entry["panoptic"])
            if self._coco is not None:
                self._coco.restore(entry["instances"])
        self._panoptic.finish()
        if self._coco is not None:
            self._coco.finish()


def picture_folder(folder: Path, name: str) -> Path:
    """Returns where pictures of a kind go: not among the PNGs and masks that are named alike."""
    return folder / name if name == "overlay" else folder / "layers" / name


def needs_heads(pictures: Sequence[str]) -> bool:
    """Whether what the heads say is to be kept for the pictures."""
    return any(name in (*HEAD_LAYERS, "sheet") for name in pictures)


def seen_of(image: np.ndarray, observation: Any, panoptic: np.ndarray | None = None) -> Seen:
    """Returns what the drawing takes.

    Args:
        image: RGB, uint8 [height, width, 3].
        observation: Of the image.
        panoptic: Map to draw in the place of the result's.

    Returns:
        It.
    """
    result, heads = observation.result, observation.heads
    maps = (None, None) if heads is None else (heads.center_heatmap, heads.center_offset)
    centers = result.instances.center[result.instances.valid]
    return Seen(image, result.panoptic if panoptic is None else panoptic, result.semantic, centers, *maps)
