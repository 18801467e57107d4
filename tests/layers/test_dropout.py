import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.dropout import CountedDropout

ROOT = Path(__file__).resolve().parents[2]
ONES = tf.ones((50, 40))


def test_share_and_scale_of_what_is_kept():
    out = CountedDropout(0.25, seed=1)(ONES, training=True).numpy()
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((out == 0).mean() - 0.25) < 0.04


def test_inference_changes_nothing_and_counts_nothing():
    layer = CountedDropout(0.5, seed=1)
    np.testing.assert_array_equal(layer(ONES), ONES)
    assert int(layer.calls) == 0


def test_draws_follow_from_seed_and_counter_alone():
    first, second = CountedDropout(0.5, seed=1), CountedDropout(0.5, seed=1)
    draws = [first(ONES, training=True).numpy() for _ in range(3)]
    assert int(first.calls) == 3
    assert not np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[1], draws[2])
    second(ONES)
    second.set_weights([np.int64(2)])
    np.testing.assert_array_equal(second(ONES, training=True), draws[2])
    assert not np.array_equal(CountedDropout(0.5, seed=2)(ONES, training=True), draws[0])


def test_graph_loop_draws_as_eager_calls_do():
    eager, looped = CountedDropout(0.5, seed=1), CountedDropout(0.5, seed=1)
    looped(ONES)

    @tf.function
    def loop():
        total = tf.zeros_like(ONES)
        for i in tf.range(3):
            total += looped(ONES, training=True) * tf.cast(10**i, tf.float32)
        return total

    expected = sum(eager(ONES, training=True) * 10**i for i in range(3))
    np.testing.assert_allclose(loop(), expected)


def test_gradient_is_the_mask():
    layer = CountedDropout(0.5, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(ONES)
        out = layer(ONES, training=True)
    np.testing.assert_array_equal(tape.gradient(out, ONES), out)


def test_counter_is_a_weight_of_the_model():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, CountedDropout(0.5, seed=1, name="a/dropout")(inputs))
    assert [v.name for v in model.variables] == ["a/dropout/calls:0"] and model.variables[0].dtype == tf.int64
    assert not model.trainable_variables
    layer = CountedDropout.from_config(model.layers[-1].get_config())
    assert (layer.rate, layer.seed, layer.name) == (0.5, 1, "a/dropout")


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_dtype_stays(dtype):
    policy = keras.mixed_precision.Policy(dtype)
    assert CountedDropout(0.5, seed=1, dtype=policy)(ONES, training=True).dtype == policy.compute_dtype


def test_replicas_draw_differently_and_count_once_a_step(tmp_path):
    # Devices can be split only before TensorFlow starts, hence the process; autograph wants a file.
    script = tmp_path / "replicas.py"
    script.write_text("""
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from deeplab2_lite.layers.dropout import CountedDropout
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = CountedDropout(0.5, seed=1)
    layer(tf.ones((50, 40)))
@tf.function
def steps():
    out = tf.zeros((2, 50, 40))
    for _ in tf.range(3):
        draws = strategy.run(lambda: layer(tf.ones((50, 40)), training=True))
        out = tf.stack(strategy.experimental_local_results(draws))
    return out
one, other = steps().numpy()
assert not np.array_equal(one, other)
single = CountedDropout(0.5, seed=1)
single(tf.ones((50, 40)))
single.calls.assign(2)
np.testing.assert_array_equal(single(tf.ones((50, 40)), training=True), one)
assert int(layer.calls.numpy()) == 3
layer.calls.assign(7)
assert [int(v.numpy()) for v in layer.calls.values] == [7, 7]
""")
    result = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
