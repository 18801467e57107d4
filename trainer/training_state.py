"""All that training changes and a checkpoint holds."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import orbit
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.checkpoints import Checkpoint, assign, named_weights
from deeplab2_lite.config import TrainConfig
from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer.averaged_weights import AveragedWeights
from deeplab2_lite.trainer.loss_scale import LossScale
from deeplab2_lite.trainer.parameter_groups import GroupedOptimizer


class TrainingState:
    """Network, optimizer, averages and step, made together in the strategy's scope.

    Attributes:
        network: As `build_model` gives it.
        global_step: Steps taken; int64 scalar.
        optimizer: None where nothing is trained.
        averages: None without `train.ema_decay`.
        loss_scale: None but for float16.
    """

    def __init__(self, network: keras.Model, config: TrainConfig, steps: int | tf.Variable | None) -> None:
        """Starts at step 0.

        Args:
            network: With the weights to start from.
            config: The training loop.
            steps: Length of the schedule, or its plan, as `build_schedule` takes it; None trains nothing.

        Raises:
            UserError: The optimizer is none, or its options are.
        """
        self.network = network
        self.global_step = orbit.utils.create_global_step()
        training = steps is not None
        self.averages = AveragedWeights(network, config.ema_decay) if config.ema_decay is not None else None
        self.optimizer = GroupedOptimizer(config.optimizer, steps, network) if training else None
        self.loss_scale = LossScale() if training and config.precision == "float16" else None

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self.global_step.numpy())

    def optimizer_state(self) -> dict[str, tf.Variable]:
        """Returns the optimizer's variables by name, and those of the loss scale."""
        return {**self.optimizer.state(), **(self.loss_scale.state() if self.loss_scale is not None else {})}

    def averaged(self) -> Mapping[str, tf.Variable]:
        """Returns the averages by the structural path of their weights; nothing where there are none."""
        return {} if self.averages is None else self.averages.variables()

    def variables(self) -> list[tf.Variable]:
        """Returns all that a step changes."""
        return [
            *self.network.variables,
            *self.optimizer_state().values(),
            *self.averaged().values(),
            self.global_step,
        ]

    def restore(self, checkpoint: Checkpoint, folder: str) -> None:
        """Takes up what a checkpoint holds.

        Args:
            checkpoint: Its content.
            folder: Where it lies, for messages.

        Raises:
            UserError: It is of another network, or of other settings of training.
        """
        assign(named_weights(self.network), checkpoint.weights, f"weights of {folder}")
        if self.optimizer is not None:
            assign(self.optimizer_state(), checkpoint.optimizer, f"optimizer of {folder} (train.optimizer)")
        if self.averages is not None:
            if not checkpoint.averages:
                raise UserError(
                    f"{folder}: has no averaged weights; train.ema_decay cannot be set in the middle of a run"
                )
            assign(self.averages.variables(), checkpoint.averages, f"averaged weights of {folder}")
        self.global_step.assign(checkpoint.step)

    def looking(self, averaged: bool) -> contextlib.AbstractContextManager[None]:
        """Returns a block in which the network has the weights to evaluate.

        Args:
            averaged: The averages, and not the last ones.
        """
        return self.averages.in_place() if averaged and self.averages is not None else contextlib.nullcontext()
