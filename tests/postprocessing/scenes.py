"""Small scenes full of ties and bad values, and the comparison of results with the reference."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from .reference import Segmented, segment_image

NUM_CLASSES = 4
NAN, INF = float("nan"), float("inf")


class Scene(NamedTuple):
    logits: np.ndarray
    heatmap: np.ndarray
    offset: np.ndarray


def scenes(shape: tuple[int, int, int]) -> st.SearchStrategy[Scene]:
    """Draws float32 head outputs of [batch, height, width], few values each so that ties abound."""

    def array(channels: int, *values: float) -> st.SearchStrategy[np.ndarray]:
        elements = st.sampled_from([np.float32(v) for v in values])
        return hnp.arrays(np.float32, (*shape, channels), elements=elements, fill=elements)

    return st.builds(
        Scene,
        array(NUM_CLASSES, 0.0, 1.0, 2.0, -0.0, NAN, INF, -INF),
        array(1, 0.0, 0.1, 0.25, 0.5, 1.0, -0.0, -0.5, NAN, INF, -INF),
        array(2, 0.0, 0.5, -0.5, 2.0, -3.0, 5.125, 3e38, -1e20, NAN, INF),
    )


def settings(**changes: Any) -> dict[str, Any]:
    """Settings of `panoptic_segmentation` for these scenes."""
    return {
        "thing_ids": (1, 3),
        "label_divisor": 1000,
        "ignore_label": 255,
        "stuff_area_limit": 3,
        "nms_kernel": 3,
        "top_k": 20,
        **changes,
    }


def smooth_scene(shape: tuple[int, int, int], seed: int, peaks: int) -> Scene:
    """A scene of real numbers with so many peaks an image, in blobs of classes."""
    batch, height, width = shape
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(batch, height // 8 + 1, width // 8 + 1, NUM_CLASSES))
    logits = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    heatmap = np.zeros((batch, height, width, 1))
    for image in heatmap:
        image[random.integers(0, height, peaks), random.integers(0, width, peaks)] = random.uniform(size=(peaks, 1))
    offset = random.normal(size=(batch, height, width, 2)) * height / 3
    return Scene(*(a.astype(np.float32) for a in (logits, heatmap, offset)))


def assert_equals_reference(result: Any, scene: Scene, options: dict[str, Any]) -> list[Segmented]:
    """Asserts that maps and tables equal the reference's, and returns that."""
    images = [segment_image(*image, **options) for image in zip(*scene, strict=True)]
    for name in ("semantic", "instance", "panoptic"):
        actual = getattr(result, name).numpy()
        assert actual.dtype == np.int32
        np.testing.assert_array_equal(actual, [getattr(image, name) for image in images], err_msg=name)
    table = result.instances
    assert table.valid.shape == (len(images), options["top_k"])
    for b, image in enumerate(images):
        for i in range(options["top_k"]):
            row = image.rows.get(i)
            values = [value[b, i].numpy().tolist() for value in table]
            if row is None:
                assert values == [False, -1, -1, [0, 0], 0.0, 0, [0, 0, 0, 0]]
            else:
                ids = [row.class_id, row.panoptic_id]
                assert values == [True, *ids, list(row.center), row.center_score, row.area, list(row.box)]
    return images
