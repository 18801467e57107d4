"""Dropout whose draws are a function of (seed, training call), so that a resumed run draws as if never killed."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.settings import PACKAGE


@keras.saving.register_keras_serializable(package=PACKAGE)
class CountedDropout(keras.layers.Layer):
    """Sets each value to 0 with probability `rate` and scales the others up; training only.

    A weight counts the training calls. Saved and restored with the other weights, it decides the draws
    together with the seed and the replica.
    """

    def __init__(self, rate: float, seed: int, **kwargs: Any) -> None:
        """Sets rate and seed.

        Args:
            rate: Probability in [0, 1) of dropping a value.
            seed: Seed of the draws.
            **kwargs: Of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the counter."""
        # Each replica counts for itself, so that no merge of replicas has to happen within a step.
        self.calls = self.add_weight(
            name="calls",
            shape=(),
            dtype=tf.int64,
            initializer="zeros",
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns `inputs` with values dropped when training, else `inputs` itself."""
        if not training:
            return inputs
        replica = tf.distribute.get_replica_context()
        replica_id = replica.replica_id_in_sync_group if replica else 0
        seed = tf.random.experimental.stateless_fold_in(
            tf.stack([tf.constant(self.seed, tf.int64), self.calls.read_value()]), replica_id
        )
        kept = tf.random.stateless_uniform(tf.shape(inputs), seed) >= self.rate
        with tf.control_dependencies([kept]):
            self.calls.assign_add(1)
        return tf.where(kept, inputs / tf.cast(1.0 - self.rate, inputs.dtype), tf.zeros_like(inputs))

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the layer."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}

    def get_build_config(self) -> None:
        """Leaves building to the first call after loading: only a call puts the layer's name before the counter's."""
        return None
