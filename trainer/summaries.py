"""TensorBoard pictures of what the network says while it learns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.trainer.evaluator import PanopticEvaluator, Snapshot
from deeplab2_lite.visualize import colorize_heatmap, colorize_offsets, overlay_panoptic, side_by_side

_IMAGES = 3


class ImageSummaries:
    """An orbit action that writes prediction beside truth, heatmap and offsets every so many steps."""

    def __init__(
        self, evaluator: PanopticEvaluator, info: DatasetInfo, global_step: tf.Variable, interval: int, folder: Path
    ) -> None:
        """Opens the event file.

        Args:
            evaluator: Gives the images.
            info: The label space.
            global_step: Current step.
            interval: In steps.
            folder: Of the event file.
        """
        self._evaluator = evaluator
        self._info = info
        self._global_step = global_step
        self._interval = interval
        self._writer = tf.summary.create_file_writer(str(folder), filename_suffix=".images")

    def __call__(self, outputs: Mapping[str, float]) -> None:
        """Writes pictures if the step is a multiple of the interval."""
        step = int(self._global_step.numpy())
        if step % self._interval:
            return
        with self._writer.as_default(step=step):
            for i, snapshot in enumerate(self._evaluator.snapshots(_IMAGES)):
                for tag, picture in draw(snapshot, self._info).items():
                    tf.summary.image(f"{tag}/{i}", picture[None])
        self._writer.flush()


def draw(snapshot: Snapshot, info: DatasetInfo) -> dict[str, np.ndarray]:
    """Draws what a network says of an image.

    Args:
        snapshot: Image, label and outputs.
        info: The label space.

    Returns:
        uint8 RGB pictures by tag.
    """
    inference = snapshot.inference
    result, center_offset = inference.result, inference.center_offset
    panels = [
        snapshot.image,
        overlay_panoptic(snapshot.image, result.panoptic, info),
        overlay_panoptic(snapshot.image, snapshot.truth, info),
    ]
    # Offsets of stuff are never used and never trained; they would hide those that are.
    is_thing = np.isin(result.semantic, info.thing_ids)
    if is_thing.shape != center_offset.shape[:2]:
        is_thing = np.ones(center_offset.shape[:2], bool)
    return {
        "prediction_and_truth": side_by_side(panels, ["image", "prediction", "truth"]),
        "center_heatmap": colorize_heatmap(inference.center_heatmap[..., 0]),
        "center_offset": colorize_offsets(center_offset * is_thing[..., None]),
    }
