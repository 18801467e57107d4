"""What one replica does in a training step: the gradient of its share of the batch, and the update.

All of it is one program of static shapes, which XLA can compile as a whole.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.losses import WeightedTerm
from deeplab2_lite.recomputation import recomputing

_SUM = tf.distribute.ReduceOp.SUM


class Task(Protocol):
    """What is learnt: a subclass of `Trainer`, or what a compiled `PanopticDeepLab` learns."""

    def prepare_batch(self, batch: Any) -> Any:
        """Makes of a batch of the input what the other two take."""

    def batch_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Any, config: ExperimentConfig
    ) -> dict[str, WeightedTerm]:
        """Returns loss terms by name."""

    def batch_denominators(self, batch: Any) -> dict[str, tf.Tensor]:
        """Returns the denominators of these terms, which depend on the batch alone."""


class Optimizer(Protocol):
    """What updates the weights: a `GroupedOptimizer`."""

    def apply(self, gradients: Sequence[tf.Tensor], weights: Sequence[tf.Variable]) -> None:
        """Takes a step in replica context, with gradients that are sums over the replicas."""


class State(Protocol):
    """What a step changes: a `TrainingState`. The last three may be None."""

    network: keras.Model
    optimizer: Optimizer
    global_step: tf.Variable | None
    averages: Any
    loss_scale: Any


class Outcome(NamedTuple):
    """What came of a step; the same on all replicas.

    Attributes:
        losses: Weighted, of the global batch, by name; float32 scalars.
        updated: Whether the weights have changed: all was finite; bool.
        overflowed: Whether something was not finite that the scale of the loss alone may explain; bool.
        stop: Whether a process of the job wants to stop after this step; bool.
    """

    losses: dict[str, tf.Tensor]
    updated: tf.Tensor
    overflowed: tf.Tensor
    stop: tf.Tensor


class ReplicaStep:
    """Callable in replica context, by `strategy.run`."""

    def __init__(self, task: Task, config: ExperimentConfig, state: State) -> None:
        """Prepares the step.

        Args:
            task: What to learn.
            config: The experiment.
            state: What to change.
        """
        self._task = task
        self._config = config
        self._state = state
        network = state.network
        forward = functools.partial(network, training=True)
        self._predict = recomputing(network) if config.train.recompute_activations else forward

    def __call__(self, batch: Any, stop: tf.Tensor) -> Outcome:
        """Takes a step, unless its loss or gradient is not finite: that changes nothing but the loss scale.

        Args:
            batch: This replica's share of the batch.
            stop: Whether this process wants to stop, bool.

        Returns:
            What came of it.
        """
        network, replica = self._state.network, tf.distribute.get_replica_context()
        statistics = network.non_trainable_variables
        before = [variable.read_value() for variable in statistics]
        batch = self._task.prepare_batch(batch)
        denominators = replica.all_reduce(_SUM, self._task.batch_denominators(batch))
        losses, gradients = self._accumulate(batch, denominators)
        losses, gradients = replica.all_reduce(_SUM, (losses, gradients))
        votes = replica.all_reduce(_SUM, tf.cast(stop, tf.int32))
        if self._state.loss_scale is not None:
            scale = self._state.loss_scale.read()
            gradients = [gradient / scale for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm) & tf.math.is_finite(tf.add_n(list(losses.values())))
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(tf.where(finite, variable.read_value(), value))
        self._update_if(finite, gradients, norm)
        overflowed = tf.constant(False)
        if self._state.loss_scale is not None:
            overflowed = self._state.loss_scale.update(finite) & ~finite
        return Outcome(losses, finite, overflowed, votes > 0)

    def _accumulate(
        self, batch: Any, denominators: Mapping[str, tf.Tensor]
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """Returns losses and gradient of the batch, part by part."""
        parts = self._config.train.accumulation_steps
        if parts == 1:
            return self._differentiate(batch, denominators)
        tensors = [tf.split(tensor, parts) for tensor in tf.nest.flatten(batch)]
        sums: tuple[dict[str, tf.Tensor], list[tf.Tensor]] | None = None
        for pieces in zip(*tensors, strict=True):
            # One part after the other, or all of them would be in memory at once.
            with tf.control_dependencies(tf.nest.flatten(sums) if sums is not None else []):
                part = tf.nest.pack_sequence_as(batch, [tf.identity(piece) for piece in pieces])
            found = self._differentiate(part, denominators)
            sums = found if sums is None else tf.nest.map_structure(tf.add, sums, found)
        return sums

    def _differentiate(
        self, batch: Any, denominators: Mapping[str, tf.Tensor]
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """Returns this batch's part of the losses and of the gradient, which is scaled where there is a loss scale."""
        with tf.GradientTape() as tape:
            terms = self._task.batch_losses(self._predict(batch.image), batch, self._config)
            losses = {name: weighted.share(denominators[name]) for name, weighted in terms.items()}
            total = tf.add_n(list(losses.values()))
            if self._state.loss_scale is not None:
                total *= self._state.loss_scale.read()
        return losses, tape.gradient(total, self._state.network.trainable_variables)

    def _update_if(self, finite: tf.Tensor, gradients: list[tf.Tensor], norm: tf.Tensor) -> None:
        replica = tf.distribute.get_replica_context()
        if tf.__internal__.distribute.strategy_supports_no_merge_call():
            tf.cond(finite, lambda: self._update(gradients, norm), _nothing)
            return

        # Replicas that run in threads of the host must not meet within a condition: it has to be round all of them.
        def choose(strategy: tf.distribute.Strategy, finite: Any, gradients: Any, norm: Any) -> None:
            def update() -> tf.Tensor:
                strategy.extended.call_for_each_replica(self._update, args=(gradients, norm))
                return tf.constant(0)

            tf.cond(strategy.experimental_local_results(finite)[0], update, _nothing)

        replica.merge_call(choose, args=(finite, gradients, norm))

    def _update(self, gradients: list[tf.Tensor], norm: tf.Tensor) -> tf.Tensor:
        state, clip = self._state, self._config.train.optimizer.clip_global_norm
        if clip is not None:
            # The norm is that of the whole batch's gradient.
            gradients, _ = tf.clip_by_global_norm(gradients, clip, use_norm=norm)
        state.optimizer.apply(gradients, state.network.trainable_variables)
        if state.averages is not None:
            state.averages.update(state.global_step.read_value())
        return tf.constant(0)


def apply_summed(
    optimizer: keras.optimizers.Optimizer | keras.optimizers.legacy.Optimizer,
    gradients: Sequence[tf.Tensor],
    weights: Sequence[tf.Variable],
) -> None:
    """Takes a step of an optimizer, of the new kind or the old; in replica context.

    Args:
        optimizer: With all of its slots.
        gradients: Of the whole batch: sums over the replicas, the same on each.
        weights: What they are the gradients of.
    """
    legacy = isinstance(optimizer, keras.optimizers.legacy.Optimizer)
    summed = {"experimental_aggregate_gradients" if legacy else "skip_gradients_aggregation": not legacy}
    optimizer.apply_gradients(zip(gradients, weights, strict=True), **summed)


def _nothing() -> tf.Tensor:
    return tf.constant(0)
