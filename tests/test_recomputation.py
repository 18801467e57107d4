"""Recomputation: what the plain network gives, with less memory."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.backbones import BACKBONES
from deeplab2_lite.config import (
    BackboneConfig,
    BatchNormConfig,
    BranchConfig,
    ClassificationConfig,
    ExperimentConfig,
    ModelConfig,
)
from deeplab2_lite.layers.convolutions import conv, conv_bn
from deeplab2_lite.layers.normalization import BatchNormalization, ImageNormalization, statistics_kept
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.model import build_model
from deeplab2_lite.recomputation import _boundaries, _cut, recomputing

ROOT = Path(__file__).parents[1]
EPSILON = {"float64": 1e-9, "float32": 1e-4, "mixed_bfloat16": 3e-2, "mixed_float16": 3e-3}


def residual_network(policy: str = "float64", blocks: int = 5, channels: int = 6, **batch_norm) -> keras.Model:
    """Blocks with shortcuts at stride 2, and two outputs from different depths."""
    settings = LayerSettings(BatchNormConfig(**batch_norm), policy=policy)
    images = keras.Input([None, None, 3], name="images")
    features = ImageNormalization((127.5,) * 3, (127.5,) * 3, name="normalize", dtype=settings.dtype)(images)
    features = early = conv_bn(features, settings, "backbone/stem", channels, 3, strides=2)
    for i in range(blocks):
        name = f"backbone/block{i}"
        inner = conv_bn(features, settings, f"{name}/1", channels, 3)
        inner = conv_bn(inner, settings, f"{name}/2", channels, 3, activation="none")
        features = keras.layers.Add(name=f"{name}/add", dtype=settings.dtype)([features, inner])
    outputs = {"deep": conv(features, settings, "deep", 3), "early": conv(early, settings, "early", 2, use_bias=True)}
    return keras.Model(images, outputs)


def backbone_network(name: str) -> keras.Model:
    """In float64, so that nothing is left of the noise that rounding makes of gradients."""
    stride = 8 if name.startswith("auto_deeplab") else 32 if name.startswith("hrnet") else 16
    images = keras.Input([None, None, 3], name="images")
    features = BACKBONES[name](images, BackboneConfig(name=name, output_stride=stride), LayerSettings(policy="float64"))
    return keras.Model(images, {"output": features.output, **{f"skip{k}": v for k, v in features.skips.items()}})


def pixels(*shape: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).uniform(0, 255, (*shape, 3)), tf.float32)


def loss_of(outputs: dict[str, tf.Tensor]) -> tf.Tensor:
    # Weights that differ by pixel, since normalization takes the gradient out of plain means.
    terms = []
    for output in outputs.values():
        output = tf.cast(output, tf.float64)
        weight = tf.reshape(tf.sin(tf.range(tf.size(output), dtype=tf.float64)), tf.shape(output))
        terms.append(tf.reduce_mean(weight * output + tf.square(output)))
    return tf.add_n(terms)


def step(network: keras.Model, forward, images: tf.Tensor, strategy=None, jit_compile=None):
    """Outputs, gradients and weights that are not trained after one step, which then is undone."""
    before = [v.numpy() for v in network.variables]

    def replica(images):
        with tf.GradientTape() as tape:
            outputs = forward(images)
            loss = loss_of(outputs)
        return list(outputs.values()), tape.gradient(loss, network.trainable_variables)

    run = replica if strategy is None else lambda images: strategy.run(replica, args=(images,))
    outputs, gradients = tf.function(run, jit_compile=jit_compile)(images)
    assert all(gradient is not None for gradient in gradients)
    after = [v.numpy() for v in network.non_trainable_variables]
    for variable, value in zip(network.variables, before, strict=True):
        variable.assign(value)
    return [np.concatenate([np.ravel(np.float64(x)) for x in part]) for part in (outputs, gradients, after)]


def assert_same_step(network: keras.Model, images: tf.Tensor, epsilon: float, **options) -> None:
    assert len(_cut(network)) > 2
    before = [np.array(v) for v in network.non_trainable_variables]
    plain = step(network, lambda images: network(images, training=True), images, **options)
    again = step(network, recomputing(network), images, **options)
    assert not np.allclose(plain[2], np.concatenate([np.ravel(x) for x in before])), "statistics did not move"
    for ours, theirs in zip(again, plain, strict=True):
        difference = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert difference <= epsilon, difference


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("policy", EPSILON)
def test_a_step_is_that_of_the_plain_network(policy, jit_compile):
    assert_same_step(residual_network(policy, blocks=3), pixels(2, 33, 41), EPSILON[policy], jit_compile=jit_compile)


def test_on_the_device_of_a_strategy():
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        network = residual_network()
    assert_same_step(network, pixels(2, 33, 41), 1e-9, strategy=strategy)


def test_frozen_normalization_stays_frozen():
    network = residual_network()
    frozen = [layer for layer in network.layers if isinstance(layer, BatchNormalization)][::2]
    for layer in frozen:
        layer.trainable = False
        layer.moving_mean.assign_add(tf.ones_like(layer.moving_mean))
    assert_same_step(network, pixels(2, 33, 41), 1e-9)
    recomputing(network)(pixels(2, 33, 41))
    for layer in frozen:
        np.testing.assert_array_equal(layer.moving_mean, np.ones_like(layer.moving_mean))


def test_eager_steps_too():
    network = residual_network(blocks=2)
    with tf.GradientTape() as tape:
        loss = loss_of(recomputing(network)(pixels(1, 33, 41)))
    gradients = tape.gradient(loss, network.trainable_variables)
    moved = [v.numpy() for v in network.non_trainable_variables]
    plain = residual_network(blocks=2)
    with tf.GradientTape() as tape:
        loss = loss_of(plain(pixels(1, 33, 41), training=True))
    for ours, theirs in zip(gradients, tape.gradient(loss, plain.trainable_variables), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(moved, plain.non_trainable_variables, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_statistics_are_kept_only_where_asked():
    layer = BatchNormalization(momentum=0.5)
    values = tf.constant([[1.0], [3.0]])
    with statistics_kept():
        kept = layer(values, training=True)
    assert layer.moving_mean.numpy() == 0
    np.testing.assert_array_equal(layer(values, training=True), kept)
    assert layer.moving_mean.numpy() == 1


SMALL = ModelConfig(
    backbone=BackboneConfig(name="mobilenet_v3_small"),
    semantic=BranchConfig(16, 16, 16, (8, 8)),
    instance=BranchConfig(16, 8, 8, (8, 4)),
)


def test_segmentation_network():
    network = build_model(ExperimentConfig(model=SMALL), 5)
    # Rounding alone, amplified by normalization over few pixels.
    assert_same_step(network, pixels(2, 65, 97), 5e-3)
    assert recomputing(network)(pixels(1, 65, 97)).keys() == network.output.keys()
    assert network.layers[5].output is not None, "the layers' books were added to"


def test_dropout_of_a_classifier_draws_once():
    network = build_model(
        ExperimentConfig(
            model=ModelConfig(tasks="classification", backbone=SMALL.backbone),
            classification=ClassificationConfig(dropout=0.2),
        ),
        5,
    )
    dropout = network.get_layer("classifier/dropout")
    segments = _cut(network)
    assert dropout in [node.layer for node in segments[-1].nodes]
    assert_same_step(network, pixels(2, 65, 97), 5e-3)
    tf.function(recomputing(network))(pixels(2, 65, 97))
    assert dropout.calls.numpy() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone(name):
    assert_same_step(backbone_network(name), pixels(2, 65, 97), 1e-6)


@given(st.data())
def test_no_other_cuts_need_less(data):
    sizes = np.array(data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=8)), float)
    n = len(sizes)
    last_use = np.array([data.draw(st.integers(min(i + 1, n - 1), n)) for i in range(n)])
    repeatable = data.draw(st.integers(0, n))

    def peak(cuts):
        kept, most = 0.0, 0.0
        for start, end in itertools.pairwise([0, *cuts, n]):
            most = max(most, kept + sizes[start:end].sum())
            kept += sum(sizes[i] for i in range(start, end) if last_use[i] >= end)
        return most

    allowed = range(1, min(repeatable, n - 1) + 1)
    best = min(peak(cuts) for k in range(n) for cuts in itertools.combinations(allowed, k))
    found = _boundaries(sizes, last_use, repeatable)
    assert set(found) <= set(allowed)
    assert best <= peak(found) <= best * 1.002


TWO_DEVICES = """
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import numpy as np
from tests_test_recomputation import *

strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
with strategy.scope():
    network = residual_network(synchronized=True)
assert all(layer.synchronized for layer in network.layers if isinstance(layer, BatchNormalization))
whole = pixels(4, 33, 41)
images = strategy.experimental_distribute_values_from_function(
    lambda context: whole[:2] if context.replica_id_in_sync_group == 0 else whole[2:])

def replica(forward, images):
    with tf.GradientTape() as tape:
        loss = loss_of(forward(images))
    gradients = tape.gradient(loss, network.trainable_variables)
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)

before = [v.numpy() for v in network.variables]
results = []
for forward in (lambda images: network(images, training=True), recomputing(network)):
    run = tf.function(lambda images: strategy.run(replica, args=(forward, images)))
    gradients = [strategy.experimental_local_results(g)[0].numpy() for g in run(images)]
    results.append([*gradients, *(v.numpy() for v in network.non_trainable_variables)])
    for variable, value in zip(network.variables, before):
        variable.assign(value)
plain, again = results
for ours, theirs in zip(again, plain, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)
assert np.abs(plain[-1] - network.non_trainable_variables[-1].numpy()).max() > 1e-3
"""


def run_script(text: str, tmp_path: Path, *arguments: str, **environment: str) -> str:
    (tmp_path / "tests_test_recomputation.py").write_text(Path(__file__).read_text())
    script = tmp_path / "script.py"
    script.write_text(text)
    environment = {**os.environ, **environment}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_two_devices_with_synchronized_statistics(tmp_path):
    # Virtual devices must be there before TensorFlow starts, hence another process.
    run_script(TWO_DEVICES, tmp_path)


MEMORY = """
import sys
sys.path.insert(0, sys.argv[1])
from measure import peak_megabytes
from tests_test_recomputation import *

network, jit_compile = residual_network("float32", blocks=12, channels=8), sys.argv[2] == "xla"
images = pixels(4, 257, 257)
for forward in (recomputing(network), lambda images: network(images, training=True)):
    @tf.function(jit_compile=jit_compile)
    def run(images):
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_mean(tf.square(output)) for output in forward(images).values()])
        return tf.linalg.global_norm(tape.gradient(loss, network.trainable_variables))

    run(images)
    print(peak_megabytes(lambda: run(images)))
"""


@pytest.mark.parametrize("compiler", ["none", pytest.param("xla", marks=pytest.mark.slow)])
def test_less_memory(tmp_path, compiler):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system does not tell peak memory")
    # Without oneDNN, whose allocator keeps what it once had; the C library's gives it back.
    environment = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    output = run_script(MEMORY, tmp_path, str(ROOT / "benchmarks"), compiler, **environment)
    less, plain = map(float, output.split())
    # 12 blocks of some 7 tensors of 2.1 MB each, of which a few at a time are enough.
    assert plain > 100
    assert less < 0.6 * plain, (less, plain)
