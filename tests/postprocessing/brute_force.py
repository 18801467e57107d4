"""Post-processing by brute force over whole arrays: the definition with a distance for each centre and pixel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

TABLE = ("valid", "class_id", "panoptic_id", "center", "center_score", "area", "box")


class Expected(NamedTuple):
    panoptic: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    table: dict[str, np.ndarray]


def segment(
    logits: np.ndarray,
    heatmap: np.ndarray,
    offset: np.ndarray,
    *,
    thing_ids: tuple[int, ...],
    label_divisor: int,
    ignore_label: int,
    stuff_area_limit: int,
    center_threshold: float,
    nms_kernel: int,
    top_k: int,
) -> Expected:
    """Segments one image: logits [h, w, c], heatmap [h, w, 1], offset [h, w, 2], all float32."""
    height, width, num_classes = logits.shape
    # NumPy promises the first of equals.
    semantic = np.where(np.isnan(logits), -np.inf, logits).argmax(-1).astype(np.int32)
    centers = peaks(heatmap[..., 0], center_threshold, nms_kernel)[:top_k]

    is_thing = np.isin(semantic, thing_ids)
    instance = np.zeros((height, width), np.int32)
    if len(centers):
        with np.errstate(over="ignore", invalid="ignore"):
            target = offset + np.stack(np.mgrid[:height, :width], -1).astype(np.float32)
            distance = ((target[:, :, None] - centers.astype(np.float32)) ** 2).sum(-1)
        instance = np.where(is_thing & np.isfinite(offset).all(-1), 1 + distance.argmin(-1), 0).astype(np.int32)

    void = ignore_label * label_divisor
    panoptic = np.full((height, width), void, np.int32)
    for class_id in set(range(num_classes)) - set(thing_ids):
        if (semantic == class_id).sum() >= stuff_area_limit:
            panoptic[semantic == class_id] = class_id * label_divisor

    fill = {"class_id": -1, "panoptic_id": -1}
    shapes = {"center": (top_k, 2), "box": (top_k, 4)}
    table = {name: np.full(shapes.get(name, top_k), fill.get(name, 0), np.float64) for name in TABLE}
    used = np.zeros(num_classes, int)
    for row, center in enumerate(centers):
        mask = instance == row + 1
        if not mask.any():
            continue
        class_id = np.bincount(semantic[mask], minlength=num_classes).argmax()
        used[class_id] += 1
        if used[class_id] >= label_divisor:
            instance[mask] = 0
            continue
        panoptic_id = class_id * label_divisor + used[class_id]
        panoptic[mask] = panoptic_id
        ys, xs = np.nonzero(mask)
        box = (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)
        values = (True, class_id, panoptic_id, center, heatmap[tuple(center)][0], mask.sum(), box)
        for name, value in zip(TABLE, values, strict=True):
            table[name][row] = value
    return Expected(panoptic, semantic, instance, table)


def peaks(heatmap: np.ndarray, threshold: float, kernel: int) -> np.ndarray:
    """All peaks (y, x) of [h, w], best first, ties in scan order, [number, 2]."""
    finite = np.where(np.isfinite(heatmap), heatmap, -np.inf)
    padded = np.pad(finite, kernel // 2, constant_values=-np.inf)
    window = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel)).max((-2, -1))
    found = np.argwhere(np.isfinite(heatmap) & (finite > np.float32(threshold)) & (finite == window))
    return found[np.argsort(-finite[tuple(found.T)], kind="stable")]


def stack(images: list[Expected]) -> dict[str, Any]:
    """The images of a batch, by the names that `result_tensors` uses."""
    maps = {
        f"{name}_pred": np.stack([getattr(i, name) for i in images]) for name in ("panoptic", "semantic", "instance")
    }
    return {**maps, **{f"instance_{name}": np.stack([i.table[name] for i in images]) for name in TABLE}}
