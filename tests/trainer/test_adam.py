"""The fused Adam takes the steps that Keras's takes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.trainer.adam import Adam, AdamW

_PAIRS = {Adam: keras.optimizers.Adam, AdamW: keras.optimizers.AdamW}
_SHAPES = ((3, 4), (5,), ())


def _steps(optimizer: keras.optimizers.Optimizer, jit_compile: bool, steps: int = 8) -> list[np.ndarray]:
    """Returns variables and slots after steps on drawn gradients of very different sizes."""
    generator = np.random.default_rng(0)
    variables = [tf.Variable(generator.normal(size=shape), dtype=tf.float32) for shape in _SHAPES]
    optimizer.build(variables)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def step(gradients: list[tf.Tensor]) -> None:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    for _ in range(steps):
        scale = 10.0 ** generator.integers(-6, 3)
        step([tf.constant(scale * generator.normal(size=shape), tf.float32) for shape in _SHAPES])
    assert int(optimizer.iterations) == steps
    return [variable.numpy() for variable in (*variables, *optimizer.variables)]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3},
        {"weight_decay": 0.1},
        {"amsgrad": True},
        {"global_clipnorm": 0.5},
        {"use_ema": True, "ema_overwrite_frequency": 3},
    ],
)
@pytest.mark.parametrize("fused", _PAIRS)
def test_equals_keras(fused, options, jit_compile) -> None:
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 20)
    ours = _steps(fused(schedule, **options), jit_compile)
    theirs = _steps(_PAIRS[fused](schedule, **options), jit_compile)
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        # In float32, 1 - 0.999 is off by 1.3e-5 of itself: the operation subtracts there, Keras before.
        np.testing.assert_allclose(own, other, rtol=5e-5, atol=5e-6)


def test_sparse_gradient() -> None:
    results = []
    for optimizer in (Adam(0.1), keras.optimizers.Adam(0.1)):
        variable = tf.Variable(tf.ones([4, 2]))
        optimizer.build([variable])
        slices = tf.IndexedSlices(tf.constant([[1.0, 2.0]]), tf.constant([2]), tf.constant([4, 2]))
        optimizer.apply_gradients([(slices, variable)])
        results.append(variable.numpy())
    np.testing.assert_array_equal(*results)
    assert results[0][2, 0] < 1


def test_one_operation_a_variable() -> None:
    variables = [tf.Variable(tf.ones(shape)) for shape in _SHAPES]
    optimizer = Adam(0.1)
    optimizer.build(variables)
    step = tf.function(lambda: optimizer.apply_gradients([(tf.ones_like(v), v) for v in variables]), autograph=False)
    graph = step.get_concrete_function().graph
    graphs = [graph, *(function.graph for function in graph._functions.values() if hasattr(function, "graph"))]
    kinds = [operation.type for g in graphs for operation in g.get_operations()]
    assert kinds.count("ResourceApplyAdam") == len(variables) and "Sqrt" not in kinds
