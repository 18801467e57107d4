"""The learning-rate schedule and the optimizer that the configuration names."""

from __future__ import annotations

import inspect
from typing import Any

import tensorflow as tf
import tf_keras as keras
from official.modeling.optimization import lamb
from official.modeling.optimization.lr_schedule import LinearWarmup, PolynomialDecayWithOffset

from deeplab2_lite import addons
from deeplab2_lite.config import OptimizerConfig
from deeplab2_lite.errors import UserError, nearest_name
from deeplab2_lite.trainer.adam import Adam, AdamW
from deeplab2_lite.trainer.budget import Plan

_BUILT_IN = {
    "adam": Adam,
    "adamw": AdamW,
    "lamb": lamb.LAMB,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}
# What the field means by "SGD" (the paper's first row of Table 1 has momentum); options override it.
_DEFAULTS: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.9}}


def plan_values(plan: Plan) -> list[float]:
    """Returns a plan as the values of the variable that a schedule follows, float32."""
    return [float(value) for value in plan]


class PlannedDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The 'poly' learning rate and its warm-up, along a plan that may change while training goes on."""

    def __init__(self, config: OptimizerConfig, plan: tf.Variable) -> None:
        """Follows a plan.

        Args:
            config: Rate, power and end.
            plan: float32 [4], as `plan_values` gives.
        """
        self._config = config
        self._plan = plan

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate of a step, float32."""
        last_step, warmup_steps, start_step, start_progress = tf.unstack(tf.convert_to_tensor(self._plan))

        def decayed(step: tf.Tensor) -> tf.Tensor:
            share = (step - start_step) / (last_step - start_step)
            progress = tf.clip_by_value(start_progress + share * (1.0 - start_progress), 0.0, 1.0)
            end = self._config.end_learning_rate
            return (self._config.learning_rate - end) * (1.0 - progress) ** self._config.power + end

        step = tf.cast(step, tf.float32)
        warmup = step / tf.maximum(warmup_steps, 1.0) * decayed(warmup_steps)
        return tf.where(step < warmup_steps, warmup, decayed(step))

    def get_config(self) -> dict[str, float]:
        """Returns what does not change."""
        config = self._config
        return {
            "learning_rate": config.learning_rate,
            "power": config.power,
            "end_learning_rate": config.end_learning_rate,
        }


def build_schedule(
    config: OptimizerConfig, steps: int | tf.Variable
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Builds the 'poly' learning rate (paper section 4) with a linear warm-up from 0.

    Args:
        config: Rate, power, end and warm-up.
        steps: Step at which the end is reached; or a plan as a variable, whose warm-up counts then.

    Returns:
        Step -> learning rate, float32.
    """
    if isinstance(steps, tf.Variable):
        return PlannedDecay(config, steps)
    schedule = PolynomialDecayWithOffset(
        offset=0,
        initial_learning_rate=config.learning_rate,
        decay_steps=steps,
        end_learning_rate=config.end_learning_rate,
        power=config.power,
    )
    if config.warmup_steps:
        return LinearWarmup(schedule, warmup_steps=config.warmup_steps, warmup_learning_rate=0.0)
    return schedule


def build_optimizer(
    config: OptimizerConfig, steps: int | tf.Variable, variables: list[tf.Variable]
) -> keras.optimizers.Optimizer | keras.optimizers.legacy.Optimizer:
    """Builds the optimizer with all of its slots, so that a checkpoint can be restored into it.

    Args:
        config: Name, schedule and further options.
        steps: Length of the schedule, or its plan, as `build_schedule` takes it.
        variables: Trainable variables of the model. Called inside the strategy's scope.

    Returns:
        The optimizer.

    Raises:
        UserError: There is no such optimizer, or it has no such option.
    """
    return make_optimizer(config, build_schedule(config, steps), variables)


def make_optimizer(
    config: OptimizerConfig, schedule: keras.optimizers.schedules.LearningRateSchedule, variables: list[tf.Variable]
) -> keras.optimizers.Optimizer | keras.optimizers.legacy.Optimizer:
    """Builds the optimizer as `build_optimizer`, on a schedule that is there; name and options of `config` count."""
    if config.name.startswith(addons.PREFIX):
        optimizer_class = addons.addons_optimizer_class(config.name.removeprefix(addons.PREFIX))
    elif config.name in _BUILT_IN:
        optimizer_class = _BUILT_IN[config.name]
    else:
        raise UserError(
            f"train.optimizer.name: '{config.name}' is no optimizer; expected one of TensorFlow Addons as "
            f"'{addons.PREFIX}LAMB', or a built-in one{nearest_name(config.name, _BUILT_IN)}"
        )
    options = {**_DEFAULTS.get(config.name, {}), **config.options}
    _check_options(optimizer_class, options)
    wraps = config.name.startswith(addons.PREFIX) and addons.is_wrapper(optimizer_class)
    argument = {"optimizer": keras.optimizers.legacy.Adam(schedule)} if wraps else {"learning_rate": schedule}
    try:
        optimizer = optimizer_class(**argument, **options)
    except (TypeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"train.optimizer.options: '{config.name}' refuses them ({message})") from None
    if wraps:
        # Otherwise the wrapped one would begin a count of its own, which its first step throws away.
        argument["optimizer"].iterations = optimizer.iterations
    if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        optimizer._create_all_weights(variables)
    else:
        optimizer.build(variables)
    return optimizer


def optimizer_variables(
    optimizer: keras.optimizers.Optimizer | keras.optimizers.legacy.Optimizer,
) -> list[tf.Variable]:
    """Returns all state of an optimizer, of the new kind or the old."""
    if not isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        return list(optimizer.variables)
    variables = list(optimizer.variables())
    # A wrapper of TensorFlow Addons leaves out the state of what it wraps; they share the count of steps.
    wrapped = getattr(optimizer, "_optimizer", None)
    if wrapped is not None:
        variables += [v for v in wrapped.variables() if v is not wrapped.iterations]
    return variables


def _check_options(optimizer_class: type, options: dict[str, Any]) -> None:
    parameters = dict(inspect.signature(optimizer_class).parameters)
    for name in ("self", "learning_rate", "optimizer", "kwargs"):
        parameters.pop(name, None)
    for name, value in options.items():
        if name not in parameters:
            raise UserError(f"train.optimizer.options.{name}: unknown option{nearest_name(name, parameters)}")
        # Keras itself takes anything here and fails in the first step.
        for kind, expected in ((bool, "true or false"), (int | float, "a number"), (str, "text")):
            if isinstance(parameters[name].default, kind):
                if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
                    raise UserError(f"train.optimizer.options.{name}: expected {expected}, got {value!r}")
                break
