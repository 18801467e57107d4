"""Grouping where rounding decides: compilers must not change which centre is nearer."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from deeplab2_lite.postprocessing.centers import Centers
from deeplab2_lite.postprocessing.grouping import group_pixels

from .reference import nearest_center


def test_nearly_equal_distances_round_alike_however_it_runs() -> None:
    height, width, count = 160, 240, 12
    random = np.random.default_rng(0)
    position = random.integers(0, height, (count, 2))
    # Offsets end on the line halfway between two centres, where the last bit tells which is nearer.
    first, second = (position[random.integers(0, count, (height, width))] for _ in range(2))
    between = (second - first).astype(np.float32)
    aside = np.stack([-between[..., 1], between[..., 0]], axis=-1) * random.normal(size=(height, width, 1)) * 0.05
    target = (first + second) / 2 + aside
    pixel = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    offset = (target - pixel).astype(np.float32)

    centers = Centers(tf.constant(position[None], tf.int32), tf.ones([1, count]), tf.ones([1, count], tf.bool))
    arguments = (tf.constant(offset[None]), tf.ones([1, height, width], tf.bool), centers)
    eager = group_pixels(*arguments).numpy()
    for jit in (False, True):
        np.testing.assert_array_equal(tf.function(group_pixels, jit_compile=jit)(*arguments), eager)
    for y in range(0, height, 8):
        for x in range(0, width, 8):
            assert eager[0, y, x] == 1 + nearest_center((y, x), offset[y, x], [tuple(p) for p in position])


def test_images_of_a_batch_do_not_mix() -> None:
    position = tf.constant([[[0, 0], [0, 5]], [[0, 5], [0, 0]], [[0, 0], [0, 0]]])
    valid = tf.constant([[True, True], [True, False], [False, False]])
    centers = Centers(position, tf.cast(valid, tf.float32), valid)
    grouped = group_pixels(tf.zeros([3, 1, 6, 2]), tf.ones([3, 1, 6], tf.bool), centers)
    np.testing.assert_array_equal(grouped[:, 0], [[1, 1, 1, 2, 2, 2], [1] * 6, [0] * 6])
