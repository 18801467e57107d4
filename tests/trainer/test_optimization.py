"""Learning rates and optimizer steps against closed formulas; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.checkpoints import assign, named_optimizer_state
from deeplab2_lite.config import OptimizerConfig
from deeplab2_lite.trainer.optimization import build_optimizer, build_schedule, optimizer_variables

from .optimizer_reference import GRADIENTS, START, adam, flat, flat_gradients, lamb, message_of, poly, start


def step(optimizer, variables, gradients):
    optimizer.apply_gradients([(tf.constant(gradients[v.name.removesuffix(":0")]), v) for v in variables])


def after(optimizer, variables, count):
    """Weights after so many steps, one flat vector."""
    for gradients in GRADIENTS[:count]:
        step(optimizer, variables, gradients)
    return flat([v.numpy() for v in variables])


# ---- schedule


def expected_rate(config, steps, at):
    if at < config.warmup_steps:
        # A straight line to where 'poly' is by then, so that there is no jump.
        return at / config.warmup_steps * poly(config, steps, config.warmup_steps)
    return poly(config, steps, at)


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(learning_rate=1e-3),
        OptimizerConfig(learning_rate=2.5e-4, power=1.0, end_learning_rate=1e-5),
        OptimizerConfig(learning_rate=0.1, power=0.0),
        OptimizerConfig(learning_rate=1e-3, warmup_steps=1),
        OptimizerConfig(learning_rate=5e-4, warmup_steps=20, end_learning_rate=1e-4),
        OptimizerConfig(learning_rate=5e-4, warmup_steps=99),
    ],
    ids=str,
)
def test_learning_rates(config):
    schedule = build_schedule(config, 100)
    for at in (0, 1, 2, 10, 19, 20, 21, 50, 98, 99, 100, 1000):
        rate = schedule(tf.constant(at, tf.int64))
        assert rate.dtype == tf.float32
        assert float(rate) == pytest.approx(expected_rate(config, 100, at), rel=2e-5, abs=1e-12), at
    assert float(schedule(0)) == (0.0 if config.warmup_steps else np.float32(config.learning_rate))


@given(
    rate=st.floats(1e-6, 1.0),
    power=st.floats(0.1, 3.0),
    steps=st.integers(2, 200000),
    warmup=st.floats(0, 0.9),
    at=st.floats(0, 1.2),
)
def test_learning_rates_anywhere(rate, power, steps, warmup, at):
    config = OptimizerConfig(learning_rate=rate, power=power, warmup_steps=int(warmup * steps))
    at = int(at * steps)
    actual = float(build_schedule(config, steps)(at))
    # 1 - step / steps has an error of 2^-24, which a power below 1 blows up near the end.
    assert actual == pytest.approx(expected_rate(config, steps, at), rel=1e-3, abs=1e-3 * rate)


# ---- steps of the built-in optimizers


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ({}, {}),
        (
            {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
            {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        ),
    ],
)
def test_adam(options, keywords):
    config = OptimizerConfig(learning_rate=0.1, options=options)
    assert config.name == "adam"
    variables = start()
    actual = after(build_optimizer(config, 10, variables), variables, 3)
    rates = [poly(config, 10, at) for at in range(3)]
    np.testing.assert_allclose(actual, adam(flat(START.values()), flat_gradients(3), rates, **keywords), rtol=1e-5)


def test_adamw_decays_weights_apart_from_gradients():
    config = OptimizerConfig(name="adamw", learning_rate=0.1, options={"weight_decay": 0.2})
    variables = start()
    actual = after(build_optimizer(config, 10, variables), variables, 3)
    rates = [poly(config, 10, at) for at in range(3)]
    expected = adam(flat(START.values()), flat_gradients(3), rates, decay=0.2)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(("options", "momentum"), [({}, 0.9), ({"momentum": 0.5}, 0.5), ({"momentum": 0}, 0.0)])
def test_sgd_has_momentum(options, momentum):
    config = OptimizerConfig(name="sgd", learning_rate=0.1, warmup_steps=2, options=options)
    variables = start()
    actual = after(build_optimizer(config, 10, variables), variables, 4)
    weights, velocity = flat(START.values()), 0.0
    for at, gradient in enumerate(flat_gradients(4)):
        velocity = momentum * velocity - expected_rate(config, 10, at) * gradient
        weights = weights + velocity
    np.testing.assert_allclose(actual, weights, rtol=1e-5)


def test_lamb():
    config = OptimizerConfig(name="lamb", learning_rate=0.1, options={"weight_decay_rate": 0.3})
    variables = start()
    actual = after(build_optimizer(config, 10, variables), variables, 3)
    rates = [poly(config, 10, at) for at in range(3)]
    np.testing.assert_allclose(actual, lamb(START, GRADIENTS[:3], rates, decay=0.3), rtol=1e-5)


def test_rmsprop_with_momentum():
    options = {"rho": 0.8, "momentum": 0.9, "epsilon": 1e-3}
    config = OptimizerConfig(name="rmsprop", learning_rate=0.1, options=options)
    variables = start()
    actual = after(build_optimizer(config, 10, variables), variables, 3)
    weights, squares, momentum = flat(START.values()), 0.0, 0.0
    for at, gradient in enumerate(flat_gradients(3)):
        squares = 0.8 * squares + 0.2 * gradient**2
        # Epsilon stands under the root.
        momentum = 0.9 * momentum + poly(config, 10, at) * gradient / np.sqrt(squares + 1e-3)
        weights = weights - momentum
    np.testing.assert_allclose(actual, weights, rtol=1e-5)


# ---- state


SLOTS = {
    "adam": ("m", "v"),
    "adamw": ("m", "v"),
    "lamb": ("m", "v"),
    "rmsprop": ("v",),
    "sgd": ("m",),
}


@pytest.mark.parametrize("name", SLOTS)
def test_all_state_is_there_at_once_and_makes_a_run_go_on(name):
    config = OptimizerConfig(name=name, learning_rate=0.1)
    variables = start()
    optimizer = build_optimizer(config, 10, variables)
    state = named_optimizer_state(optimizer_variables(optimizer))
    shapes = sorted(tuple(v.shape) for v in state.values())
    assert shapes == sorted([(), *len(SLOTS[name]) * [(2, 2), (1,)]])
    assert all(not np.any(v.numpy()) for v in state.values())
    for gradients in GRADIENTS[:3]:
        step(optimizer, variables, gradients)
    # Nothing came with the steps.
    assert list(named_optimizer_state(optimizer_variables(optimizer))) == list(state)
    saved = {key: v.numpy() for key, v in state.items()}
    copies = [tf.Variable(v, name=v.name.removesuffix(":0")) for v in variables]
    other = build_optimizer(config, 10, copies)
    assign(named_optimizer_state(optimizer_variables(other)), saved, "optimizer")
    for gradients in GRADIENTS[3:]:
        step(optimizer, variables, gradients)
        step(other, copies, gradients)
    np.testing.assert_array_equal(flat(copies), flat(variables))
    assert int(other.iterations) == 6


# ---- mistakes


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("adma", "; did you mean 'adam'?"),
        ("Adam", "; did you mean 'adam'?"),
        ("zzz", "; valid: adam, adamw, lamb, rmsprop, sgd"),
    ],
)
def test_unknown_optimizers(name, hint):
    assert message_of(OptimizerConfig(name=name)) == (
        f"train.optimizer.name: '{name}' is no optimizer; expected one of TensorFlow Addons as 'tfa/LAMB', "
        f"or a built-in one{hint}"
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {"beta1": 0.5}, ".beta1: unknown option; did you mean 'beta_1'?"),
        ("sgd", {"beta_1": 0.5}, ".beta_1: unknown option; valid: clipnorm, clipvalue, "),
        ("adam", {"kwargs": 1}, ".kwargs: unknown option; "),
        ("adam", {"beta_1": "high"}, ".beta_1: expected a number, got 'high'"),
        ("adam", {"beta_1": True}, ".beta_1: expected a number, got True"),
        ("adam", {"amsgrad": 1}, ".amsgrad: expected true or false, got 1"),
        ("adam", {"name": 3}, ".name: expected text, got 3"),
        ("sgd", {"momentum": 2.0}, ": 'sgd' refuses them (`momentum` must be between [0, 1].)"),
    ],
)
def test_wrong_options(name, options, message):
    text = message_of(OptimizerConfig(name=name, options=options))
    assert text.startswith(f"train.optimizer.options{message}")
