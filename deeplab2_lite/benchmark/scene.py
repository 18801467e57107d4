"""Heads of a drawn street scene: what post-processing is timed on where a network is not trained.

A random network gives few centres and no objects, on which post-processing would be done in no time.
"""

from __future__ import annotations

import math

import numpy as np

from deeplab2_lite.config import Size
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError

# All things together cover so much of the image: 10 to 20 % of it do in Cityscapes.
_THING_SHARE = 0.2
# Above the horizon nothing stands on the street; fractions of the height.
_HORIZON = 0.3
_BORDERS = (0.15, 0.3, 0.5, 0.6, 0.8)
# The paper's Gaussian, in pixels of the image.
_SIGMA = 8.0


def draw_heads(
    info: DatasetInfo,
    size: Size,
    image_size: Size,
    instances: int,
    nms_kernel: int,
    center_threshold: float,
    seed: int,
    stride: int = 4,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws the outputs of a good network for one image, in which post-processing finds so many instances.

    Bands of stuff lie one above the other, and from far to near stand ellipses of thing classes, larger
    the nearer, with noise on logits and offsets.

    Args:
        info: Label space.
        size: Height and width of the heads.
        image_size: Height and width of the image without padding, in pixels.
        instances: How many things stand there.
        nms_kernel: Centres lie so far apart in pixels, and a little more, that none hides another.
        center_threshold: That they exceed.
        seed: The same gives the same scene.
        stride: Of the heads.

    Returns:
        float32 logits [height, width, classes], heatmap [.., 1] and offsets [.., 2] in pixels of the heads.

    Raises:
        UserError: There is no room for so many, or the label space has no things.
    """
    if instances and not info.thing_ids:
        raise UserError(f"--instances: label space '{info.name}' has no things; expected 0, got {instances}")
    rng = np.random.default_rng(seed)
    inside = tuple((side - 1) // stride + 1 for side in image_size)
    # Beyond the window a peak still reaches over the pixels that it is interpolated with.
    spacing = math.ceil((nms_kernel + 8) / stride)
    centers = _place(rng, inside, instances, spacing)
    classes = rng.choice(info.thing_ids, instances) if instances else np.zeros(0, int)
    owner = _paint_things(rng, size, centers)

    semantic = _paint_stuff(rng, size, info.stuff_ids or info.thing_ids)
    semantic = np.where(owner > 0, np.append(0, classes)[owner], semantic)
    logits = rng.standard_normal((*size, info.num_classes), np.float32)
    np.put_along_axis(logits, semantic[..., None], 6 + np.take_along_axis(logits, semantic[..., None], 2), 2)

    position = np.stack(np.mgrid[: size[0], : size[1]], axis=-1)
    noise = 0.3 * rng.standard_normal((*size, 2), np.float32)
    # Each centre's own pixel points to it, so that no instance is without pixels.
    noise[centers[:, 0], centers[:, 1]] = 0
    target = np.concatenate([np.zeros((1, 2), int), centers])[owner]
    offset = np.where(owner[..., None] > 0, target - position, 0) + noise
    peaks = max(center_threshold, 0) + rng.uniform(0.3, 0.9, instances)
    return logits, _heatmap(size, centers, peaks, _SIGMA / stride)[..., None], offset.astype(np.float32)


def _place(rng: np.random.Generator, inside: Size, count: int, spacing: int) -> np.ndarray:
    """Positions (y, x), int [count, 2], far to near, no two of them nearer than `spacing` along both axes."""
    if count == 0:
        return np.zeros((0, 2), int)
    top = int(_HORIZON * inside[0])
    rows, columns = inside[0] - top, inside[1]
    # The widest grid that has a cell for each.
    side = next((s for s in range(min(rows, columns), 0, -1) if (rows // s) * (columns // s) >= count), 0)
    if side < spacing:
        most = (rows // spacing) * (columns // spacing)
        raise UserError(
            f"--instances: an image of this size has room for {most} centres of which none hides another "
            f"(postprocessing.nms_kernel); got {count}"
        )
    cells = rng.choice((rows // side) * (columns // side), count, replace=False)
    corners = np.stack([top + cells // (columns // side) * side, cells % (columns // side) * side], axis=-1)
    positions = corners + rng.integers(0, side - spacing + 1, (count, 2))
    return positions[np.argsort(positions[:, 0])]


def _paint_things(rng: np.random.Generator, size: Size, centers: np.ndarray) -> np.ndarray:
    """Paints 1 + the number of the thing that is seen, int [height, width]; 0 is none."""
    owner = np.zeros(size, int)
    for number, (y, x) in enumerate(centers, start=1):
        nearness = 0.4 + 1.2 * (y / size[0] - _HORIZON) / (1 - _HORIZON)
        area = _THING_SHARE * size[0] * size[1] / len(centers) * nearness
        # People are narrow, cars are wide.
        aspect = rng.choice([0.4, 1.6])
        half_width = max(1.0, math.sqrt(area / math.pi * aspect))
        half_height = max(1.0, half_width / aspect)
        rows = np.arange(max(0, int(y - half_height)), min(size[0], int(y + half_height) + 1))
        columns = np.arange(max(0, int(x - half_width)), min(size[1], int(x + half_width) + 1))
        inside = ((rows[:, None] - y) / half_height) ** 2 + ((columns - x) / half_width) ** 2 <= 1
        owner[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][inside] = number
    owner[centers[:, 0], centers[:, 1]] = np.arange(1, len(centers) + 1)
    return owner


def _paint_stuff(rng: np.random.Generator, size: Size, class_ids: tuple[int, ...]) -> np.ndarray:
    """Paints bands of classes with uneven borders, int [height, width]."""
    band = np.zeros(size, int)
    for border in _BORDERS:
        wander = np.cumsum(rng.normal(0, 0.004, size[1])) * size[0] + border * size[0]
        band += np.arange(size[0])[:, None] >= wander
    return np.array([class_ids[i % len(class_ids)] for i in range(len(_BORDERS) + 1)])[band]


def _heatmap(size: Size, centers: np.ndarray, peaks: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussians, of which each position takes that of the nearest centre, float32 [height, width]."""
    values = np.zeros(size, np.float32)
    least = np.full(size, np.inf)
    reach = math.ceil(4 * sigma)
    for (y, x), peak in zip(centers, peaks, strict=True):
        rows, columns = (slice(max(0, at - reach), at + reach + 1) for at in (y, x))
        at_y, at_x = np.ogrid[rows.start : min(rows.stop, size[0]), columns.start : min(columns.stop, size[1])]
        distance = (at_y - y) ** 2 + (at_x - x) ** 2
        nearer = distance < least[rows, columns]
        least[rows, columns][nearer] = distance[nearer]
        values[rows, columns][nearer] = (peak * np.exp(-distance / (2 * sigma**2)))[nearer]
    return values
