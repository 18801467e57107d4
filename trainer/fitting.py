"""An experiment as a compiled Keras model: `fit` in place of the training loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import ExperimentConfig, OptimizerConfig, TrainConfig
from deeplab2_lite.config_loading import load_config, parse_overrides
from deeplab2_lite.errors import UserError
from deeplab2_lite.layers.settings import PACKAGE
from deeplab2_lite.model import build_model
from deeplab2_lite.panoptic_deeplab import PanopticDeepLab
from deeplab2_lite.pretrained.weight_files import read_starting_weights, start_from
from deeplab2_lite.trainer.optimization import build_schedule, make_optimizer


@keras.saving.register_keras_serializable(package=PACKAGE)
class ExperimentSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of the training loop, in a form that travels in a `.keras` file."""

    def __init__(
        self, steps: int, learning_rate: float, power: float, end_learning_rate: float, warmup_steps: int
    ) -> None:
        """Builds the schedule.

        Args:
            steps: As for `build_schedule`.
            learning_rate: This and the others as in `OptimizerConfig`.
            power: See there.
            end_learning_rate: See there.
            warmup_steps: See there.
        """
        self._config = {
            "learning_rate": learning_rate,
            "power": power,
            "end_learning_rate": end_learning_rate,
            "warmup_steps": warmup_steps,
        }
        self._steps = steps
        self._schedule = build_schedule(OptimizerConfig(**self._config), steps)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate of a step, float32."""
        return self._schedule(step)

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the schedule."""
        return {"steps": self._steps, **self._config}


def compiled_model(
    experiment: str | Path | ExperimentConfig, overrides: str = "", network: keras.Model | None = None
) -> PanopticDeepLab:
    """Builds the network of an experiment and compiles it with its losses, optimizer and schedule.

    The network starts from `train.init_checkpoint`, if there is one.

    Made in the scope of a strategy, it trains on that strategy's devices.

    Args:
        experiment: Name, YAML file or configuration.
        overrides: Settings that win over those of a name or file, as for `load_config`.
        network: Trained in place of a new one: a functional model whose output is a dictionary by the names of
            `Heads`. Its weights are shared, not copied, and it starts from them.

    Returns:
        The model, for `fit`.

    Raises:
        UserError: A value is out of range, or asks for what the training loop alone can do; or the weights to start
            from are of another network.
    """
    config = experiment
    if not isinstance(config, ExperimentConfig):
        config = load_config(experiment, overrides)
    elif parse_overrides(overrides):
        raise UserError("compiled_model: overrides go with the name of an experiment or its file, not with a config")
    _check(config.train)
    if network is None:
        network = build_model(config)
        if config.train.init_checkpoint is not None:
            start = read_starting_weights(config.train.init_checkpoint)
            start_from(network, config, start, config.train.init_fresh_logits)
    model = network if isinstance(network, PanopticDeepLab) else PanopticDeepLab(network.input, network.output)
    with model.distribute_strategy.scope():
        optimizer = _optimizer(config.train, model)
    model.compile(optimizer, losses=config.losses, jit_compile=config.runtime.xla)
    return model


def _optimizer(train: TrainConfig, model: keras.Model) -> keras.optimizers.Optimizer:
    config = train.optimizer
    schedule = ExperimentSchedule(
        train.steps, config.learning_rate, config.power, config.end_learning_rate, config.warmup_steps
    )
    optimizer = make_optimizer(config, schedule, model.trainable_variables)
    if config.clip_global_norm is not None:
        if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
            raise UserError(f"train.optimizer.clip_global_norm: 'fit' cannot clip for '{config.name}'; expected null")
        optimizer.global_clipnorm = config.clip_global_norm
    return optimizer


def _check(train: TrainConfig) -> None:
    """Refuses what `fit` would pass over in silence."""
    default, optimizer = TrainConfig(), dataclasses.asdict(train.optimizer)
    for name in ("accumulation_steps", "recompute_activations", "ema_decay", "budget_seconds"):
        _expect(f"train.{name}", getattr(train, name), getattr(default, name))
    for name in ("backbone_multiplier", "batch_norm_multiplier"):
        _expect(f"train.optimizer.{name}", optimizer[name], getattr(default.optimizer, name))


def _expect(name: str, value: Any, default: Any) -> None:
    if value != default:
        expected = "null" if default is None else str(default).lower()
        raise UserError(f"{name}: {value} is for 'deeplab2-lite train', not for 'fit'; expected {expected}")
