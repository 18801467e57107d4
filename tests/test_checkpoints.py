"""Checkpoints hold exactly what was there, are whole or not there, and go into what they came from alone."""

from __future__ import annotations

import json
import shutil
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.checkpoints import CheckpointStore, assign, named_optimizer_state, named_weights
from deeplab2_lite.config_loading import config_from_dict, config_to_dict, load_config
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError

METADATA = {"config": {"name": "x"}, "dataset_info": {}}
RANDOM = np.random.default_rng(0)
# Every kind of float32, and a count beyond what a float holds.
AWKWARD = np.array([0.0, -0.0, 1e-45, 3.4028235e38, 1 / 3, np.inf, -np.inf, np.nan], np.float32)
BIG = 2**53 + 1


def state():
    weights = {
        "backbone/stem/conv/kernel": tf.Variable(RANDOM.normal(size=(3, 3, 2, 5)).astype(np.float32)),
        "head/bias": tf.Variable(AWKWARD),
        "head/scalar": tf.Variable(2.5),
        # Large enough for a file of its own.
        "head/wide": tf.Variable(RANDOM.normal(size=(100, 200)).astype(np.float32)),
    }
    optimizer = {
        "iteration": tf.Variable(BIG, dtype=tf.int64),
        "m/backbone/stem/conv/kernel": tf.Variable(RANDOM.normal(size=(3, 3, 2, 5)).astype(np.float32)),
    }
    return weights, optimizer


def values(variables):
    return {name: np.array(tf.convert_to_tensor(variable)) for name, variable in variables.items()}


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert isinstance(actual[name], np.ndarray), name
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape), name
        # Bit by bit: also the sign of zero and NaN.
        assert actual[name].tobytes() == array.tobytes(), name


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", max_to_keep=None)
    yield store
    store.close()


@pytest.fixture(scope="module")
def one_checkpoint(tmp_path_factory):
    """A folder with the checkpoint of step 7, and what is in it."""
    weights, optimizer = state()
    writer = CheckpointStore(tmp_path_factory.mktemp("checkpoint"))
    writer.save(7, weights, optimizer, METADATA)
    writer.close()
    return writer.directory, values(weights), values(optimizer)


# ---- values


def test_values_come_back_bit_by_bit(one_checkpoint):
    folder, weights, optimizer = one_checkpoint
    checkpoint = CheckpointStore(folder).load()
    assert checkpoint.step == 7
    assert_same(checkpoint.weights, weights)
    assert_same(checkpoint.optimizer, optimizer)
    assert int(checkpoint.optimizer["iteration"]) == BIG
    assert checkpoint.metadata == METADATA


def test_what_changes_right_after_save_is_not_saved(store):
    large = tf.Variable(tf.ones([2_000_000]))
    count = tf.Variable(1, dtype=tf.int64)
    store.save(1, {"large": large}, {"iteration": count}, METADATA)
    for _ in range(5):
        large.assign_add(tf.ones_like(large))
        count.assign_add(1)
    checkpoint = store.load()
    np.testing.assert_array_equal(checkpoint.weights["large"], np.ones(2_000_000, np.float32))
    assert checkpoint.optimizer["iteration"] == 1


def test_configuration_and_label_space_come_back(store):
    config = load_config("shapes/mobilenet_v3_small", "description='Straße, 漢',train.optimizer.options.epsilon=1e-7")
    info = load_dataset_info("cityscapes")
    metadata = {"config": config_to_dict(config), "dataset_info": info.to_dict()}
    store.save(0, {"w": tf.Variable(1.0)}, {}, metadata)
    loaded = store.load()
    assert loaded.step == 0 and loaded.optimizer == {}
    assert loaded.metadata == metadata
    assert config_from_dict(loaded.metadata["config"], check=True) == config


def test_a_checkpoint_goes_into_a_new_network_and_optimizer(store):
    def build(seed):
        inputs = keras.Input([4])
        initializer = keras.initializers.GlorotUniform(seed=seed)
        hidden = keras.layers.Dense(3, name="hidden", kernel_initializer=initializer)(inputs)
        model = keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(hidden))
        optimizer = keras.optimizers.Adam(0.1)
        optimizer.build(model.trainable_variables)
        return model, optimizer

    def step(model, optimizer):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(tf.reshape(tf.range(8.0), [2, 4]), training=True) ** 3)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )

    model, optimizer = build(0)
    step(model, optimizer)
    names = set(named_weights(model))
    assert names == {
        "hidden/kernel", "hidden/bias", "norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance"
    }  # fmt: skip
    assert "m/hidden/kernel" in named_optimizer_state(optimizer.variables)
    store.save(1, named_weights(model), named_optimizer_state(optimizer.variables), METADATA)
    checkpoint = store.load()
    other, other_optimizer = build(1)
    assign(named_weights(other), checkpoint.weights, "weights")
    assign(named_optimizer_state(other_optimizer.variables), checkpoint.optimizer, "optimizer")
    step(model, optimizer)
    step(other, other_optimizer)
    assert_same(values(named_weights(other)), values(named_weights(model)))
    assert int(other_optimizer.iterations) == 2


def test_two_variables_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two variables are named 'w'; layers need distinct explicit names"):
        named_optimizer_state([tf.Variable(1.0, name="w"), tf.Variable(1.0, name="w")])


# ---- steps and retention


def test_steps_are_sorted_and_the_last_stay(tmp_path):
    folder = tmp_path / "deep" / "checkpoints"
    variable = tf.Variable(0.0)
    store = CheckpointStore(folder, max_to_keep=2)
    assert store.steps() == [] and store.latest_step() is None
    # Opening alone makes nothing.
    assert not folder.exists()
    for step in (2, 9, 10, 100):
        variable.assign(step)
        store.save(step, {"w": variable}, {}, METADATA)
    store.wait()
    assert store.steps() == [10, 100] and store.latest_step() == 100
    assert store.load().weights["w"] == 100 and store.load(10).weights["w"] == 10
    store.close()
    # A run that goes on keeps counting, also over what it has not written itself.
    again = CheckpointStore(folder, max_to_keep=2)
    again.save(101, {"w": variable}, {}, METADATA)
    again.close()
    assert again.steps() == [100, 101]
    assert CheckpointStore(folder).steps() == [100, 101]
    assert sorted(p.name for p in folder.iterdir()) == ["100", "101"]


def test_without_a_limit_all_stay(store):
    for step in range(5):
        store.save(step, {"w": tf.Variable(float(step))}, {}, METADATA)
    store.wait()
    assert store.steps() == [0, 1, 2, 3, 4]
    assert [float(store.load(step).weights["w"]) for step in store.steps()] == [0, 1, 2, 3, 4]


def test_a_step_that_is_there_is_left_as_it_is(store):
    store.save(5, {"w": tf.Variable(1.0)}, {}, METADATA)
    store.wait()
    store.save(5, {"w": tf.Variable(2.0)}, {}, METADATA)
    assert store.load().weights["w"] == 1.0


def test_a_reader_sees_what_another_process_wrote_since(tmp_path):
    reader, writer = CheckpointStore(tmp_path), CheckpointStore(tmp_path)
    for step in (1, 2):
        writer.save(step, {"w": tf.Variable(float(step))}, {}, METADATA)
        writer.wait()
        assert reader.latest_step() == step and reader.load().weights["w"] == step
    writer.close()


def test_what_was_left_half_written_is_ignored_and_written_anew(store):
    store.save(3, {"w": tf.Variable(3.0)}, {}, METADATA)
    store.close()
    # What a run killed in the middle of step 4 leaves.
    shutil.copytree(store.directory / "3", store.directory / "4.orbax-checkpoint-tmp")
    shutil.rmtree(store.directory / "4.orbax-checkpoint-tmp" / "metadata")
    (store.directory / "5").write_text("a file")
    (store.directory / "best").mkdir()
    assert store.steps() == [3] and store.load().step == 3
    (store.directory / "5").unlink()
    store.save(4, {"w": tf.Variable(4.0)}, {}, METADATA)
    assert store.load().weights["w"] == 4.0


def test_a_step_is_there_only_when_it_is_whole(store):
    store.save(1, {"w": tf.Variable(tf.ones([3_000_000]))}, {}, METADATA)
    reader = CheckpointStore(store.directory)
    deadline = time.monotonic() + 60
    while not reader.steps():
        assert time.monotonic() < deadline
    # The writer has not been waited for.
    assert reader.load().weights["w"].sum() == 3_000_000


# ---- what cannot be loaded


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_checkpoints(tmp_path, one_checkpoint):
    none = CheckpointStore(tmp_path / "none")
    assert message_of(none.load) == f"{tmp_path / 'none'}: no checkpoint here; expected folders named by step"
    folder, *_ = one_checkpoint
    assert message_of(lambda: CheckpointStore(folder).load(8)) == f"{folder}: no checkpoint of step 8; there are [7]"


def _empty(path):
    path.write_bytes(b"")


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without_weights(path):
    text = json.loads(path.read_text())
    tree = {k: v for k, v in text["tree_metadata"].items() if "weights" not in k}
    path.write_text(json.dumps({**text, "tree_metadata": tree}))


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("state", shutil.rmtree),
        ("metadata", shutil.rmtree),
        ("metadata/metadata", _empty),
        ("metadata/metadata", _cut),
        ("state/_METADATA", _cut),
        ("state/_METADATA", _without_weights),
        ("state/manifest.ocdbt", _cut),
        ("state/ocdbt.process_0/d/*", _empty),
        ("state/d", shutil.rmtree),
        ("*", lambda path: shutil.rmtree(path) if path.is_dir() else path.unlink()),
    ],
)
def test_damaged_checkpoints_are_named(one_checkpoint, tmp_path, monkeypatch, pattern, damage):
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    shutil.copytree(one_checkpoint[0], tmp_path / "copy")
    folder = tmp_path / "copy" / "7"
    found = list(folder.glob(pattern))
    assert found
    for path in found:
        damage(path)
    assert message_of(CheckpointStore(tmp_path / "copy").load).startswith(f"{folder}: damaged checkpoint (")
    # Orbax's threads are still reading.
    time.sleep(0.05)
    assert complaints == []
    # What has nothing to do with it is still told.
    sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError("other")))
    assert len(complaints) == 1


# ---- assigning


def targets():
    return {
        "a": tf.Variable([1.0, 2.0]),
        "b": tf.Variable(3.0),
        "steps": tf.Variable(4, dtype=tf.int64),
    }


ARRAYS = {"a": np.array([5.0, 6.0], np.float32), "b": np.float32(7.0), "steps": np.array(BIG)}


def test_assign_puts_each_value_in_its_place():
    variables = targets()
    assign(variables, dict(reversed(ARRAYS.items())), "weights of x")
    assert variables["a"].numpy().tolist() == [5.0, 6.0]
    assert variables["b"].numpy() == 7.0 and variables["steps"].numpy() == BIG
    assert variables["steps"].dtype == tf.int64


def test_assign_converts_types():
    variable = tf.Variable([0.0, 0.0], dtype=tf.bfloat16)
    assign({"a": variable}, {"a": np.array([1.0, 1 / 3], np.float32)}, "x")
    assert variable.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(variable, tf.float32), [1.0, 1 / 3], rtol=2**-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": None}, "weights of x: no value for 'b'; the checkpoint is of another architecture"),
        (
            {"steps": np.zeros(3)},
            "weights of x: 'steps' has shape [3], expected []; another architecture or number of classes",
        ),
        (
            {"a": np.zeros((2, 1))},
            "weights of x: 'a' has shape [2, 1], expected [2]; another architecture or number of classes",
        ),
        (
            {"extra": np.zeros(1), "more": np.zeros(1)},
            "weights of x: 'extra' is not in the model; the checkpoint is of another architecture",
        ),
    ],
)
def test_another_architecture_is_refused_and_changes_nothing(change, message):
    variables = targets()
    arrays = {name: array for name, array in {**ARRAYS, **change}.items() if array is not None}
    assert message_of(lambda: assign(variables, arrays, "weights of x")) == message
    assert values(variables)["a"].tolist() == [1.0, 2.0]
    assert values(variables)["b"] == 3.0 and values(variables)["steps"] == 4
