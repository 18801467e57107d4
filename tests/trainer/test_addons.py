"""Optimizers of TensorFlow Addons, in a process of their own: steps against closed formulas, and mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deeplab2_lite import addons
from deeplab2_lite.config import OptimizerConfig

from .optimizer_reference import GRADIENTS, START, adam, flat, flat_gradients, lamb, message_of, poly, start

ROOT = Path(__file__).resolve().parents[2]


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
