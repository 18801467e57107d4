"""Drawn images on every path that TensorFlow has, against brute force, with no pixel of difference.

A fifth of the 10,000 belongs to the default run; the slow one draws them all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.export import MergeModule
from deeplab2_lite.inference import InferenceSettings, result_tensors
from deeplab2_lite.postprocessing import panoptic_segmentation

from .brute_force import TABLE, segment, stack
from .reference import segment_image

BATCH = 25
SHAPES = {
    "few_classes": [(1, 1), (1, 23), (7, 1), (12, 17)],
    "cityscapes": [(17, 33), (33, 17), (20, 41), (1, 64)],
    "all_stuff": [(3, 3), (9, 14), (16, 16), (2, 31)],
    "all_things": [(5, 5), (31, 9), (24, 40), (2, 2)],
    "many_classes": [(8, 8), (19, 21), (1, 9), (40, 28)],
}


class Space(NamedTuple):
    num_classes: int
    settings: InferenceSettings


def space(
    num_classes: int, thing_ids: tuple[int, ...], divisor: int, limit: int, threshold: float, kernel: int, k: int
):
    return Space(num_classes, InferenceSettings(16, None, thing_ids, divisor, 255, limit, threshold, kernel, k))


SPACES = {
    "few_classes": space(3, (1,), 3, 2, 0.1, 3, 5),
    "cityscapes": space(19, tuple(range(11, 19)), 1000, 8, 0.1, 7, 200),
    "all_stuff": space(4, (), 256, 3, 0.1, 7, 10),
    "all_things": space(2, (0, 1), 6, 1, -0.5, 5, 40),
    "many_classes": space(255, tuple(range(0, 255, 2)), 1000, 1, 0.25, 3, 20),
}


def draw(random: np.random.Generator, shape: tuple[int, int], num_classes: int) -> tuple[np.ndarray, ...]:
    """Heads of a batch; each image has a manner of its own, ties and bad values abound."""
    size = (BATCH, *shape)

    def some(values: list[float], share: np.ndarray, array: np.ndarray) -> np.ndarray:
        replaced = random.uniform(size=array.shape) < share.reshape(-1, *[1] * (array.ndim - 1))
        return np.where(replaced, random.choice(np.array(values, np.float32), array.shape), array).astype(np.float32)

    share = random.choice([0.0, 0.02, 0.3], BATCH)
    bad = [np.nan, np.inf, -np.inf, -0.0]
    logits = some(bad, share, random.integers(0, random.choice([1, 3, 50]), (*size, num_classes)).astype(np.float32))
    # Blobs of one class, and images of one class.
    favourite = random.integers(0, num_classes, (BATCH, *(-(-side // 5) for side in shape)))
    favourite = favourite.repeat(5, 1).repeat(5, 2)[:, : shape[0], : shape[1]]
    favourite[random.uniform(size=BATCH) < 0.1] = num_classes - 1
    logits[random.uniform(size=BATCH) < 0.5] += 100 * np.eye(num_classes, dtype=np.float32)[favourite][0]

    # No centre, plateaus, few levels, many.
    levels = random.choice([0, 1, 3, 1000], BATCH).reshape(-1, 1, 1, 1)
    heatmap = np.floor(random.uniform(0, 1, (*size, 1)) * (levels + 1)) / np.maximum(levels, 1)
    heatmap = some([*bad, -0.25, 0.1], share, heatmap - 0.25 * (levels == 3))
    reach = random.choice([0, 2, 30, 20000], BATCH).reshape(-1, 1, 1, 1)
    # Multiples of 1/4, whose distances float32 holds exactly; beyond the image by far.
    offset = np.round(random.uniform(-1, 1, (*size, 2)) * reach * 4) / 4
    return logits, heatmap, some([*bad, 3e38, -1e20, 0.25], share, offset)


def options(settings: InferenceSettings) -> dict:
    names = (
        "thing_ids",
        "label_divisor",
        "ignore_label",
        "stuff_area_limit",
        "center_threshold",
        "nms_kernel",
        "top_k",
    )
    return {name: getattr(settings, name) for name in names}


@pytest.mark.parametrize("draws", [4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "many_classes")) for name in SPACES]
)
def test_every_path_equals_brute_force(name: str, draws: int, tmp_path) -> None:
    num_classes, settings = SPACES[name]
    module = MergeModule(settings, num_classes)
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.merge})
    saved = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]

    def merge(*heads: tf.Tensor) -> dict[str, tf.Tensor]:
        result = panoptic_segmentation(*heads, **options(settings))
        return result_tensors(result, tf.zeros([]))

    for shape in SHAPES[name]:
        random = np.random.default_rng([num_classes, *shape])
        specs = [tf.TensorSpec([BATCH, *shape, channels]) for channels in (num_classes, 1, 2)]
        static = tf.function(merge, specs, jit_compile=True)
        paths = {"eager": merge, "graph": tf.function(merge, specs), "xla": static}
        for _ in range(draws):
            scene = draw(random, shape, num_classes)
            expected = stack([segment(*image, **options(settings)) for image in zip(*scene, strict=True)])
            heads = [tf.constant(head) for head in scene]
            actual = {path: run(*heads) for path, run in paths.items()}
            inputs = ("semantic_logits", "center_heatmap", "center_offset")
            actual["SavedModel"] = saved(**dict(zip(inputs, heads, strict=True)))
            for path, tensors in actual.items():
                for key, value in expected.items():
                    np.testing.assert_array_equal(tensors[key], value, err_msg=f"{path} {shape} {key}")


def test_brute_force_equals_the_plain_reading() -> None:
    num_classes, settings = SPACES["few_classes"]
    scene = draw(np.random.default_rng(0), (12, 17), num_classes)
    for image in zip(*scene, strict=True):
        plain, brute = segment_image(*image, **options(settings)), segment(*image, **options(settings))
        for name in ("panoptic", "semantic", "instance"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(brute, name))
        assert set(plain.rows) == set(np.flatnonzero(brute.table["valid"]))
        for row, values in plain.rows.items():
            for name in TABLE[1:]:
                np.testing.assert_array_equal(brute.table[name][row], getattr(values, name))
