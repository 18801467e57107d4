"""Head outputs as a trained network gives them for a street."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.benchmark.scene import draw_heads
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.postprocessing import Heads, Upsampling

INFO = load_dataset_info("cityscapes")
SETTINGS = {
    "thing_ids": INFO.thing_ids,
    "label_divisor": INFO.label_divisor,
    "ignore_label": INFO.ignore_label,
    "stuff_area_limit": INFO.stuff_area_limit,
}


class Scene(NamedTuple):
    """Heads at stride 4, and how they come to full resolution."""

    heads: Heads
    upsampling: Upsampling


def draw_scene(height: int, width: int, centers: int, batch: int) -> Scene:
    """Draws a batch of images of 4k + 1 pixels a side with so many instances each."""
    size = ((height - 1) // 4 + 1, (width - 1) // 4 + 1)
    images = [draw_heads(INFO, size, (height, width), centers, 7, 0.1, seed) for seed in range(batch)]
    heads = Heads(*(tf.constant(np.stack(head), tf.float32) for head in zip(*images, strict=True)))
    return Scene(heads, Upsampling(height, width, height, width))
