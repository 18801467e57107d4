"""What a training step does with the options of training, on a network that is traced in a second."""

from __future__ import annotations

import re
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.checkpoints import CheckpointStore, named_weights
from deeplab2_lite.errors import UserError
from deeplab2_lite.losses import LossTerm
from deeplab2_lite.panoptic_losses import OFFSET, TOTAL, loss_denominators, loss_terms
from deeplab2_lite.trainer.loss_scale import LossScale
from deeplab2_lite.trainer.parameter_groups import multipliers

from .tiny import changed, tiny_network, tiny_trainer, values

PLAIN_SGD = {"name": "sgd", "options": {"momentum": 0.0}, "learning_rate": 1e-3, "power": 0.0}


def weights_after(config, steps):
    trainer, state = tiny_trainer(config)
    before = values(named_weights(state.network))
    outputs = trainer.train(tf.constant(steps))
    return before, values(named_weights(state.network)), outputs


def largest_difference(one, two):
    return max(float(np.abs(one[name] - two[name]).max()) for name in one)


# ---- accumulation


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(config, parts):
    # Batch statistics are of a part, so they are left out of it here.
    config = changed(config, batch_norm={"frozen": True}, optimizer={**PLAIN_SGD, "clip_global_norm": 0.5})
    before, whole, losses = weights_after(config, 2)
    _, in_parts, losses_of_parts = weights_after(changed(config, train={"accumulation_steps": parts}), 2)
    update = largest_difference(before, whole)
    assert update > 1e-5
    assert largest_difference(whole, in_parts) < 1e-4 * update
    for name in losses:
        if "losses" in name:
            assert losses_of_parts[name] == pytest.approx(losses[name], rel=1e-5), name


def test_batch_statistics_are_those_of_each_part(config):
    config = changed(config, optimizer=PLAIN_SGD)
    _, whole, _ = weights_after(config, 1)
    before, in_parts, _ = weights_after(changed(config, train={"accumulation_steps": 2}), 1)
    mean = "decoder/bn/moving_mean"
    # Two updates in place of one.
    momentum = config.model.batch_norm.momentum
    share, share_of_two = 1 - momentum, 1 - momentum**2
    ratio = np.median((in_parts[mean] - before[mean]) / (whole[mean] - before[mean]))
    assert ratio == pytest.approx(share_of_two / share, rel=0.1)


def test_denominators_are_those_of_the_losses(config):
    trainer, state = tiny_trainer(config)
    batch = next(iter(trainer.train_dataset))
    heads = trainer.batch_losses(state.network(batch.image), batch, config)
    denominators = loss_denominators(batch.targets)
    assert set(heads) == set(denominators)
    for name, weighted in heads.items():
        assert float(denominators[name]) == float(weighted.term.denominator) > 0


# ---- groups of learning rates


ADDONS = pytest.param("tfa/RectifiedAdam", marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason="no wheels"))


@pytest.mark.parametrize("name", ["sgd", "adam", ADDONS])
def test_groups_learn_at_multiples_of_the_rate(config, name):
    options = {"momentum": 0.0} if name == "sgd" else {}
    optimizer = {**PLAIN_SGD, "name": name, "options": options}
    before, plain, _ = weights_after(changed(config, optimizer=optimizer), 1)
    own = {**optimizer, "backbone_multiplier": 0.25, "batch_norm_multiplier": 2.0}
    _, grouped, outputs = weights_after(changed(config, optimizer=own), 1)
    for weight, multiplier in {
        "backbone/stem/conv/kernel": 0.25,
        "backbone/stem/bn/beta": 0.5,
        "decoder/conv/kernel": 1.0,
        "decoder/bn/beta": 2.0,
        "heads/center_offset/conv/bias": 1.0,
    }.items():
        update, own_update = plain[weight] - before[weight], grouped[weight] - before[weight]
        assert np.abs(update).max() > 1e-7, weight
        np.testing.assert_allclose(own_update, multiplier * update, rtol=2e-3, atol=1e-8, err_msg=weight)
    assert outputs["learning_rate"] == pytest.approx(1e-3)


def test_state_of_groups_has_names_of_its_own(config):
    own = {"name": "adam", "options": {}, "backbone_multiplier": 0.5}
    trainer, state = tiny_trainer(changed(config, optimizer=own))
    trainer.train(tf.constant(2))
    names = set(state.optimizer_state())
    assert {"times_0.5/m/backbone/stem/conv/kernel", "m/decoder/conv/kernel", "iteration"} <= names
    assert int(state.optimizer_state()["times_0.5/iteration"]) == 2
    assert len(multipliers(changed(config).train.optimizer, state.network)) == len(state.network.trainable_variables)


# ---- frozen normalization


def test_frozen_normalization_neither_learns_nor_counts(config):
    config = changed(config, batch_norm={"frozen": True}, optimizer=PLAIN_SGD)
    before, after, _ = weights_after(config, 2)
    for name in before:
        if "/bn/" in name:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
        else:
            assert np.abs(after[name] - before[name]).max() > 0, name


def test_frozen_normalization_is_that_of_inference(config):
    network = tiny_network(changed(config, batch_norm={"frozen": True}), 9)
    images = tf.random.stateless_uniform([2, 33, 33, 3], (1, 2), 0.0, 255.0)
    for name, value in network(images, training=True).items():
        np.testing.assert_array_equal(value, network(images, training=False)[name])


# ---- averages


def test_averages_are_those_of_the_weights_so_far(config, tmp_path):
    trainer, state = tiny_trainer(changed(config, train={"ema_decay": 0.4}, optimizer=PLAIN_SGD))
    expected = values(named_weights(state.network))
    for step in range(4):
        trainer.train(tf.constant(1))
        decay = min(0.4, (1 + step) / (10 + step))
        current = values(named_weights(state.network))
        expected = {name: decay * expected[name] + (1 - decay) * current[name] for name in expected}
    averages = values(state.averaged())
    assert set(averages) == set(expected)
    assert largest_difference(averages, expected) < 1e-6
    assert largest_difference(averages, current) > 1e-5
    with state.looking(averaged=True):
        assert largest_difference(values(named_weights(state.network)), averages) == 0
    assert largest_difference(values(named_weights(state.network)), current) == 0
    assert largest_difference(values(state.averaged()), averages) == 0
    store = CheckpointStore(tmp_path)
    store.save(4, named_weights(state.network), state.optimizer_state(), {}, state.averaged())
    store.close()
    _, other = tiny_trainer(changed(config, train={"ema_decay": 0.4}, optimizer=PLAIN_SGD))
    other.restore(CheckpointStore(tmp_path).load(), "x")
    assert largest_difference(values(other.averaged()), averages) == 0
    assert other.step == 4


def test_averages_need_a_checkpoint_that_has_them(config, tmp_path):
    _, state = tiny_trainer(config)
    store = CheckpointStore(tmp_path)
    store.save(1, named_weights(state.network), state.optimizer_state(), {})
    store.close()
    _, other = tiny_trainer(changed(config, train={"ema_decay": 0.9}))
    with pytest.raises(UserError, match="has no averaged weights; train"):
        other.restore(CheckpointStore(tmp_path).load(), "x")


# ---- float16


def test_the_scale_halves_at_an_overflow_and_doubles_after_long():
    scale = LossScale()
    assert float(scale.read()) == 2.0**15
    assert bool(scale.update(tf.constant(False))) and float(scale.read()) == 2.0**14
    for _ in range(1999):
        scale.update(tf.constant(True))
    assert float(scale.read()) == 2.0**14
    scale.update(tf.constant(True))
    assert float(scale.read()) == 2.0**15
    for _ in range(15):
        assert bool(scale.update(tf.constant(False)))
    # At 1 there is nothing left to blame.
    assert float(scale.read()) == 1.0 and not bool(scale.update(tf.constant(False)))
    assert float(scale.read()) == 1.0
    scale.state()["loss_scale/value"].assign(2.0**24)
    scale.state()["loss_scale/finite_steps"].assign(5000)
    scale.update(tf.constant(True))
    assert float(scale.read()) == 2.0**24


def test_float16_learns_as_float32_does(config):
    config = changed(config, optimizer=PLAIN_SGD)
    before, whole, losses = weights_after(config, 1)
    trainer, state = tiny_trainer(changed(config, train={"precision": "float16"}))
    state.loss_scale.state()["loss_scale/value"].assign(16.0)
    half_losses = trainer.train(tf.constant(1))
    half = values(named_weights(state.network))
    flat = [np.concatenate([weights[n].ravel() for n in before]) for weights in (before, whole, half)]
    update, half_update = flat[1] - flat[0], flat[2] - flat[0]
    assert np.linalg.norm(half_update - update) < 0.02 * np.linalg.norm(update) > 0
    total = f"losses/train_{TOTAL}"
    assert half_losses[total] == pytest.approx(losses[total], rel=1e-2)


def test_an_overflow_changes_the_scale_alone_and_the_step_counts(config):
    trainer, state = tiny_trainer(changed(config, train={"precision": "float16"}))
    scale = state.loss_scale.state()["loss_scale/value"]
    # So that the gradient of float16 overflows, again and again.
    scale.assign(2.0**120)
    before = values(named_weights(state.network))
    trainer.train(tf.constant(3))
    assert float(scale) == 2.0**117 and state.step == 3
    after = values(named_weights(state.network))
    assert largest_difference(before, after) == 0
    assert int(state.optimizer_state()["iteration"]) == 0 and trainer.skipped_steps == ()


# ---- what is not finite


def break_steps(monkeypatch, state, steps):
    """Makes the loss of some steps infinite."""

    def broken(*arguments):
        terms = loss_terms(*arguments)
        term = terms[OFFSET].term
        is_broken = tf.reduce_any(tf.equal(state.global_step, tf.constant(steps, tf.int64)))
        numerator = term.numerator * tf.where(is_broken, np.float32(np.inf), np.float32(1))
        return {**terms, OFFSET: terms[OFFSET]._replace(term=LossTerm(numerator, term.denominator))}

    monkeypatch.setattr("deeplab2_lite.trainer.panoptic.loss_terms", broken)


def test_a_batch_that_is_not_finite_is_left_out_so_often_at_most(config, monkeypatch):
    config = changed(config, train={"max_skipped_batches": 2}, optimizer=PLAIN_SGD)
    trainer, state = tiny_trainer(config)
    break_steps(monkeypatch, state, [1, 2, 4])
    outputs = trainer.train(tf.constant(1))
    before = values(named_weights(state.network))
    outputs = trainer.train(tf.constant(2))
    assert state.step == 3 and trainer.skipped_steps == (1, 2)
    assert largest_difference(before, values(named_weights(state.network))) == 0
    told = trainer.newly_skipped()
    assert [line.split(":")[0] for line in told] == ["step 1", "step 2"] and trainer.newly_skipped() == []
    assert all(len(re.findall(r"tfrecord record \d+", line)) == config.train.batch_size for line in told)
    outputs = trainer.train(tf.constant(1))
    # A mean over what was learnt alone.
    assert np.isfinite(outputs[f"losses/train_{TOTAL}"])
    with pytest.raises(UserError, match=r"^step 4: the loss or its gradient is not finite"):
        trainer.train(tf.constant(3))
    assert state.step == 4


def test_a_restarted_run_has_as_many_skips_left(config, monkeypatch):
    trainer, state = tiny_trainer(changed(config, train={"max_skipped_batches": 2}), skipped=(7,))
    break_steps(monkeypatch, state, [0, 1])
    with pytest.raises(UserError, match=r"^step 1:"):
        trainer.train(tf.constant(2))
    assert trainer.skipped_steps == (7, 0)
    assert [line.split(":")[0] for line in trainer.newly_skipped()] == ["step 0"]


# ---- stopping


def test_stop_ends_the_loop_after_a_step(config):
    trainer, state = tiny_trainer(config)
    trainer.train(tf.constant(1))
    assert not trainer.has_stopped
    trainer.stop()
    trainer.train(tf.constant(5))
    assert trainer.has_stopped and state.step == 2


def test_stop_from_another_thread_ends_a_running_loop(config):
    trainer, state = tiny_trainer(config)
    trainer.train(tf.constant(1))

    def stop_soon():
        while state.step < 4:
            time.sleep(0.01)
        trainer.stop()

    thread = threading.Thread(target=stop_soon)
    thread.start()
    trainer.train(tf.constant(3000))
    thread.join()
    assert trainer.has_stopped and 4 <= state.step < 3001
