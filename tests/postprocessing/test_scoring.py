"""Instance scores against the plain reading."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.errors import UserError
from deeplab2_lite.postprocessing import panoptic_segmentation, score_instances

from .reference import score_image, segment_image
from .scenes import NUM_CLASSES, scenes, settings, smooth_scene

SHAPE = (2, 6, 9)


def expected_scores(scene, probabilities, options) -> list[np.ndarray]:
    images = [segment_image(*image, **options) for image in zip(*scene, strict=True)]
    return [score_image(i, p, options["top_k"]) for i, p in zip(images, probabilities, strict=True)]


@given(scene=scenes(SHAPE), seed=st.integers(0, 99))
def test_equals_reference(scene, seed) -> None:
    probabilities = np.random.default_rng(seed).uniform(size=(*SHAPE, NUM_CLASSES)).astype(np.float32)
    probabilities[0, 0, seed % 9] = np.nan
    scores = score_instances(panoptic_segmentation(*scene, **settings()), probabilities)
    assert scores.dtype == tf.float32
    np.testing.assert_allclose(scores, expected_scores(scene, probabilities, settings()), rtol=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_compiled_and_dynamic_equal_reference(jit) -> None:
    size = [2, 33, 41] if jit else [None, None, None]

    def score(logits, heatmap, offset):
        result = panoptic_segmentation(logits, heatmap, offset, **settings())
        return score_instances(result, tf.nn.softmax(logits))

    specs = [tf.TensorSpec([*size, channels]) for channels in (NUM_CLASSES, 1, 2)]
    scene = smooth_scene((2, 33, 41), seed=5, peaks=15)
    scores = tf.function(score, input_signature=specs, jit_compile=jit)(*(tf.constant(head) for head in scene))
    expected = expected_scores(scene, tf.nn.softmax(scene.logits).numpy(), settings())
    assert np.count_nonzero(expected) > 5
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_sums_over_large_masks_keep_their_precision() -> None:
    # A single float32 sum over these pixels is off by some per cent.
    height, width = 1025, 2049
    logits = np.zeros((1, height, width, 1), np.float32)
    heatmap = np.zeros((1, height, width, 1), np.float32)
    heatmap[0, 500, 1000] = 1
    result = panoptic_segmentation(logits, heatmap, np.zeros((1, height, width, 2), np.float32),
                                   **settings(thing_ids=(0,), top_k=2))  # fmt: skip
    scores = score_instances(result, tf.fill([1, height, width, 1], 0.9))
    np.testing.assert_allclose(scores, [[0.9, 0]], rtol=1e-4)


def test_probabilities_of_another_size_are_refused() -> None:
    result = panoptic_segmentation(*smooth_scene(SHAPE, seed=0, peaks=2), **settings())
    with pytest.raises(
        UserError, match=r"semantic_probabilities: expected shape \(2, 6, 9, None\), got \(2, 6, 8, 4\)"
    ):
        score_instances(result, tf.zeros([2, 6, 8, 4]))
