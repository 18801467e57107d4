"""Steps of optimizers by their closed formulas, in NumPy, and what their tests start from."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer.optimization import build_optimizer

START = {"a/kernel": [[1.0, -2.0], [0.5, 4.0]], "b/bias": [3.0]}
GRADIENTS = [
    {"a/kernel": [[0.1, 0.2], [-0.3, 0.0]], "b/bias": [1.0]},
    {"a/kernel": [[-0.4, 0.2], [0.3, 0.01]], "b/bias": [-2.0]},
    {"a/kernel": [[0.1, -5.0], [0.3, 0.0]], "b/bias": [0.5]},
    {"a/kernel": [[0.2, 1.0], [-0.1, 0.3]], "b/bias": [0.1]},
    {"a/kernel": [[0.3, 1.0], [0.2, 0.1]], "b/bias": [0.2]},
    {"a/kernel": [[0.1, 0.5], [0.7, 0.1]], "b/bias": [-0.2]},
]


def flat(arrays):
    return np.concatenate([np.ravel(np.asarray(array, np.float64)) for array in arrays])


def flat_gradients(count):
    return [flat(gradients.values()) for gradients in GRADIENTS[:count]]


def adam(weights, gradients, rates, beta_1=0.9, beta_2=0.999, epsilon=1e-7, decay=0.0):
    m = v = np.zeros_like(weights)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        weights = weights * (1 - decay * rate)
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
        alpha = rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        weights = weights - alpha * m / (np.sqrt(v) + epsilon)
    return weights


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


def start():
    return [tf.Variable(value, name=name) for name, value in START.items()]


def message_of(config, variables=None):
    with pytest.raises(UserError) as caught:
        build_optimizer(config, 10, start() if variables is None else variables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def poly(config, steps, at):
    fraction = min(at, steps) / steps
    span = config.learning_rate - config.end_learning_rate
    return span * (1 - fraction) ** config.power + config.end_learning_rate
