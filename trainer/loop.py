"""The training loop, on any `tf.distribute` strategy."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import Any

import orbit
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.data.ordering import record_at
from deeplab2_lite.data.record_index import RecordIndex, reading_error, record_names
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.losses import WeightedTerm
from deeplab2_lite.panoptic_losses import TOTAL
from deeplab2_lite.replica_step import ReplicaStep
from deeplab2_lite.trainer.progress import INPUT_SECONDS
from deeplab2_lite.trainer.training_state import TrainingState

_NO_STEP = -1


class Trainer(orbit.StandardTrainer):
    """Trains a network on what a subclass says; orbit's Controller drives it.

    A step whose loss or gradient is not finite changes neither weights nor batch statistics nor the
    optimizer. Training stops there, and the error names step and records; or, `train.max_skipped_batches`
    times at most, it goes on with the next batch.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        info: DatasetInfo,
        index: RecordIndex,
        strategy: tf.distribute.Strategy,
        state: TrainingState,
        skipped: tuple[int, ...] = (),
    ) -> None:
        """Sets up the input from the current step on.

        Args:
            config: The experiment.
            info: Its label space.
            index: The training records.
            strategy: In its scope the state was made.
            state: Restored already, if training goes on.
            skipped: Steps whose batch the run has left out so far.
        """
        self._config = config
        self._info = info
        self._index = index
        self._strategy = strategy
        self._state = state
        self._replica_step = ReplicaStep(self, config, state)
        # All that a TPU compiles anyway.
        step = self._step_and_record
        # The loop is written for AutoGraph; of the step it would translate all Python for nothing, which takes seconds.
        self._program = (
            tf.function(step, autograph=False, jit_compile=True)
            if config.runtime.xla
            else tf.autograph.experimental.do_not_convert(step)
        )
        with strategy.scope():
            self._means = {name: keras.metrics.Mean(name=name) for name in (TOTAL, *self.loss_names(config))}
        with tf.device("CPU:0"):
            most = config.train.max_skipped_batches
            self._skipped = tf.Variable([*skipped, *[_NO_STEP] * (most - len(skipped))][:most], dtype=tf.int64)
            self._skips = tf.Variable(len(skipped))
            self._failed_step = tf.Variable(_NO_STEP, dtype=tf.int64)
            self._stop = tf.Variable(False)
            self._halted = tf.Variable(False)
            self._input_seconds = tf.Variable(0.0, dtype=tf.float64)
        self._told_skips = len(skipped)
        start = state.step
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

    @staticmethod
    @abc.abstractmethod
    def batch_denominators(batch: Any) -> dict[str, tf.Tensor]:
        """Returns the denominators of `batch_losses` by name."""

    def prepare_batch(self, batch: Any) -> Any:
        """Returns what `batch_losses` takes, of a batch of `input_dataset`; part of the step on each replica."""
        return batch

    @property
    def skipped_steps(self) -> tuple[int, ...]:
        """Steps whose batch was left out, the first ones of the run included."""
        return tuple(int(step) for step in self._skipped.numpy()[: int(self._skips.numpy())])

    def stop(self) -> None:
        """Ends the loop after the step that is being taken, on all processes of the job; from any thread."""
        self._stop.assign(True)

    @property
    def has_stopped(self) -> bool:
        """Whether the loop was ended by `stop`, here or in another process."""
        return bool(self._halted.numpy())

    def rewind(self) -> None:
        """Starts the input anew where it started."""
        # A tf.Module overlooks that an attribute is set to the object that it is already.
        dataset, self.train_dataset = self.train_dataset, None
        self.train_dataset = dataset

    def train(self, num_steps: tf.Tensor) -> orbit.runner.Output:
        """Runs `num_steps` steps, fewer after `stop`, and returns their mean losses.

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
        self._input_seconds.assign(0.0)

    def train_step(self, iterator: tf.distribute.DistributedIterator) -> None:
        """Takes one step, unless training has ended."""
        if not self._halted:
            self._take_step(self._next_batch(iterator))

    def train_loop_end(self) -> orbit.runner.Output:
        """Returns mean losses, the learning rate, and the seconds spent waiting for input, by TensorBoard tag."""
        failed = int(self._failed_step.numpy())
        if failed != _NO_STEP:
            raise UserError(f"{self._not_finite(failed)}; weights are left as they were before it")
        outputs = {f"losses/train_{name}": float(mean.result()) for name, mean in self._means.items()}
        waited = float(self._input_seconds.numpy())
        return {**outputs, "learning_rate": self._state.optimizer.learning_rate(), INPUT_SECONDS: waited}

    def newly_skipped(self) -> list[str]:
        """Returns a line for each batch that was left out since the last call."""
        skipped = self.skipped_steps
        lines = [self._not_finite(step) for step in skipped[self._told_skips :]]
        self._told_skips = len(skipped)
        return lines

    def _next_batch(self, iterator: tf.distribute.DistributedIterator) -> Any:
        if self._config.runtime.deterministic:
            # TensorFlow lets no operation read a clock then.
            return next(iterator)
        with tf.control_dependencies([self._state.global_step.read_value()]):
            asked = tf.timestamp()
        with tf.control_dependencies([asked]):
            batch = next(iterator)
        local = self._strategy.experimental_local_results
        with tf.control_dependencies([part for tensor in tf.nest.flatten(batch) for part in local(tensor)]):
            self._input_seconds.assign_add(tf.timestamp() - asked)
        return batch

    def _take_step(self, batch: Any) -> None:
        outcome = self._strategy.run(self._program, args=(batch, self._stop.read_value()))
        updated, overflowed, stop = (self._strategy.experimental_local_results(part)[0] for part in outcome)
        skips = tf.logical_not(updated | overflowed) & (self._skips < self._config.train.max_skipped_batches)
        if skips:
            is_next = tf.range(self._config.train.max_skipped_batches) == self._skips
            self._skipped.assign(tf.where(is_next, self._state.global_step.read_value(), self._skipped))
            self._skips.assign_add(1)
        if updated | overflowed | skips:
            self._state.global_step.assign_add(1)
        else:
            self._failed_step.assign(self._state.global_step)
        self._halted.assign(stop | (self._failed_step != _NO_STEP))

    def _step_and_record(self, batch: Any, stop: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        outcome = self._replica_step(batch, stop)
        losses = {TOTAL: tf.add_n(list(outcome.losses.values())), **outcome.losses}
        for name, value in losses.items():
            self._means[name].update_state(tf.where(outcome.updated, value, 0.0), tf.cast(outcome.updated, tf.float32))
        return outcome.updated, outcome.overflowed, outcome.stop

    def _not_finite(self, step: int) -> str:
        batch_size, seed = self._config.train.batch_size, self._config.train.seed
        positions = tf.range(step * batch_size, (step + 1) * batch_size, dtype=tf.int64)
        records = [int(record_at(position, len(self._index), seed)) for position in positions]
        names = ", ".join(record_names(self._index, records))
        return f"step {step}: the loss or its gradient is not finite, of the records {names}"


def steps_until(
    boundaries: list[int | None], steps_per_loop: int, last_step: int, once: Iterable[int] = ()
) -> Callable[[int], int]:
    """Makes the length of each inner loop, so that none runs past a multiple of any interval.

    Args:
        boundaries: Intervals in steps; None is no interval.
        steps_per_loop: The most steps of a loop.
        last_step: Of training.
        once: Further steps that none runs past.

    Returns:
        A function from the current step to the number of steps to run.
    """
    intervals = [interval for interval in boundaries if interval]

    def steps(current: int) -> int:
        current = int(current)
        ahead = [interval - current % interval for interval in intervals]
        ahead += [step - current for step in once if step > current]
        return max(1, min([steps_per_loop, last_step - current, *ahead]))

    return steps
