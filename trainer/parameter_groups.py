"""An optimizer for each group of weights that learns at a rate of its own, behind one face."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.checkpoints import named_optimizer_state
from deeplab2_lite.config import OptimizerConfig
from deeplab2_lite.replica_step import apply_summed
from deeplab2_lite.trainer.optimization import build_optimizer, optimizer_variables

_BACKBONE = "backbone/"


class GroupedOptimizer:
    """Updates each weight at the learning rate of the schedule times the multiplier of its group.

    The multiplier is on the rate, and not on the gradient, to whose scale Adam and its kind are blind.
    """

    def __init__(self, config: OptimizerConfig, steps: int | tf.Variable, network: keras.Model) -> None:
        """Builds the optimizers with all of their slots. Called inside the strategy's scope.

        Args:
            config: Name, schedule, multipliers and further options.
            steps: Length of the schedule, or its plan, as `build_schedule` takes it.
            network: Its trainable variables are learnt.

        Raises:
            UserError: There is no such optimizer, or it has no such option.
        """
        self._groups: dict[float, list[int]] = {}
        for index, multiplier in enumerate(multipliers(config, network)):
            self._groups.setdefault(multiplier, []).append(index)
        weights = network.trainable_variables
        self._optimizers = {
            multiplier: build_optimizer(_scaled(config, multiplier), steps, [weights[i] for i in indices])
            for multiplier, indices in self._groups.items()
        }

    def apply(self, gradients: Sequence[tf.Tensor], weights: Sequence[tf.Variable]) -> None:
        """Takes a step; in replica context.

        Args:
            gradients: Of the whole batch: sums over the replicas, the same on each.
            weights: The network's trainable variables.
        """
        for multiplier, indices in self._groups.items():
            apply_summed(self._optimizers[multiplier], [gradients[i] for i in indices], [weights[i] for i in indices])

    def state(self) -> dict[str, tf.Variable]:
        """Returns all variables of the optimizers by name; those of a group with a multiplier have it before."""
        named: dict[str, tf.Variable] = {}
        for multiplier, optimizer in self._optimizers.items():
            prefix = "" if multiplier == 1 else f"times_{multiplier:g}/"
            for name, variable in named_optimizer_state(optimizer_variables(optimizer)).items():
                named[prefix + name] = variable
        return named

    def learning_rate(self) -> float:
        """Returns the schedule's learning rate at the number of steps taken, without multipliers."""
        multiplier, optimizer = next(iter(self._optimizers.items()))
        rate = optimizer.lr if isinstance(optimizer, keras.optimizers.legacy.Optimizer) else optimizer.learning_rate
        rate = rate(optimizer.iterations) if callable(rate) else rate
        return float(rate.numpy() if hasattr(rate, "numpy") else rate) / multiplier


def multipliers(config: OptimizerConfig, network: keras.Model) -> list[float]:
    """Returns the multiplier of each of a network's trainable variables, in their order."""
    normalization = {
        variable.name
        for layer in network.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer.trainable_variables
    }
    return [
        (config.backbone_multiplier if variable.name.startswith(_BACKBONE) else 1.0)
        * (config.batch_norm_multiplier if variable.name in normalization else 1.0)
        for variable in network.trainable_variables
    ]


def _scaled(config: OptimizerConfig, multiplier: float) -> OptimizerConfig:
    return dataclasses.replace(
        config,
        learning_rate=config.learning_rate * multiplier,
        end_learning_rate=config.end_learning_rate * multiplier,
    )
