"""Pictures of evaluated images, as files of full size."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.html.error_picture import draw_errors
from deeplab2_lite.evaluation.html.pictures import Sample
from deeplab2_lite.evaluation.html.segment_errors import class_errors, segment_errors
from deeplab2_lite.visualize import overlay_panoptic, save_image, side_by_side


def clear_pictures(folder: Path) -> None:
    """Removes the pictures of an earlier evaluation from a folder, and nothing else."""
    for path in folder.glob("*.png"):
        if re.match(r"\d{4}_", path.name):
            path.unlink()


def write_picture(folder: Path, rank: int, sample: Sample, info: DatasetInfo, has_instances: bool) -> Path:
    """Draws image, truth, prediction and errors side by side.

    Args:
        folder: An existing folder.
        rank: Place of the image among the worst, from 1 on; the name of the file begins with it.
        sample: The image.
        info: The label space.
        has_instances: Whether the prediction is panoptic; else its classes alone are compared.

    Returns:
        The path of the picture.
    """
    ground, alpha = sample.image, 0.55
    if ground is None:
        ground, alpha = np.full((*sample.truth.shape, 3), 127, np.uint8), 0.85
    find = segment_errors if has_instances else class_errors
    panels = {} if sample.image is None else {"image": sample.image}
    panels["prediction"] = overlay_panoptic(ground, sample.prediction, info, alpha=alpha)
    panels["truth"] = overlay_panoptic(ground, sample.truth, info, alpha=alpha)
    panels["errors"] = draw_errors(find(sample.truth, sample.prediction, info).pixels, sample.image)
    picture = side_by_side(list(panels.values()), list(panels), columns=2 if len(panels) == 4 else None)
    stem = re.sub(r"[^\w.-]", "_", Path(sample.name).stem)
    return save_image(folder / f"{rank:04d}_{stem}.png", picture)
