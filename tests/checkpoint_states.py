"""States to save, and exact comparison of what comes back, for the tests of checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

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
        "head/half": tf.Variable([1 / 3, 2.0], dtype=tf.bfloat16),
        # Large enough for a file of its own.
        "head/wide": tf.Variable(RANDOM.normal(size=(100, 200)).astype(np.float32)),
    }
    optimizer = {
        "iteration": tf.Variable(BIG, dtype=tf.int64),
        "m/backbone/stem/conv/kernel": tf.Variable(RANDOM.normal(size=(3, 3, 2, 5)).astype(np.float32)),
    }
    return weights, optimizer


def state_of_step(step, size=500):
    """Two variables that no other step has the values of."""
    random = np.random.default_rng(step)
    return {name: tf.Variable(random.normal(size=size).astype(np.float32)) for name in ("a", "b")}


def values(variables):
    return {name: np.array(tf.convert_to_tensor(variable)) for name, variable in variables.items()}


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert isinstance(actual[name], np.ndarray), name
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape), name
        # Bit by bit: also the sign of zero and NaN.
        assert actual[name].tobytes() == array.tobytes(), name


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def run_python(script, *arguments):
    """Runs a script in a process of its own, in which only errors of TensorFlow's would be printed."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    root = Path(__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root, env=environment)
