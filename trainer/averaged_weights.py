"""An exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.checkpoints import named_weights


class AveragedWeights:
    """The moving average of all that a network multiplies with, batch statistics included.

    After n updates it decays by min(decay, (1 + n) / (10 + n)), as TensorFlow's own moving averages do, so that
    the first weights do not linger.
    """

    def __init__(self, network: keras.Model, decay: float) -> None:
        """Starts at the current weights. Called inside the strategy's scope.

        Args:
            network: The weights' owner.
            decay: In [0, 1).
        """
        self._decay = decay
        self._weights = {name: v for name, v in named_weights(network).items() if v.dtype.is_floating}
        self._averages = {name: _average_of(weight, name) for name, weight in self._weights.items()}

    def variables(self) -> dict[str, tf.Variable]:
        """Returns the averages by the structural path of their weights."""
        return self._averages

    def update(self, step: tf.Tensor) -> None:
        """Moves every average towards its weight; in replica context.

        Args:
            step: Updates before this one, an integer.
        """
        step = tf.cast(step, tf.float32)
        share = 1.0 - tf.minimum(self._decay, (1.0 + step) / (10.0 + step))
        for name, average in self._averages.items():
            old = average.read_value()
            average.assign(old + share * (self._weights[name].read_value() - old))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Lets the network have the averages for its weights within a block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, average in self._averages.items():
            weight = self._weights[name]
            kept = tf.identity(weight.read_value())
            weight.assign(tf.convert_to_tensor(average))
            average.assign(kept)


def _average_of(weight: tf.Variable, name: str) -> tf.Variable:
    # Each replica averages for itself: weights are the same on all of them, and statistics are merged when read.
    is_local = weight.synchronization == tf.VariableSynchronization.ON_READ
    return tf.Variable(
        tf.convert_to_tensor(weight),
        trainable=False,
        name=f"average/{name}",
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=weight.aggregation if is_local else tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
