"""The whole of inference under XLA: from the image to the panoptic map in one program of static shape."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.inference import InferenceSettings, infer
from deeplab2_lite.model import build_model


def test_from_image_to_panoptic_map_under_xla() -> None:
    config = load_config("shapes/mobilenet_v3_small")
    # Random weights give a heatmap round 0: a low threshold makes centres of its waves.
    settings = InferenceSettings.from_config(config, resolve_dataset_info(config))._replace(
        center_threshold=-1.0, stuff_area_limit=30
    )
    network = build_model(config)
    random = np.random.default_rng(0)
    # Another size than one of the padded ones, so that padding and cutting are part of the program.
    images = tf.constant(random.integers(0, 256, (2, 9, 16, 3)).repeat(14, 1).repeat(14, 2)[:, :120, :203], tf.uint8)

    def run(images: tf.Tensor):
        inference = infer(network, images, settings)
        return inference.result, inference.instance_scores

    expected, scores = tf.function(run)(images)
    compiled, compiled_scores = tf.function(run, jit_compile=True)(images)
    assert expected.panoptic.shape == (2, 120, 203)
    assert expected.instances.valid.numpy().sum() > 10
    assert len(np.unique(expected.semantic)) > 1
    for name in ("semantic", "instance", "panoptic"):
        same = np.mean(getattr(expected, name).numpy() == getattr(compiled, name).numpy())
        assert same >= 0.999, (name, same)
    np.testing.assert_allclose(compiled_scores, scores, rtol=0.02, atol=1e-4)
