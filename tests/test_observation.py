"""What the heads say, at the resolution of the image, beside the same result as ever."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config_loading import load_config
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.postprocessing.semantic import class_probability
from deeplab2_lite.postprocessing.upsampling import Upsampling
from deeplab2_lite.predictor import Predictor

INFO = load_dataset_info("shapes")
CONFIG = load_config("shapes/mobilenet_v3_small")
SIZE = (65, 97)


def network(images, training=False):
    """Gives heads that say where they are: the class by thirds, heat in the middle, offsets of (1, 2)."""
    shape = tf.shape(images)
    height, width = shape[1] // 4 + 1, shape[2] // 4 + 1
    columns = tf.cast(tf.linspace(0.0, 3.99, width), tf.int32)
    logits = 4 * tf.one_hot(5 + tf.minimum(columns, 2), INFO.num_classes)
    logits = tf.broadcast_to(logits, [shape[0], height, width, INFO.num_classes])
    heat = tf.pad(
        tf.ones([shape[0], 1, 1, 1]), [[0, 0], [height // 2, height - height // 2 - 1], [8, width - 9], [0, 0]]
    )
    offset = tf.broadcast_to(tf.constant([1.0, 2.0]), [shape[0], height, width, 2])
    return {"semantic_logits": logits, "center_heatmap": heat, "center_offset": offset}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("longest_side", [None, 49, 193])
def test_heads_come_at_the_resolution_of_the_image(image, longest_side):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, longest_side=longest_side))
    predictor = Predictor(network, config, INFO)
    plain = predictor(image)
    result, scores, heads = predictor.observe(image)
    for ours, theirs in zip(tf.nest.flatten(result), tf.nest.flatten(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(scores, predictor.instance_scores)
    assert heads.center_heatmap.shape == heads.semantic_probability.shape == SIZE
    assert heads.center_offset.shape == (*SIZE, 2)
    # Offsets are in pixels of the image, whatever the network saw: one of its pixels is four.
    seen = SIZE if longest_side is None else [round(side * longest_side / 97) for side in SIZE]
    across = 4 * 2 * (SIZE[1] - 1) / (seen[1] - 1)
    np.testing.assert_allclose(heads.center_offset[..., 1], across, rtol=0.01)
    y, x = np.unravel_index(heads.center_heatmap.argmax(), SIZE)
    factor = (SIZE[1] - 1) / (seen[1] - 1)
    assert abs(y - 32) <= 2 * factor and abs(x - 32 * factor) <= 2 * factor
    # The softmax of 4 against eight zeros.
    assert abs(np.median(heads.semantic_probability) - np.exp(4) / (np.exp(4) + 8)) < 1e-4
    assert heads.semantic_probability.max() <= 1 and heads.semantic_probability.min() > 0.3


def test_heads_may_be_left_out(image):
    predictor = Predictor(network, CONFIG, INFO)
    assert predictor.has_heads
    observation = predictor.observe(image, heads=False)
    assert observation.heads is None
    np.testing.assert_array_equal(observation.result.panoptic, predictor(image).panoptic)


@pytest.mark.parametrize("is_upsampled", [False, True])
def test_the_probability_is_the_softmax_at_the_class(is_upsampled):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 9, 13, 5)).astype(np.float32) * 3
    size = (33, 49) if is_upsampled else (9, 13)
    semantic = rng.integers(0, 5, (2, *size)).astype(np.int32)
    full = tf.raw_ops.ResizeBilinear(images=logits, size=size, align_corners=True).numpy()
    shares = np.exp(full) / np.exp(full).sum(axis=-1, keepdims=True)
    expected = np.take_along_axis(shares, semantic[..., None], axis=-1)[..., 0]
    found = class_probability(
        tf.constant(logits), tf.constant(semantic), Upsampling(*size, *size) if is_upsampled else None
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
