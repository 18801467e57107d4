"""Drawn beads on a table, in the layouts of docs/custom-dataset.md."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 97, 129
FIRST = {"train": 1, "val": 101}


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int]]]:
    """Returns image, mask of ids from 1 and circles (y, x, radius) that do not touch."""
    draws = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([60 + rows // 4, 60 + columns // 8, np.full_like(rows, 70)], -1)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    circles: list[tuple[int, int, int]] = []
    for _ in range(int(draws.integers(3, 8))):
        radius = int(draws.integers(6, 13))
        y, x = int(draws.integers(radius, HEIGHT - radius)), int(draws.integers(radius, WIDTH - radius))
        if any(np.hypot(y - b, x - a) < radius + other + 3 for b, a, other in circles):
            continue
        circles.append((y, x, radius))
        inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        mask[inside] = len(circles)
        image[inside] = draws.integers((180, 120, 20), (255, 200, 80))
    image = image + draws.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), mask, circles


def scenes(counts: dict[str, int]) -> list[tuple[str, str, np.ndarray, np.ndarray, list[tuple[int, int, int]]]]:
    names = [(split, f"{FIRST[split] + i:04d}") for split, count in counts.items() for i in range(count)]
    return [(split, name, *draw(int(name))) for split, name in names]


def polygon(circle: tuple[int, int, int]) -> list[list[float]]:
    y, x, radius = circle
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return [[x + radius * np.cos(a), y + radius * np.sin(a)] for a in angles.tolist()]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_masks(folder: Path, counts: dict[str, int]) -> None:
    for split, name, image, mask, _ in scenes(counts):
        save(folder / "beads" / split / "images" / f"{name}.png", image)
        save(folder / "beads" / split / "masks" / f"{name}.png", mask)


def write_labelme(folder: Path, counts: dict[str, int]) -> None:
    for _, name, image, _, circles in scenes(counts):
        save(folder / "beads_labelme" / f"{name}.png", image)
        shapes = [
            {"label": "bead", "points": polygon(circle), "group_id": None, "shape_type": "polygon", "flags": {}}
            for circle in circles
        ]
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png", "imageData": None}
        content |= {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        (folder / "beads_labelme" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def write_coco(folder: Path, counts: dict[str, int]) -> None:
    for split in counts:
        images, annotations = [], []
        for _, name, image, mask, circles in scenes({split: counts[split]}):
            save(folder / "beads_coco" / split / f"{name}.png", image)
            images.append({"id": int(name), "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH})
            for i, circle in enumerate(circles):
                y, x, radius = circle
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": int(name),
                        "category_id": 1,
                        "iscrowd": 0,
                        "area": int((mask == i + 1).sum()),
                        "bbox": [x - radius, y - radius, 2 * radius, 2 * radius],
                        "segmentation": [np.ravel(polygon(circle)).tolist()],
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bead"}]}
        (folder / "beads_coco" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
