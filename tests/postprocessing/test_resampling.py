"""Results at another resolution against a plain reading, pixel by pixel and row by row."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deeplab2_lite.postprocessing import panoptic_segmentation
from deeplab2_lite.postprocessing.instances import InstanceTable
from deeplab2_lite.postprocessing.resampling import resize_nearest, resize_result
from deeplab2_lite.postprocessing.segmentation import PanopticResult

from .scenes import settings, smooth_scene

TOP_K = 5
HEIGHT, WIDTH = 5, 7
SIZES = st.tuples(st.integers(1, 13), st.integers(1, 13))
MAPS = hnp.arrays(np.int32, (2, HEIGHT, WIDTH), elements=st.integers(0, TOP_K), fill=st.integers(0, TOP_K))


def nearest(index, old, new):
    """The old pixel in which the middle of a new pixel lies."""
    return int(Fraction(2 * index + 1, 2) * old / new)


def slow_nearest(maps, height, width):
    batch, old_height, old_width = maps.shape
    result = np.zeros((batch, height, width), maps.dtype)
    for i in range(height):
        for j in range(width):
            result[:, i, j] = maps[:, nearest(i, old_height, height), nearest(j, old_width, width)]
    return result


def table_of(instance, random):
    """A table such as the merge gives for an instance map: rows without pixels are invalid and empty."""
    batch = len(instance)
    valid = np.stack([[(image == row + 1).any() for row in range(TOP_K)] for image in instance])
    class_id = np.where(valid, random.integers(0, 4, (batch, TOP_K)), -1)
    panoptic_id = np.where(valid, class_id * 1000 + 1 + np.arange(TOP_K), -1)
    center = random.integers(0, [HEIGHT, WIDTH], (batch, TOP_K, 2)) * valid[..., None]
    score = random.uniform(0.1, 1, (batch, TOP_K)) * valid
    area = np.stack([[(image == row + 1).sum() for row in range(TOP_K)] for image in instance])
    box = np.array([[slow_box(image == row + 1) for row in range(TOP_K)] for image in instance])
    columns = [class_id, panoptic_id, center, score.astype(np.float32), area, box]
    columns = [c if c.dtype == np.float32 else c.astype(np.int32) for c in columns]
    return InstanceTable(*map(tf.constant, [valid, *columns]))


def slow_box(mask):
    if not mask.any():
        return [0, 0, 0, 0]
    rows, columns = np.nonzero(mask)
    return [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]


def assert_resized(resized, result, height, width):
    for name in ("panoptic", "semantic", "instance"):
        actual = getattr(resized, name)
        assert actual.dtype == tf.int32
        np.testing.assert_array_equal(actual, slow_nearest(getattr(result, name).numpy(), height, width), name)
    old, new = (InstanceTable(*(c.numpy() for c in r.instances)) for r in (result, resized))
    assert [c.dtype for c in new] == [c.dtype for c in old] and [c.shape for c in new] == [c.shape for c in old]
    _, old_height, old_width = result.panoptic.shape
    for b, row in np.ndindex(old.valid.shape):
        mask = resized.instance.numpy()[b] == row + 1
        values = [c[b, row].tolist() for c in new]
        if not old.valid[b, row] or not mask.any():
            assert values == [False, -1, -1, [0, 0], 0.0, 0, [0, 0, 0, 0]]
            continue
        y, x = old.center[b, row]
        assert values == [
            True,
            old.class_id[b, row],
            old.panoptic_id[b, row],
            # The new pixel in which the middle of the old one lies.
            [nearest(y, height, old_height), nearest(x, width, old_width)],
            old.center_score[b, row],
            mask.sum(),
            slow_box(mask),
        ]


@given(instance=MAPS, size=SIZES, seed=st.integers(0, 9))
def test_equals_the_plain_reading(instance, size, seed):
    random = np.random.default_rng(seed)
    panoptic, semantic = random.integers(0, 255001, (2, *instance.shape), np.int32)
    result = PanopticResult(*map(tf.constant, (panoptic, semantic, instance)), table_of(instance, random))
    assert_resized(resize_result(result, *size), result, *size)


@given(maps=MAPS, size=SIZES)
def test_nearest_is_exact_and_keeps_what_has_the_size(maps, size):
    np.testing.assert_array_equal(resize_nearest(tf.constant(maps), *size), slow_nearest(maps, *size))
    np.testing.assert_array_equal(resize_nearest(tf.constant(maps), HEIGHT, WIDTH), maps)


def test_enlarging_by_a_whole_factor_repeats_pixels():
    maps = np.arange(6, dtype=np.int32).reshape(1, 2, 3)
    np.testing.assert_array_equal(resize_nearest(tf.constant(maps), 6, 9), maps.repeat(3, axis=1).repeat(3, axis=2))


def test_rows_without_a_pixel_left_become_invalid():
    instance = np.zeros((1, HEIGHT, WIDTH), np.int32)
    # Instance 1 is one pixel in a corner, 2 half of the map.
    instance[0, 0, 0], instance[0, :, 3:] = 1, 2
    result = PanopticResult(*[tf.constant(instance)] * 3, table_of(instance, np.random.default_rng(0)))
    assert result.instances.valid[0].numpy().tolist() == [True, True, False, False, False]
    small = resize_result(result, 2, 2)
    assert small.instance[0].numpy().tolist() == [[0, 2], [0, 2]]
    assert small.instances.valid[0].numpy().tolist() == [False, True, False, False, False]
    assert small.instances.area[0].numpy().tolist() == [0, 2, 0, 0, 0]
    assert small.instances.box[0, 1].numpy().tolist() == [0, 1, 2, 2]


def test_a_real_result_in_a_graph_of_dynamic_size():
    scene = smooth_scene((2, 17, 33), seed=3, peaks=9)
    result = panoptic_segmentation(*scene, **settings())

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)] * 2)
    def resize(height, width):
        return resize_result(result, height, width)

    for height, width in ((9, 50), (31, 11)):
        assert_resized(resize(height, width), result, height, width)
