"""Targets as paper section 3.1 tells them, in plain loops over instances and pixels; and label maps to try them on."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np

from deeplab2_lite.config import TargetConfig
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.panoptic_losses import Targets

HEIGHT, WIDTH = 64, 80
CLASSES = (
    ClassInfo("road", False, (1, 1, 1), 0),
    ClassInfo("car", True, (2, 2, 2), 1),
    ClassInfo("sky", False, (3, 3, 3), 2),
    ClassInfo("person", True, (4, 4, 4), 3),
)
INFO = DatasetInfo("test", CLASSES, ignore_label=255, label_divisor=1000)
CONFIG = TargetConfig(center_sigma=2.0, small_instance_area=60, small_instance_weight=3.0)
ROAD, CAR, PERSON, VOID = 0, 1000, 3000, 255000


def slow_targets(panoptic: np.ndarray, info: DatasetInfo, config: TargetConfig) -> Targets:
    height, width = panoptic.shape
    semantic = panoptic // info.label_divisor
    semantic_weight = np.where(semantic == info.ignore_label, 0, 1).astype(np.float32)
    center_weight = np.where(semantic == info.ignore_label, 0, 1).astype(np.float32)
    heatmap = np.zeros((height, width), np.float32)
    offset = np.zeros((height, width, 2), np.float32)
    offset_weight = np.zeros((height, width), np.float32)
    radius = int(3 * config.center_sigma) + 1
    for identifier in np.unique(panoptic):
        class_id, instance = divmod(int(identifier), info.label_divisor)
        if class_id not in info.thing_ids:
            continue
        ys, xs = np.nonzero(panoptic == identifier)
        if instance == 0:
            center_weight[ys, xs] = 0
            continue
        center_y, center_x = ys.mean(), xs.mean()
        if len(ys) < config.small_instance_area:
            semantic_weight[ys, xs] = config.small_instance_weight
        offset[ys, xs, 0], offset[ys, xs, 1] = center_y - ys, center_x - xs
        offset_weight[ys, xs] = 1
        row, column = int(np.floor(center_y + 0.5)), int(np.floor(center_x + 0.5))
        for y in range(max(0, row - radius), min(height, row + radius + 1)):
            for x in range(max(0, column - radius), min(width, column + radius + 1)):
                squared = (y - row) ** 2 + (x - column) ** 2
                heatmap[y, x] = max(heatmap[y, x], np.exp(-squared / (2 * config.center_sigma**2)))
    return Targets(semantic, semantic_weight, heatmap, center_weight, offset, offset_weight)


def assert_equal_targets(actual: Targets, expected: Targets, rtol: float = 2e-7, atol: float = 1e-7) -> None:
    """Integers and weights have to be equal, heatmap and offset within the tolerance."""
    for name in Targets._fields:
        got, wanted = np.asarray(getattr(actual, name)), np.asarray(getattr(expected, name))
        assert got.dtype == wanted.dtype and got.shape == wanted.shape, name
        if name in ("center_heatmap", "center_offset"):
            np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(got, wanted, err_msg=name)


@st.composite
def label_maps(draw):
    """Boxes and frames of any id over each other.

    So visible parts have any shape, some many parts or a single pixel, some are cut off at the border, and the
    centre of some lies outside them.
    """
    panoptic = np.full((HEIGHT, WIDTH), draw(st.sampled_from([ROAD, VOID, CAR, CAR + 1])), np.int32)
    for _ in range(draw(st.integers(0, 12))):
        top, left = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
        height, width = draw(st.integers(1, 25)), draw(st.integers(1, 25))
        class_id, instance = draw(st.sampled_from([0, 1, 2, 3, 255])), draw(st.integers(0, 3))
        box = panoptic[top : top + height, left : left + width]
        inside = box[2:-2, 2:-2].copy()
        box[:] = class_id * 1000 + instance * (class_id in (1, 3))
        if draw(st.booleans()):
            box[2:-2, 2:-2] = inside
    return panoptic


def noise(seed: int, instances: int) -> np.ndarray:
    """Ids of both thing classes from 0 to `instances` - 1, stuff and void, scattered over single pixels."""
    generator = np.random.default_rng(seed)
    class_id = generator.choice([0, 1, 2, 3, 255], (HEIGHT, WIDTH))
    instance = generator.integers(0, instances, (HEIGHT, WIDTH)) * np.isin(class_id, INFO.thing_ids)
    return (class_id * 1000 + instance).astype(np.int32)


def crowded(seed: int) -> tuple[np.ndarray, DatasetInfo]:
    """1280 instances of one class, 2x2 px each less what void covers, and a label space that holds them."""
    rows, columns = np.indices((HEIGHT, WIDTH)) // 2
    info = DatasetInfo("crowded", CLASSES, ignore_label=255, label_divisor=2048)
    panoptic = 2048 + 1 + rows * (WIDTH // 2) + columns
    hidden = np.random.default_rng(seed).random(panoptic.shape) < 0.2
    return np.where(hidden, info.void_id, panoptic).astype(np.int32), info
