"""Upsampling of head outputs: aligned corners, and offsets in pixels of the new size."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.errors import UserError
from deeplab2_lite.postprocessing import Heads, upsample_heads


def offsets_to(point: int, height: int, width: int) -> np.ndarray:
    """Offsets [1, height, width, 2] of each pixel to (point, point)."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return (point - np.stack([y, x], axis=-1)[None]).astype(np.float32)


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Aligned-corner resizing of [h, w], pixel by pixel, in float64."""
    old_height, old_width = values.shape
    resized = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = i * (old_height - 1) / max(height - 1, 1)
            x = j * (old_width - 1) / max(width - 1, 1)
            top, left = min(int(y), max(old_height - 2, 0)), min(int(x), max(old_width - 2, 0))
            for row, y_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
                for column, x_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
                    if y_weight * x_weight:
                        resized[i, j] += y_weight * x_weight * values[row, column]
    return resized


def test_offsets_grow_with_the_map() -> None:
    heads = upsample_heads(Heads(None, None, tf.constant(offsets_to(2, 3, 3))), 5, 5)
    np.testing.assert_array_equal(heads.center_offset, offsets_to(4, 5, 5))
    assert heads.semantic_logits is None and heads.center_heatmap is None


def test_equals_bilinear_reference_with_own_factor_for_each_axis() -> None:
    random = np.random.default_rng(0)
    outputs = {
        "semantic_logits": random.normal(size=(2, 3, 5, 4)),
        "center_heatmap": random.normal(size=(2, 3, 5, 1)),
        "center_offset": random.normal(size=(2, 3, 5, 2)),
    }
    heads = upsample_heads({k: tf.constant(v, tf.float32) for k, v in outputs.items()}, 9, 13)
    factor = {"center_offset": [4.0, 3.0]}
    for name, head in heads._asdict().items():
        assert head.dtype == tf.float32
        channels = outputs[name].shape[-1]
        for b in range(2):
            for c in range(channels):
                expected = bilinear(outputs[name][b, ..., c], 9, 13) * factor.get(name, [1.0] * channels)[c]
                np.testing.assert_allclose(head[b, ..., c], expected, atol=1e-5)


def test_dynamic_sizes_give_the_same() -> None:
    offset = tf.constant(np.random.default_rng(1).normal(size=(1, 3, 4, 2)), tf.float32)
    specs = [tf.TensorSpec([None, None, None, 2]), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32)]
    dynamic = tf.function(lambda o, h, w: upsample_heads(Heads(None, None, o), h, w).center_offset, specs)
    for height, width in ((9, 13), (7, 4), (3, 4)):
        static = upsample_heads(Heads(None, None, offset), height, width).center_offset
        np.testing.assert_array_equal(dynamic(offset, height, width), static)
    thin = tf.constant([[[[1.0, 3.0], [2.0, 5.0]]]])
    for resize in (dynamic, lambda o, h, w: upsample_heads(Heads(None, None, o), h, w).center_offset):
        np.testing.assert_array_equal(resize(thin, 2, 3), [[[[1, 6], [1.5, 8], [2, 10]]] * 2])


def test_half_precision_becomes_float32_before_it_is_resized() -> None:
    heatmap = tf.constant([[[[1.0], [1.0078125]]]], tf.bfloat16)
    upsampled = upsample_heads({"center_heatmap": heatmap}, 1, 3).center_heatmap
    assert upsampled.dtype == tf.float32
    np.testing.assert_array_equal(upsampled[0, 0, :, 0], [1.0, 1.00390625, 1.0078125])


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="one of semantic_logits, center_heatmap, center_offset"):
        upsample_heads({"logits": tf.zeros([1, 3, 3, 1])}, 5, 5)
    with pytest.raises(UserError, match="height: expected a positive size"):
        upsample_heads({"center_heatmap": tf.zeros([1, 3, 3, 1])}, 0, 5)
