"""Folded and frozen networks: no batch normalization, no variables, the same heads and maps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config_loading import load_config
from deeplab2_lite.model import build_model
from deeplab2_lite.serving.folding import fold_batch_norm
from deeplab2_lite.serving.freezing import freeze

from .conftest import SMALL, Trained, meta_graph_of, with_trained_statistics

NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "Rsqrt")
CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
# HRNet has neither ASPP nor skips.
NO_SKIPS = "model.decoder.skip_strides=[]," + ",".join(
    f"model.{name}.{key}"
    for name in ("semantic", "instance")
    for key in ("projection_channels=[]", "aspp_channels=256")
)


def _operations(saved_model: Path) -> Counter:
    graph = meta_graph_of(saved_model).graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return Counter(node.op for node in nodes)


def _largest_difference(network, other, shape: tuple[int, ...] = (2, 65, 97, 3)) -> float:
    images = tf.constant(np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32))
    first, second = network(images, training=False), other(images, training=False)
    assert set(first) == set(second)
    return max(float(np.max(np.abs(first[n] - second[n])) / np.ptp(first[n])) for n in first)


def test_frozen_saved_models_have_neither_norms_nor_variables(served: Path, frozen: Path) -> None:
    before, after = _operations(served), _operations(frozen)
    assert before["FusedBatchNormV3"] >= 3 and before["ReadVariableOp"] > 15
    assert [after[name] for name in NORMS] == [0] * len(NORMS)
    # What is left are the paths of the assets.
    assert after["VarHandleOp"] == after["ReadVariableOp"] == len(list((frozen / "assets").iterdir()))
    # All signatures share the weights.
    assert after["DepthwiseConv2dNative"] == 1


def test_frozen_saved_models_give_the_same(trained: Trained, frozen: Path, scenes) -> None:
    serve = tf.saved_model.load(str(frozen)).signatures["serving_default"]
    for scene in scenes:
        found = serve(images=tf.constant(scene[None]))["panoptic_pred"].numpy()[0]
        assert np.mean(found == trained.panoptic(scene)) >= 0.999


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        # A stride replaced by rates: depthwise convolutions that are dilated.
        ("model.backbone.output_stride=8", 1e-4),
        pytest.param("train.precision=bfloat16", 0.1, marks=pytest.mark.slow),
        pytest.param("model.backbone.name=resnet50,model.depthwise_norm=true", 1e-4, marks=pytest.mark.slow),
        pytest.param("model.backbone.name=xception65", 1e-4, marks=pytest.mark.slow),
        pytest.param(f"model.backbone.name=hrnet_w48,{NO_SKIPS}", 1e-4, marks=pytest.mark.slow),
    ],
)
def test_heads_are_the_same(settings: str, most: float) -> None:
    network = build_model(load_config("shapes/mobilenet_v3_small", f"{SMALL},{settings}"))
    with_trained_statistics(network)
    before = network.get_weights()
    folded = fold_batch_norm(network)
    # Each norm went into a convolution, and none became one.
    assert _count(network, keras.layers.BatchNormalization) > 30 and not _count(folded, keras.layers.BatchNormalization)
    assert _count(network, CONVOLUTIONS) == _count(folded, CONVOLUTIONS)
    assert _largest_difference(network, freeze(network)) < most
    for one, other in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def _count(network: keras.Model, kind: type | tuple[type, ...]) -> int:
    return sum(isinstance(layer, kind) for layer in network.layers)


@pytest.mark.parametrize(("policy", "most"), [("float32", 1e-5), ("mixed_bfloat16", 0.02)])
def test_norms_that_no_convolution_can_take_become_affine(policy: str, most: float) -> None:
    images = keras.Input((None, None, 3))
    first = keras.layers.BatchNormalization(name="first", dtype=policy)(images)
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared", dtype=policy)(first)
    beside = keras.layers.BatchNormalization(scale=False, name="beside", dtype=policy)(shared)
    both = keras.layers.Add(dtype=policy)([shared, beside])
    activated = keras.layers.Conv2D(4, 1, activation="relu", name="activated", dtype=policy)(both)
    after = keras.layers.BatchNormalization(center=False, name="after", dtype=policy)(activated)
    deep = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, dilation_rate=2, name="deep", dtype=policy)(after)
    last = keras.layers.BatchNormalization(name="last", dtype=policy)(deep)
    network = keras.Model(images, {"heads": keras.layers.Activation("linear", dtype="float32")(last)})
    with_trained_statistics(network)
    folded = fold_batch_norm(network)
    kinds = {name: type(folded.get_layer(name)) for name in ("first", "beside", "after", "last")}
    assert kinds.pop("last") is keras.layers.Activation
    assert set(kinds.values()) == {keras.layers.DepthwiseConv2D}
    assert _largest_difference(network, folded, (2, 17, 19, 3)) < most
