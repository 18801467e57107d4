"""Learning rates and optimizer steps against closed formulas; what is refused; TensorFlow Addons in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite import addons
from deeplab2_lite.checkpoints import assign, named_optimizer_state
from deeplab2_lite.config import OptimizerConfig
from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer.optimization import build_optimizer, build_schedule, optimizer_variables

ROOT = Path(__file__).resolve().parents[2]
START = {"a/kernel": [[1.0, -2.0], [0.5, 4.0]], "b/bias": [3.0]}
GRADIENTS = [
    {"a/kernel": [[0.1, 0.2], [-0.3, 0.0]], "b/bias": [1.0]},
    {"a/kernel": [[-0.4, 0.2], [0.3, 0.01]], "b/bias": [-2.0]},
    {"a/kernel": [[0.1, -5.0], [0.3, 0.0]], "b/bias": [0.5]},
    {"a/kernel": [[0.2, 1.0], [-0.1, 0.3]], "b/bias": [0.1]},
    {"a/kernel": [[0.3, 1.0], [0.2, 0.1]], "b/bias": [0.2]},
    {"a/kernel": [[0.1, 0.5], [0.7, 0.1]], "b/bias": [-0.2]},
]


def start():
    return [tf.Variable(value, name=name) for name, value in START.items()]


def step(optimizer, variables, gradients):
    optimizer.apply_gradients([(tf.constant(gradients[v.name.removesuffix(":0")]), v) for v in variables])


def after(optimizer, variables, count):
    """Weights after so many steps, one flat vector."""
    for gradients in GRADIENTS[:count]:
        step(optimizer, variables, gradients)
    return flat([v.numpy() for v in variables])


def flat(arrays):
    return np.concatenate([np.ravel(np.asarray(array, np.float64)) for array in arrays])


def flat_gradients(count):
    return [flat(gradients.values()) for gradients in GRADIENTS[:count]]


def message_of(config, variables=None):
    with pytest.raises(UserError) as caught:
        build_optimizer(config, 10, start() if variables is None else variables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- schedule


def poly(config, steps, at):
    fraction = min(at, steps) / steps
    span = config.learning_rate - config.end_learning_rate
    return span * (1 - fraction) ** config.power + config.end_learning_rate


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


def adam(weights, gradients, rates, beta_1=0.9, beta_2=0.999, epsilon=1e-7, decay=0.0):
    m = v = np.zeros_like(weights)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        weights = weights * (1 - decay * rate)
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
        alpha = rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        weights = weights - alpha * m / (np.sqrt(v) + epsilon)
    return weights


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


def lamb(arrays, gradients, rates, decay, epsilon=1e-6, beta_1=0.9, beta_2=0.999):
    """One array at a time: the layer's norm over the update's scales its step (You et al., 2020)."""
    result = []
    for name, weights in arrays.items():
        weights = np.array(weights, np.float64)
        m = v = np.zeros_like(weights)
        for t, (all_gradients, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
            g = np.array(all_gradients[name])
            m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
            update = m / (1 - beta_1**t) / (np.sqrt(v / (1 - beta_2**t)) + epsilon) + decay * weights
            weights = weights - rate * np.linalg.norm(weights) / np.linalg.norm(update) * update
        result.append(weights)
    return flat(result)


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


# ---- TensorFlow Addons


def test_addons_on_a_later_python(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow_addons", raising=False)
    variables = start()
    with monkeypatch.context() as patch:
        patch.setattr(addons.sys, "version_info", (3, 12, 0, "final", 0))
        text = message_of(OptimizerConfig(name="tfa/LAMB"), variables)
    assert text == (
        "train.optimizer.name: TensorFlow Addons has no release for Python 3.12 and later; "
        "built-in alternatives: adam, adamw, sgd, lamb"
    )


needs_addons = pytest.mark.skipif(sys.version_info >= (3, 12), reason="TensorFlow Addons ends at Python 3.11")

# TensorFlow decides once a process which Keras `tf.keras` is: each of these has its own.
KERAS_2 = """
import json, sys
import tensorflow as tf
from deeplab2_lite.checkpoints import assign, named_optimizer_state
from deeplab2_lite.config import OptimizerConfig
from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer.optimization import build_optimizer, optimizer_variables

START, GRADIENTS = json.loads(sys.argv[1])

def start(values=START):
    return [tf.Variable(value, name=name) for name, value in values.items()]

def named(variables):
    return {v.name.removesuffix(":0"): v.numpy().tolist() for v in variables}

def step(optimizer, variables, gradients):
    optimizer.apply_gradients([(tf.constant(gradients[v.name.removesuffix(":0")]), v) for v in variables])

def message_of(**keywords):
    try:
        build_optimizer(OptimizerConfig(**keywords), 10, start())
    except UserError as error:
        return str(error)

class NotInstalled:
    def find_spec(self, name, *arguments):
        if name == "tensorflow_addons":
            raise ImportError("it is not here")

told = {}
path = list(tf.__path__)
sys.meta_path.insert(0, NotInstalled())
told["not installed"] = message_of(name="tfa/LAMB")
sys.meta_path.pop(0)
told["clean"] = tf.__path__ == path and "keras.src.engine" not in sys.modules

runs = {
    "LAMB": {"weight_decay": 0.3},
    "RectifiedAdam": {},
    "Lookahead": {"sync_period": 2, "slow_step_size": 0.25},
    "SWA": {"start_averaging": 0, "average_period": 1},
    "MovingAverage": {"average_decay": 0.5},
    "NovoGrad": {},
    "AdamW": {"weight_decay": 0.1},
}
for name, options in runs.items():
    config = OptimizerConfig(name=f"tfa/{name}", learning_rate=0.1, options=options)
    variables = start()
    optimizer = build_optimizer(config, 10, variables)
    at_once = list(named_optimizer_state(optimizer_variables(optimizer)))
    weights = []
    for gradients in GRADIENTS[:3]:
        step(optimizer, variables, gradients)
        weights.append(named(variables))
    state = named_optimizer_state(optimizer_variables(optimizer))
    copies = start(named(variables))
    other = build_optimizer(config, 10, copies)
    assign(named_optimizer_state(optimizer_variables(other)), {k: v.numpy() for k, v in state.items()}, "optimizer")
    for gradients in GRADIENTS[3:]:
        step(optimizer, variables, gradients)
        step(other, copies, gradients)
    told[name] = {
        "slots": at_once, "later": list(state), "weights": weights,
        "end": named(variables), "resumed": named(copies), "steps": int(other.iterations),
    }
told["clean after"] = tf.__path__ == path and "keras.src.engine" not in sys.modules
told["unknown"] = message_of(name="tfa/LAMP")
told["no schedule"] = message_of(name="tfa/COCOB")
told["option"] = message_of(name="tfa/LAMB", options={"weight_decays": 1})
told["wrapper option"] = message_of(name="tfa/Lookahead", options={"sync": 1})
told["type"] = message_of(name="tfa/RectifiedAdam", options={"total_steps": 1.5})
told["required"] = message_of(name="tfa/SGDW")
print(json.dumps(told))
"""

KERAS_3 = """
import tensorflow as tf
tf.keras.layers
from deeplab2_lite.addons import addons_optimizer_class
from deeplab2_lite.errors import UserError
try:
    addons_optimizer_class("LAMB")
except UserError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def processes():
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    commands = {"2": [KERAS_2, json.dumps([START, GRADIENTS])], "3": [KERAS_3]}
    started = {
        key: subprocess.Popen(
            [sys.executable, "-c", *command], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for key, command in commands.items()
    }  # fmt: skip
    ended = {}
    for key, process in started.items():
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        ended[key] = output.strip().splitlines()[-1]
    return ended


@pytest.fixture(scope="module")
def told(processes):
    return json.loads(processes["2"])


@needs_addons
def test_addons_lamb(told):
    config = OptimizerConfig(learning_rate=0.1)
    for count, weights in enumerate(told["LAMB"]["weights"], start=1):
        rates = [poly(config, 10, at) for at in range(count)]
        expected = lamb(START, GRADIENTS[:count], rates, decay=0.3)
        np.testing.assert_allclose(flat(weights.values()), expected, rtol=1e-5)


@needs_addons
def test_addons_rectified_adam(told):
    # Of the first steps the variance is not tractable, so that they are plain momentum (Liu et al., 2020).
    weights, m = flat(START.values()), 0.0
    for t, gradient in enumerate(flat_gradients(3), start=1):
        m = 0.9 * m + 0.1 * gradient
        weights = weights - poly(OptimizerConfig(learning_rate=0.1), 10, t - 1) * m / (1 - 0.9**t)
        actual = flat(told["RectifiedAdam"]["weights"][t - 1].values())
        np.testing.assert_allclose(actual, weights, rtol=1e-5)


@needs_addons
def test_addons_lookahead_wraps_adam(told):
    config = OptimizerConfig(learning_rate=0.1)
    weights = flat(START.values())
    fast = [adam(weights, flat_gradients(n), [poly(config, 10, at) for at in range(n)]) for n in (1, 2)]
    actual = [flat(step.values()) for step in told["Lookahead"]["weights"]]
    np.testing.assert_allclose(actual[0], fast[0], rtol=1e-5)
    # Every second step the slow weights take a quarter of the way, and the fast ones begin anew there.
    np.testing.assert_allclose(actual[1], weights + 0.25 * (fast[1] - weights), rtol=1e-5)


@needs_addons
@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("LAMB", "mv"),
        ("RectifiedAdam", "mv"),
        ("NovoGrad", "mv"),
        ("AdamW", "mv"),
        ("Lookahead", ["slow", "m", "v"]),
        ("SWA", ["average", "m", "v"]),
        ("MovingAverage", ["average", "m", "v"]),
    ],
)
def test_addons_state_is_there_at_once_and_makes_a_run_go_on(told, name, slots):
    run = told[name]
    assert sorted(run["slots"]) == sorted(["iter", *(f"{weight}/{slot}" for weight in START for slot in slots)])
    assert run["later"] == run["slots"]
    assert run["resumed"] == run["end"] and run["end"] != run["weights"][-1]
    assert run["steps"] == 6


@needs_addons
def test_addons_mistakes(told):
    assert told["unknown"] == (
        "train.optimizer.name: TensorFlow Addons has no optimizer 'LAMP'; did you mean 'tfa/LAMB'?"
    )
    assert told["no schedule"].startswith("train.optimizer.name: TensorFlow Addons has no optimizer 'COCOB'")
    assert told["option"] == ("train.optimizer.options.weight_decays: unknown option; did you mean 'weight_decay'?")
    assert told["wrapper option"] == "train.optimizer.options.sync: unknown option; did you mean 'sync_period'?"
    assert told["type"].startswith("train.optimizer.options: 'tfa/RectifiedAdam' refuses them (")
    assert told["required"] == (
        "train.optimizer.options: 'tfa/SGDW' refuses them (missing a required argument: 'weight_decay')"
    )


@needs_addons
def test_addons_leave_other_imports_as_they_were(told):
    assert told["clean"] and told["clean after"]
    assert told["not installed"] == (
        "train.optimizer.name: TensorFlow Addons cannot be imported (it is not here); "
        "pip install tensorflow-addons==0.23.0, or use adam, adamw, sgd, lamb"
    )


@needs_addons
def test_addons_after_keras_3(processes):
    assert processes["3"] == (
        "train.optimizer.name: TensorFlow Addons needs the environment variable TF_USE_LEGACY_KERAS=1, "
        "set before TensorFlow is imported"
    )
