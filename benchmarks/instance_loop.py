"""Training targets as they are usually made: passes over the whole label for each instance, in NumPy."""

from __future__ import annotations

import numpy as np

from deeplab2_lite.config import TargetConfig
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.panoptic_losses import Targets


def targets_by_loop(panoptic: np.ndarray, info: DatasetInfo, config: TargetConfig) -> Targets:
    """The targets of a label, int32 [height, width]."""
    height, width = panoptic.shape
    is_thing_class = np.zeros(info.ignore_label + 1, bool)
    is_thing_class[list(info.thing_ids)] = True
    semantic = panoptic // info.label_divisor
    labelled = semantic != info.ignore_label
    semantic_weight = labelled.astype(np.float32)
    center_weight = labelled.astype(np.float32)
    heatmap = np.zeros((height, width), np.float32)
    offset = np.zeros((height, width, 2), np.float32)
    offset_weight = np.zeros((height, width), np.float32)
    center_weight[is_thing_class[semantic] & (panoptic % info.label_divisor == 0)] = 0

    radius = int(3 * config.center_sigma) + 1
    reach = np.arange(-radius, radius + 1)
    gaussian = np.exp(-(reach[:, np.newaxis] ** 2 + reach**2) / (2 * config.center_sigma**2)).astype(np.float32)
    for identifier in np.unique(panoptic):
        if not is_thing_class[identifier // info.label_divisor] or identifier % info.label_divisor == 0:
            continue
        pixels = np.nonzero(panoptic == identifier)
        center_y, center_x = pixels[0].mean(), pixels[1].mean()
        if len(pixels[0]) < config.small_instance_area:
            semantic_weight[pixels] = config.small_instance_weight
        offset_weight[pixels] = 1
        offset[(*pixels, 0)] = center_y - pixels[0]
        offset[(*pixels, 1)] = center_x - pixels[1]
        top, left = int(center_y + 0.5) - radius, int(center_x + 0.5) - radius
        window = heatmap[max(top, 0) : top + 2 * radius + 1, max(left, 0) : left + 2 * radius + 1]
        inside = gaussian[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
        np.maximum(window, inside, out=window)
    return Targets(semantic, semantic_weight, heatmap, center_weight, offset, offset_weight)
