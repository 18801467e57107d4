"""Dynamic loss scaling, without which the small gradients of a float16 network vanish."""

from __future__ import annotations

import tensorflow as tf

_INITIAL = 2.0**15
_LARGEST = 2.0**24
# Finite steps after which a larger scale is tried.
_PATIENCE = 2000


class LossScale:
    """A factor on the loss that halves when a gradient overflows, and doubles after many steps without.

    Micikevicius et al., "Mixed Precision Training" (arXiv 1710.03740), section 3.2.
    """

    def __init__(self) -> None:
        """Starts at 2^15. Called inside the strategy's scope."""
        self._value = replica_variable(_INITIAL, tf.float32)
        self._finite_steps = replica_variable(0, tf.int64)

    def state(self) -> dict[str, tf.Variable]:
        """Returns the variables by name."""
        return {"loss_scale/value": self._value, "loss_scale/finite_steps": self._finite_steps}

    def read(self) -> tf.Tensor:
        """Returns the current factor, float32, a power of 2 from 1 up."""
        return self._value.read_value()

    def update(self, finite: tf.Tensor) -> tf.Tensor:
        """Follows what came of a step; in replica context.

        Args:
            finite: Whether the gradient was, bool, the same on all replicas.

        Returns:
            Whether a gradient that is not finite may come of the factor alone, bool.
        """
        value, steps = self._value.read_value(), self._finite_steps.read_value() + 1
        grows = finite & (steps >= _PATIENCE)
        larger = tf.where(grows, tf.minimum(value * 2.0, _LARGEST), value)
        self._value.assign(tf.where(finite, larger, tf.maximum(value / 2.0, 1.0)))
        self._finite_steps.assign(tf.where(finite & ~grows, steps, 0))
        return value > 1.0


def replica_variable(value: float, dtype: tf.DType) -> tf.Variable:
    """Returns a variable that each replica assigns for itself; what they assign must be the same."""
    return tf.Variable(
        value,
        dtype=dtype,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
