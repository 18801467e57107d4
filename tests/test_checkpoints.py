"""Checkpoints hold exactly what was there, are whole or not there, and go into what they came from alone."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite import checkpoints
from deeplab2_lite.checkpoints import CheckpointStore, assign, named_optimizer_state, named_weights
from deeplab2_lite.config_loading import config_from_dict, config_to_dict, load_config
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.orbax_import import import_orbax

from .checkpoint_states import BIG, METADATA, assert_same, message_of, names_in, state, values


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


def test_averages_of_the_weights_come_back(store):
    weights, optimizer = state()
    averages = {name: tf.Variable(variable * 2) for name, variable in weights.items()}
    store.save(1, weights, optimizer, METADATA, averages)
    store.save(2, weights, optimizer, METADATA, averages=None)
    with_averages, without = store.load(1), store.load(2)
    assert_same(with_averages.averages, values(averages))
    for checkpoint in (with_averages, without):
        assert_same(checkpoint.weights, values(weights))
        assert_same(checkpoint.optimizer, values(optimizer))
    assert without.averages == {}


def test_checkpoints_of_before_averages_and_checksums_are_read(tmp_path):
    weights, optimizer = state()
    orbax = import_orbax()
    for step, slots in ((3, values(optimizer)), (4, {})):
        with orbax.Checkpointer(orbax.CompositeCheckpointHandler()) as checkpointer:
            parts = {"weights": values(weights), "optimizer": slots}
            arguments = {"state": orbax.args.StandardSave(parts), "metadata": orbax.args.JsonSave(METADATA)}
            checkpointer.save(tmp_path / str(step), args=orbax.args.Composite(**arguments))
    for step, slots in ((3, values(optimizer)), (4, {})):
        checkpoint = CheckpointStore(tmp_path).load(step)
        assert_same(checkpoint.weights, values(weights))
        assert_same(checkpoint.optimizer, slots)
        assert checkpoint.averages == {} and checkpoint.metadata == METADATA


def test_orbax_reads_them_by_itself(one_checkpoint):
    folder, weights, _ = one_checkpoint
    orbax = import_orbax()
    with orbax.CheckpointManager(folder) as manager:
        assert manager.latest_step() == 7
        items = {"state": orbax.args.StandardRestore(), "metadata": orbax.args.JsonRestore()}
        restored = manager.restore(7, args=orbax.args.Composite(**items))
    assert_same(restored["state"]["weights"], weights)
    assert restored["metadata"]["config"] == METADATA["config"]


# ---- what changes after save


def _assign(variable):
    variable.assign(tf.ones_like(variable))


def _scatter(variable):
    variable.scatter_nd_update([[0]], [5.0])


def _optimize(make):
    def update(variable):
        make().apply_gradients([(tf.ones_like(variable), variable)])

    return update


@pytest.mark.parametrize(
    "update",
    [
        _assign,
        _scatter,
        tf.function(lambda variable: variable.assign_add(tf.ones_like(variable))),
        tf.function(lambda variable: variable.assign_add(tf.ones_like(variable)), jit_compile=True),
        _optimize(lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
        _optimize(lambda: keras.optimizers.Adam(0.1)),
        _optimize(lambda: keras.optimizers.legacy.Adam(0.1)),
    ],
    ids=["assign", "scatter", "graph", "XLA", "sgd", "adam", "legacy adam"],
)
def test_nothing_that_updates_variables_reaches_what_is_being_saved(store, monkeypatch, update):
    # The writer is held until the variable has changed.
    changed, write = threading.Event(), checkpoints.write_checkpoint

    def write_late(*arguments):
        assert changed.wait(60)
        write(*arguments)

    monkeypatch.setattr(checkpoints, "write_checkpoint", write_late)
    variable = tf.Variable(tf.random.stateless_normal([10_000], [1, 2]))
    before = variable.numpy().copy()
    store.save(1, {"w": variable}, {}, METADATA)
    for _ in range(3):
        update(variable)
    assert (variable.numpy() != before).any()
    changed.set()
    np.testing.assert_array_equal(store.load().weights["w"], before)


def test_metadata_is_that_of_the_moment(store):
    metadata = {"config": {"steps": [1]}}
    store.save(1, {"w": tf.Variable(1.0)}, {}, metadata)
    metadata["config"]["steps"].append(2)
    assert store.load().metadata == {"config": {"steps": [1]}}


# ---- steps


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


def test_a_step_is_there_only_when_it_is_whole(store):
    store.save(1, {"w": tf.Variable(tf.ones([3_000_000]))}, {}, METADATA)
    reader = CheckpointStore(store.directory)
    deadline = time.monotonic() + 60
    while not reader.steps():
        assert time.monotonic() < deadline
    # The writer has not been waited for.
    assert reader.load().weights["w"].sum() == 3_000_000


def test_a_worker_that_does_not_write_reads_all_variables_and_leaves_no_trace(tmp_path, monkeypatch):
    read = []
    convert = tf.convert_to_tensor
    monkeypatch.setattr(tf, "convert_to_tensor", lambda variable: read.append(variable.name) or convert(variable))
    folder = tmp_path / "checkpoints"
    parts = [{name: tf.Variable(1.0, name=name)} for name in ("weight", "slot", "average")]
    chief, worker = CheckpointStore(folder), CheckpointStore(folder, writes=False)
    for _ in range(2):
        worker.save(1, parts[0], parts[1], METADATA, parts[2])
    worker.wait()
    worker.close()
    assert names_in(tmp_path) == []
    worker_read = [name.removesuffix(":0") for name in read]
    assert worker_read == ["weight", "slot", "average"] * 2
    # The chief reads as often, also what is there already: otherwise it would leave the others waiting.
    read.clear()
    for _ in range(2):
        chief.save(1, parts[0], parts[1], METADATA, parts[2])
    assert [name.removesuffix(":0") for name in read] == worker_read
    chief.close()
    assert worker.load().step == 1


def test_time_that_save_blocks_is_counted(store, monkeypatch):
    proceed, write = threading.Event(), checkpoints.write_checkpoint

    def write_late(*arguments):
        assert proceed.wait(60)
        write(*arguments)

    monkeypatch.setattr(checkpoints, "write_checkpoint", write_late)
    assert store.blocked_seconds == 0
    start = time.perf_counter()
    # Returns though nothing can be written yet.
    store.save(1, {"w": tf.Variable(1.0)}, {}, METADATA)
    first = store.blocked_seconds
    assert 0 < first <= time.perf_counter() - start
    threading.Timer(0.5, proceed.set).start()
    store.save(2, {"w": tf.Variable(2.0)}, {}, METADATA)
    assert first + 0.45 < store.blocked_seconds <= time.perf_counter() - start
    before = store.blocked_seconds
    store.wait()
    assert store.blocked_seconds == before and store.steps() == [1, 2]


def test_a_clock_that_jumps_changes_nothing(store, monkeypatch):
    jumps = itertools.cycle([0, 5, -3, 400, -20000])
    clock, clock_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: clock() + 86400 * next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: clock_ns() + 86400 * 10**9 * next(jumps))
    store.keep = {2}
    for step in range(1, 8):
        store.save(step, {"w": tf.Variable(float(step))}, {}, METADATA)
    store.wait()
    assert store.steps() == list(range(1, 8)) and store.latest_step() == 7
    assert [float(store.load(step).weights["w"]) for step in store.steps()] == list(range(1, 8))
    assert 0 < store.blocked_seconds < 60


# ---- what cannot be loaded


def test_missing_checkpoints(tmp_path, one_checkpoint):
    none = CheckpointStore(tmp_path / "none")
    assert message_of(none.load) == f"{tmp_path / 'none'}: no checkpoint here; expected folders named by step"
    folder, *_ = one_checkpoint
    assert message_of(lambda: CheckpointStore(folder).load(8)) == f"{folder}: no checkpoint of step 8; there are [7]"


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
