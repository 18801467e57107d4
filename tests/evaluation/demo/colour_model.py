"""A model that sees what colour a pixel has, and a server that shows it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.evaluation.demo.answers import Demo, Limits
from deeplab2_lite.evaluation.demo.server import DemoServer

INFO = load_dataset_info("shapes")
VEGETATION, SKY, CAR = 3, 4, 6
SCORES = {CAR * 1000 + 1: 0.875, CAR * 1000 + 2: 0.25}


class Table(NamedTuple):
    """As `InstanceTable`, without TensorFlow."""

    valid: np.ndarray
    panoptic_id: np.ndarray
    center: np.ndarray


class Result(NamedTuple):
    """As `PanopticResult`."""

    panoptic: np.ndarray
    semantic: np.ndarray
    instances: Table


class Heads(NamedTuple):
    """As `HeadMaps`."""

    center_heatmap: np.ndarray
    center_offset: np.ndarray
    semantic_probability: np.ndarray


class Seen(NamedTuple):
    """As `Observation`."""

    result: Result
    instance_scores: np.ndarray
    heads: Heads | None


def panoptic_of(image: np.ndarray) -> np.ndarray:
    """Red is car 1, blue car 2, green vegetation, black void, all else sky."""
    red, green, blue = (image[..., channel] > 127 for channel in range(3))
    cases = [red & ~green & ~blue, blue & ~green & ~red, green & ~red & ~blue, ~red & ~green & ~blue]
    values = [CAR * 1000 + 1, CAR * 1000 + 2, VEGETATION * 1000, INFO.void_id]
    return np.select(cases, values, SKY * 1000).astype(np.int32)


def segment(image: np.ndarray, with_heads: bool = True) -> Seen:
    """Sees an image; void pixels are most likely sky, and the probability grows from left to right."""
    panoptic = panoptic_of(image)
    semantic = np.where(panoptic == INFO.void_id, SKY, panoptic // 1000).astype(np.int32)
    ids = np.array([CAR * 1000 + 1, -1, CAR * 1000 + 2], np.int32)
    centers = np.array([np.argwhere(panoptic == i).mean(axis=0) if (panoptic == i).any() else (0, 0) for i in ids])
    table = Table(np.isin(ids, panoptic), ids, np.round(centers).astype(np.int32))
    scores = np.array([SCORES.get(i, 0) for i in ids.tolist()], np.float32)
    heads = None
    if with_heads:
        height, width = panoptic.shape
        probability = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
        offset = np.full((height, width, 2), (0, 5), np.float32)
        heads = Heads((panoptic == CAR * 1000 + 1).astype(np.float32), offset, probability)
    return Seen(Result(panoptic, semantic, table), scores, heads)


def scene() -> np.ndarray:
    """Sky above, vegetation below, two cars that touch, and a void corner; uint8 [60, 90, 3]."""
    image = np.full((60, 90, 3), 255, np.uint8)
    image[40:] = (0, 200, 0)
    image[25:50, 20:40] = (200, 0, 0)
    image[30:50, 40:60] = (0, 0, 200)
    image[:8, 80:] = 0
    return image


@contextlib.contextmanager
def served(see=segment, samples=(), max_bytes=200_000, max_pixels=100_000) -> Iterator[DemoServer]:
    """Serves a model on a free port."""
    demo = Demo(see, INFO, "colours", Limits(max_bytes, max_pixels), samples)
    with DemoServer(demo, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
