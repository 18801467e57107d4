from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.checkpoints import named_weights
from deeplab2_lite.config_loading import resolve_dataset_info, save_config
from deeplab2_lite.data.record_index import open_records
from deeplab2_lite.errors import UserError
from deeplab2_lite.losses import LossTerm
from deeplab2_lite.model import build_model
from deeplab2_lite.panoptic_losses import CENTER, OFFSET, SEMANTIC, TOTAL, loss_terms
from deeplab2_lite.trainer.panoptic import PanopticTrainer
from deeplab2_lite.trainer.training_state import TrainingState

from .tiny import tiny_trainer


def make_trainer(config, strategy=None):
    strategy = strategy or tf.distribute.OneDeviceStrategy("/cpu:0")
    info = resolve_dataset_info(config)
    with strategy.scope():
        state = TrainingState(build_model(config, info.num_classes), config.train, config.train.steps)
    index = open_records(config.data.dir, config.data.train_split)
    return PanopticTrainer(config, info, index, strategy, state), state


def values(variables):
    return [np.array(tf.convert_to_tensor(v)) for v in variables]


def test_loss_falls_and_parts_add_up(config):
    optimizer = dataclasses.replace(
        config.train.optimizer, name="adam", options={"beta_1": 0.8}, learning_rate=3e-3, power=0.0
    )
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, optimizer=optimizer, steps=100))
    trainer, state = make_trainer(config)
    first = trainer.train(tf.constant(2))
    trainer.train(tf.constant(16))
    last = trainer.train(tf.constant(2))
    assert state.step == 20
    assert last[f"losses/train_{TOTAL}"] < 0.7 * first[f"losses/train_{TOTAL}"]
    parts = sum(last[f"losses/train_{name}"] for name in (SEMANTIC, CENTER, OFFSET))
    assert last[f"losses/train_{TOTAL}"] == pytest.approx(parts, rel=1e-5)
    assert last["learning_rate"] == pytest.approx(3e-3)


def test_a_loss_that_is_not_finite_changes_nothing_and_names_the_records(config, monkeypatch):
    trainer, state = tiny_trainer(config)
    trainer.train(tf.constant(1))
    before = values(state.variables())

    def broken(*arguments):
        terms = loss_terms(*arguments)
        term = terms[OFFSET].term
        return {**terms, OFFSET: terms[OFFSET]._replace(term=LossTerm(term.numerator * np.nan, term.denominator))}

    monkeypatch.setattr("deeplab2_lite.trainer.panoptic.loss_terms", broken)
    trainer._train_loop_fn = None
    # Further steps of the same loop must not train either.
    with pytest.raises(UserError) as raised:
        trainer.train(tf.constant(3))
    assert state.step == 1
    for old, new in zip(before, values(state.variables()), strict=True):
        np.testing.assert_array_equal(old, new)
    message = str(raised.value)
    assert message.startswith("step 1: the loss or its gradient is not finite")
    assert message.count("train-00000-of-00001.tfrecord record") == config.train.batch_size
    assert "\n" not in message
    # Those of the second batch, in the order in which the input pipeline gave them.
    assert [int(number) for number in re.findall(r"tfrecord record (\d+)", message)] == expected_records(config, step=1)


def expected_records(config, step):
    from deeplab2_lite.data.pipeline import training_dataset

    index = open_records(config.data.dir, config.data.train_split)
    dataset = training_dataset(config, resolve_dataset_info(config), index, start_step=step)
    return [int(r) for r in next(iter(dataset)).record]


def test_clipping_scales_the_gradient_of_the_whole_batch(config):
    def update(clip):
        optimizer = dataclasses.replace(
            config.train.optimizer, name="sgd", options={"momentum": 0.0}, learning_rate=1.0, clip_global_norm=clip
        )
        changed = dataclasses.replace(config, train=dataclasses.replace(config.train, optimizer=optimizer))
        trainer, state = tiny_trainer(changed)
        network = state.network
        before = values(network.trainable_variables)
        trainer.train(tf.constant(1))
        return np.concatenate([
            (new - old).ravel() for old, new in zip(before, values(network.trainable_variables), strict=True)
        ])  # fmt: skip

    free, clipped = update(None), update(1e-3)
    assert np.linalg.norm(clipped) == pytest.approx(1e-3, rel=1e-3)
    cosine = free @ clipped / np.linalg.norm(free) / np.linalg.norm(clipped)
    assert cosine == pytest.approx(1.0, abs=1e-3)


# Virtual devices must be there before TensorFlow starts, hence another process.
TWO_DEVICES = """
import sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.checkpoints import named_weights
from tests.trainer.test_loop import make_trainer
from tests.trainer.tiny import tiny_trainer

config = load_config(sys.argv[1])
make_trainer = {"tiny": tiny_trainer, "mobilenet_v3_small": make_trainer}[sys.argv[2]]
weights = []
for strategy in (tf.distribute.OneDeviceStrategy("/cpu:0"), tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])):
    trainer, state = make_trainer(config, strategy)
    network = state.network
    before = {k: np.array(tf.convert_to_tensor(v)) for k, v in named_weights(network).items()}
    outputs = trainer.train(tf.constant(3))
    print(strategy.num_replicas_in_sync, outputs)
    weights.append({k: np.array(tf.convert_to_tensor(v)) for k, v in named_weights(network).items()})
one, two = weights
assert one.keys() == two.keys()
flat = [np.concatenate([w[k].ravel() for k in before]) for w in (before, one, two)]
update, difference = np.linalg.norm(flat[1] - flat[0]), np.linalg.norm(flat[2] - flat[1])
print("update", update, "difference", difference, "largest", np.abs(flat[2] - flat[1]).max())
assert 1e-3 < update < 10, update
assert difference < 1e-3 * update, (difference, update)
"""


def check_two_devices(config, network, folder):
    path = save_config(config, folder / "config.yaml")
    command = [sys.executable, "-c", TWO_DEVICES, str(path), network]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.mark.parametrize("network", ["tiny", pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)])
def test_two_devices_train_to_the_weights_of_one(network, config, tmp_path):
    optimizer = dataclasses.replace(
        config.train.optimizer, name="sgd", options={"momentum": 0.9}, learning_rate=1e-4, power=0.0
    )
    batch_norm = dataclasses.replace(config.model.batch_norm, synchronized=True)
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, optimizer=optimizer),
        model=dataclasses.replace(config.model, batch_norm=batch_norm),
    )
    check_two_devices(config, network, tmp_path)


def test_weights_have_structural_names(config):
    names = list(named_weights(build_model(config, 9)))
    assert "backbone/layer1/conv/kernel" in names
    assert len(names) == len(set(names))
