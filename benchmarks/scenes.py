"""Head outputs as a trained network gives them for a street: stuff in bands, things in front, noise on all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.postprocessing import Heads, Upsampling

NUM_CLASSES = 19
THING_IDS = tuple(range(11, 19))
SETTINGS = {"thing_ids": THING_IDS, "label_divisor": 1000, "ignore_label": 255, "stuff_area_limit": 2048}
_STRIDE = 4


class Scene(NamedTuple):
    """Heads at stride 4 and at full resolution, and how the one becomes the other."""

    coarse: Heads
    full: Heads
    upsampling: Upsampling


def draw_scene(height: int, width: int, centers: int, batch: int, seed: int = 0) -> Scene:
    """Draws a batch of images of 4k + 1 pixels a side with so many instances each; things cover half at most."""
    random = np.random.default_rng(seed)
    size = ((height - 1) // _STRIDE + 1, (width - 1) // _STRIDE + 1)
    images = [_draw_image(random, *size, centers) for _ in range(batch)]
    coarse = Heads(*(tf.constant(np.stack(head), tf.float32) for head in zip(*images, strict=True)))
    upsampling = Upsampling(height, width, height, width)
    return Scene(coarse, upsampling.apply(coarse), upsampling)


def _draw_image(random: np.random.Generator, height: int, width: int, centers: int) -> tuple[np.ndarray, ...]:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    semantic = (y * THING_IDS[0] / height).astype(int)
    heatmap, offset = np.zeros((height, width)), np.zeros((height, width, 2))
    # One instance a cell of a jittered grid, so that all of them are found; the heights are all different.
    columns = max(1, round((centers * width / height) ** 0.5))
    rows = -(-centers // columns)
    for i in range(centers):
        row, column = divmod(i, columns)
        center = (
            (row + random.uniform(0.3, 0.7)) * height / rows,
            (column + random.uniform(0.3, 0.7)) * width / columns,
        )
        radii = random.uniform(0.25, 0.45, 2) * (min(height / rows, 60), min(width / columns, 40))
        distance = ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2
        semantic[distance < 1] = THING_IDS[i % len(THING_IDS)]
        offset[distance < 1] = np.stack([center[0] - y, center[1] - x], -1)[distance < 1]
        peak = random.uniform(0.4, 1) * np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / 8)
        heatmap = np.maximum(heatmap, peak)
    logits = random.normal(size=(height, width, NUM_CLASSES)) + 8 * np.eye(NUM_CLASSES)[semantic]
    return logits, heatmap[..., np.newaxis], offset + random.normal(size=offset.shape) * 0.5
