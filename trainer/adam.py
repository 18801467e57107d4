"""Keras's Adam with TensorFlow's fused operation: one for each variable, where Keras composes some twenty.

A network of hundreds of variables has thousands of operations less to trace, optimize and start in every step.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras


class _FusedUpdate:
    """Replaces the update of a dense gradient; slots, options and results stay those of the optimizer."""

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Updates a variable and its slots."""
        if isinstance(gradient, tf.IndexedSlices) or self.amsgrad or getattr(self, "adaptive_epsilon", False):
            super().update_step(gradient, variable)
            return
        index = self._index_dict[self._var_key(variable)]
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = tf.cast(self.beta_1, dtype), tf.cast(self.beta_2, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(self.learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, dtype),
            grad=gradient,
        )


class Adam(_FusedUpdate, keras.optimizers.Adam):
    """`keras.optimizers.Adam`, with its arguments."""


class AdamW(_FusedUpdate, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, with its arguments."""
