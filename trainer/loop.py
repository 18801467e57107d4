"""The training step and its loop, on any `tf.distribute` strategy."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import orbit
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.data.device_targets import make_targets_on_device
from deeplab2_lite.data.ordering import record_at
from deeplab2_lite.data.pipeline import LabelledBatch, TrainingBatch, training_dataset
from deeplab2_lite.data.record_index import RecordIndex, reading_error, record_names
from deeplab2_lite.data.targets import Targets
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.losses import LossTerm, bootstrapped_cross_entropy, center_heatmap_loss, center_offset_loss
from deeplab2_lite.postprocessing.upsampling import Heads, upsample_heads

# Tags of DeepLab2's TensorBoard summaries.
TOTAL, SEMANTIC, CENTER, OFFSET = "total_loss", "semantic_loss", "center_loss", "regression_loss"
_NO_STEP = -1


class WeightedTerm(NamedTuple):
    """A loss and its weight in the total."""

    term: LossTerm
    weight: float


def loss_terms(heads: Heads, targets: Targets, config: ExperimentConfig) -> dict[str, WeightedTerm]:
    """Computes the losses of the heads that the network has.

    Args:
        heads: At the resolution of the targets.
        targets: Batched.
        config: `losses` is used.

    Returns:
        Loss terms by their TensorBoard names.
    """
    losses = config.losses
    terms = {}
    if heads.semantic_logits is not None:
        cross_entropy = bootstrapped_cross_entropy(
            heads.semantic_logits, targets.semantic, targets.semantic_weight, losses.hardest_fraction
        )
        terms[SEMANTIC] = WeightedTerm(cross_entropy, losses.semantic_weight)
    if heads.center_heatmap is not None and heads.center_offset is not None:
        heatmap = center_heatmap_loss(
            heads.center_heatmap[..., 0], targets.center_heatmap, targets.center_weight, losses.center
        )
        offset = center_offset_loss(heads.center_offset, targets.center_offset, targets.offset_weight)
        terms[CENTER] = WeightedTerm(heatmap, losses.center_weight)
        terms[OFFSET] = WeightedTerm(offset, losses.offset_weight)
    return terms


class Trainer(orbit.StandardTrainer):
    """Trains a network on what a subclass says; orbit's Controller drives it.

    A step whose loss or gradient is not finite changes neither weights nor batch statistics nor the
    optimizer: training stops there, and the error names step and records.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        info: DatasetInfo,
        index: RecordIndex,
        strategy: tf.distribute.Strategy,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        global_step: tf.Variable,
    ) -> None:
        """Sets up the input from `global_step` on.

        Args:
            config: The experiment.
            info: Its label space.
            index: The training records.
            strategy: Network, optimizer and step were made in its scope.
            network: As `build_model` gives it.
            optimizer: With its slots.
            global_step: Restored already, if training goes on.
        """
        self._config = config
        self._info = info
        self._index = index
        self._strategy = strategy
        self._network = network
        self._optimizer = optimizer
        self._global_step = global_step
        with strategy.scope():
            self._failed_step = tf.Variable(_NO_STEP, dtype=tf.int64, trainable=False)
            self._means = {name: keras.metrics.Mean(name=name) for name in (TOTAL, *self.loss_names(config))}
        start = int(global_step.numpy())
        dataset = strategy.distribute_datasets_from_function(
            lambda context: self.input_dataset(config, info, index, start, context)
        )
        super().__init__(dataset)

    @staticmethod
    @abc.abstractmethod
    def loss_names(config: ExperimentConfig) -> tuple[str, ...]:
        """Returns the names of the terms that `batch_losses` gives."""

    @staticmethod
    @abc.abstractmethod
    def input_dataset(
        config: ExperimentConfig,
        info: DatasetInfo,
        index: RecordIndex,
        start_step: int,
        context: tf.distribute.InputContext,
    ) -> tf.data.Dataset:
        """Returns endless batches with an `image`; arguments as in `pipeline.training_dataset`."""

    @staticmethod
    @abc.abstractmethod
    def batch_losses(outputs: dict[str, tf.Tensor], batch: Any, config: ExperimentConfig) -> dict[str, WeightedTerm]:
        """Returns loss terms by name, of the network's outputs for a batch as `prepare_batch` gives it."""

    def prepare_batch(self, batch: Any) -> Any:
        """Returns what `batch_losses` takes, of a batch of `input_dataset`; part of the step on each replica."""
        return batch

    def rewind(self) -> None:
        """Starts the input anew where it started."""
        # A tf.Module overlooks that an attribute is set to the object that it is already.
        dataset, self.train_dataset = self.train_dataset, None
        self.train_dataset = dataset

    def train(self, num_steps: tf.Tensor) -> orbit.runner.Output:
        """Runs `num_steps` steps and returns their mean losses.

        Raises:
            UserError: A record cannot be read, or a loss is not finite.
        """
        try:
            return super().train(num_steps)
        except tf.errors.OpError as error:
            raise (reading_error(error, self._index) or error) from None

    def train_loop_begin(self) -> None:
        """Starts new means."""
        for mean in self._means.values():
            mean.reset_state()

    def train_step(self, iterator: tf.distribute.DistributedIterator) -> None:
        """Takes one step: gradients on all replicas first, then, if all are finite, the update."""
        gradients, finite = self._strategy.run(self._gradients, args=(next(iterator),))
        # Equal on all replicas, so the first one's answer is everybody's.
        proceed = tf.logical_and(self._strategy.experimental_local_results(finite)[0], self._failed_step == _NO_STEP)
        if proceed:
            self._strategy.run(self._apply, args=(gradients,))
            self._global_step.assign_add(1)
        elif self._failed_step == _NO_STEP:
            self._failed_step.assign(self._global_step)

    def train_loop_end(self) -> orbit.runner.Output:
        """Returns mean losses and the learning rate, by TensorBoard tag."""
        failed = int(self._failed_step.numpy())
        if failed != _NO_STEP:
            raise UserError(self._not_finite_message(failed))
        outputs = {f"losses/train_{name}": float(mean.result()) for name, mean in self._means.items()}
        return {**outputs, "learning_rate": self.learning_rate()}

    def learning_rate(self) -> float:
        """Returns the learning rate of the next step."""
        optimizer = self._optimizer
        rate = optimizer.lr if isinstance(optimizer, keras.optimizers.legacy.Optimizer) else optimizer.learning_rate
        rate = rate(optimizer.iterations) if callable(rate) else rate
        return float(rate.numpy() if hasattr(rate, "numpy") else rate)

    def _gradients(self, batch: Any) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Forward and backward on one replica; gradients are its part of a sum over replicas."""
        replica = tf.distribute.get_replica_context()
        statistics = self._network.non_trainable_variables
        before = [variable.read_value() for variable in statistics]
        batch = self.prepare_batch(batch)
        with tf.GradientTape() as tape:
            outputs = self._network(batch.image, training=True)
            losses = _divide_over_replicas(self.batch_losses(outputs, batch, self._config), replica)
            total = tf.add_n(list(losses.values()))
        gradients = tape.gradient(total, self._network.trainable_variables)
        finite = tf.math.is_finite(total) & tf.math.is_finite(tf.linalg.global_norm(gradients))
        broken = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(~finite, tf.int32))
        finite = tf.equal(broken, 0)
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(tf.where(finite, variable.read_value(), value))
        for name, value in {TOTAL: total, **losses}.items():
            # A mean over replicas of what is to be their sum.
            self._means[name].update_state(value * replica.num_replicas_in_sync)
        return gradients, finite

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        variables = self._network.trainable_variables
        clip = self._config.train.optimizer.clip_global_norm
        legacy = isinstance(self._optimizer, keras.optimizers.legacy.Optimizer)
        if clip is None:
            self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return
        # The norm is that of the whole batch's gradient, so it takes the sum over replicas first.
        gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, clip)
        summed = {"experimental_aggregate_gradients" if legacy else "skip_gradients_aggregation": not legacy}
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True), **summed)

    def _not_finite_message(self, step: int) -> str:
        batch_size, seed = self._config.train.batch_size, self._config.train.seed
        positions = tf.range(step * batch_size, (step + 1) * batch_size, dtype=tf.int64)
        records = [int(record_at(position, len(self._index), seed)) for position in positions]
        names = ", ".join(record_names(self._index, records))
        return (
            f"step {step}: the loss or its gradient is not finite; weights are left as they were before it. "
            f"Records: {names}"
        )


class PanopticTrainer(Trainer):
    """Trains segmentation, of whatever heads the network has."""

    @staticmethod
    def loss_names(config: ExperimentConfig) -> tuple[str, ...]:
        """Returns those of the tasks."""
        semantic = (SEMANTIC,) if config.model.tasks != "instance" else ()
        return (*semantic, *((CENTER, OFFSET) if config.model.tasks != "semantic" else ()))

    @staticmethod
    def input_dataset(
        config: ExperimentConfig,
        info: DatasetInfo,
        index: RecordIndex,
        start_step: int,
        context: tf.distribute.InputContext,
    ) -> tf.data.Dataset:
        """Returns each a `TrainingBatch`, or with `targets.on_device` a `LabelledBatch`."""
        return training_dataset(config, info, index, start_step, context)

    def prepare_batch(self, batch: TrainingBatch | LabelledBatch) -> TrainingBatch:
        """Makes the targets where the input pipeline left them to be made."""
        if isinstance(batch, TrainingBatch):
            return batch

        def make(panoptic: tf.Tensor) -> Targets:
            return make_targets_on_device(panoptic, self._info, self._config.targets)

        if not isinstance(self._strategy, tf.distribute.TPUStrategy):
            # A TPU compiles the whole step.
            make = tf.function(make, autograph=False, jit_compile=True)
        return TrainingBatch(batch.image, make(batch.panoptic), batch.record)

    @staticmethod
    def batch_losses(
        outputs: dict[str, tf.Tensor], batch: TrainingBatch, config: ExperimentConfig
    ) -> dict[str, WeightedTerm]:
        """Returns the losses at the resolution of the crops."""
        return loss_terms(upsample_heads(outputs, *batch.image.shape[1:3]), batch.targets, config)


def _divide_over_replicas(
    terms: dict[str, WeightedTerm], replica: tf.distribute.ReplicaContext
) -> dict[str, tf.Tensor]:
    denominators = [weighted.term.denominator for weighted in terms.values()]
    denominators = replica.all_reduce(tf.distribute.ReduceOp.SUM, [tf.stop_gradient(d) for d in denominators])
    losses = {}
    for (name, weighted), denominator in zip(terms.items(), denominators, strict=True):
        # Not divide_no_nan: it would turn a NaN over 0 into an innocent 0.
        denominator = tf.where(denominator > 0, denominator, 1.0)
        losses[name] = weighted.weight * weighted.term.numerator / denominator
    return losses


def steps_until(boundaries: list[int | None], steps_per_loop: int, last_step: int) -> Callable[[int], int]:
    """Makes the length of each inner loop, so that none runs past a multiple of any interval.

    Args:
        boundaries: Intervals in steps; None is no interval.
        steps_per_loop: The most steps of a loop.
        last_step: Of training.

    Returns:
        A function from the current step to the number of steps to run.
    """
    intervals = [interval for interval in boundaries if interval]

    def steps(current: int) -> int:
        current = int(current)
        ahead = [interval - current % interval for interval in intervals]
        return max(1, min([steps_per_loop, last_step - current, *ahead]))

    return steps
