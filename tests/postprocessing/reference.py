"""Post-processing as the paper tells it, in plain loops over pixels: slow, and easy to believe."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Row:
    class_id: int
    panoptic_id: int
    center: tuple[int, int]
    center_score: float
    area: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Segmented:
    """One image: maps [height, width], and the valid rows of its table by their position."""

    panoptic: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    rows: dict[int, Row] = field(default_factory=dict)


def segment_image(
    logits: np.ndarray,
    heatmap: np.ndarray,
    offset: np.ndarray,
    *,
    thing_ids: tuple[int, ...],
    label_divisor: int,
    ignore_label: int,
    stuff_area_limit: int,
    center_threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int = 200,
) -> Segmented:
    """Segments one image: logits [h, w, c], heatmap [h, w, 1], offset [h, w, 2], all float32."""
    height, width, _ = logits.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    semantic = np.zeros((height, width), np.int32)
    for pixel in pixels:
        scores = [-np.inf if np.isnan(v) else v for v in logits[pixel]]
        semantic[pixel] = scores.index(max(scores))

    centers = find_centers(heatmap[..., 0], center_threshold, nms_kernel)[:top_k]
    nearest = np.zeros((height, width), np.int32)
    for pixel in pixels:
        if semantic[pixel] in thing_ids and np.isfinite(offset[pixel]).all() and centers:
            nearest[pixel] = 1 + nearest_center(pixel, offset[pixel], centers)

    void = ignore_label * label_divisor
    panoptic = np.full((height, width), void, np.int32)
    for class_id in set(semantic.flat) - set(thing_ids):
        mask = semantic == class_id
        if mask.sum() >= stuff_area_limit:
            panoptic[mask] = class_id * label_divisor

    instance = np.zeros((height, width), np.int32)
    rows, used = {}, Counter()
    for i, center in enumerate(centers):
        members = [pixel for pixel in pixels if nearest[pixel] == i + 1]
        if not members:
            continue
        votes = Counter(int(semantic[pixel]) for pixel in members)
        class_id = min(votes, key=lambda c: (-votes[c], c))
        used[class_id] += 1
        if used[class_id] >= label_divisor:
            continue
        panoptic_id = class_id * label_divisor + used[class_id]
        for pixel in members:
            panoptic[pixel] = panoptic_id
            instance[pixel] = i + 1
        ys, xs = zip(*members, strict=True)
        box = (min(ys), min(xs), max(ys) + 1, max(xs) + 1)
        score = float(heatmap[center][0])
        rows[i] = Row(class_id, panoptic_id, center, score, len(members), box)
    return Segmented(panoptic, semantic, instance, rows)


def find_centers(heatmap: np.ndarray, threshold: float, kernel: int) -> list[tuple[int, int]]:
    """All peaks of [h, w], best first, ties in scan order."""
    height, width = heatmap.shape
    reach = kernel // 2
    peaks = []
    for y in range(height):
        for x in range(width):
            window = heatmap[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            value = heatmap[y, x]
            if np.isfinite(value) and value > np.float32(threshold) and value == window[np.isfinite(window)].max():
                peaks.append((y, x))
    return sorted(peaks, key=lambda peak: -heatmap[peak])


def nearest_center(pixel: tuple[int, int], offset: np.ndarray, centers: list[tuple[int, int]]) -> int:
    """Index of the first of the nearest centres to pixel + offset, in float32."""
    with np.errstate(over="ignore"):
        y, x = (np.float32(p) + o for p, o in zip(pixel, offset, strict=True))
        distances = [(y - np.float32(cy)) ** 2 + (x - np.float32(cx)) ** 2 for cy, cx in centers]
    return distances.index(min(distances))


def score_image(image: Segmented, probabilities: np.ndarray, top_k: int) -> np.ndarray:
    """Centre score times mean probability [h, w, c] of the class over the mask, float64 [top_k]."""
    scores = np.zeros(top_k)
    for i, row in image.rows.items():
        values = probabilities[image.instance == i + 1][:, row.class_id].astype(np.float64)
        scores[i] = row.center_score * np.where(np.isfinite(values), values, 0).mean()
    return scores
