"""A run within a budget: what is measured before it, what it says, and what its checkpoints hold of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer.budget import Costs, Plan, first_plan
from deeplab2_lite.trainer.calibration import calibration_seconds, measure_evaluation, measure_step
from deeplab2_lite.trainer.classification import ClassificationEvaluator
from deeplab2_lite.trainer.evaluator import PanopticEvaluator
from deeplab2_lite.trainer.loop import Trainer
from deeplab2_lite.trainer.pace import RESERVE, Pace
from deeplab2_lite.trainer.preparation import say
from deeplab2_lite.trainer.progress import format_seconds

if TYPE_CHECKING:
    from deeplab2_lite.trainer.experiment import Experiment

_METADATA = "run"


class RunState(NamedTuple):
    """What a checkpoint says of the run, besides weights and configuration.

    Attributes:
        seconds: That it had taken.
        plan: Of a run within a budget.
        step_seconds: What a step of that took.
        evaluation_seconds: What an evaluation of that took.
        skipped_steps: Whose batch was left out because its loss or gradient was not finite.
    """

    seconds: float = 0.0
    plan: Plan | None = None
    step_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    skipped_steps: tuple[int, ...] = ()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> RunState:
        """Reads it from a checkpoint's metadata; older ones have none."""
        values = dict(metadata.get(_METADATA) or {})
        if values.get("plan") is not None:
            values["plan"] = Plan(**values["plan"])
        values["skipped_steps"] = tuple(values.get("skipped_steps", ()))
        return cls(**values)

    def to_metadata(self) -> dict[str, Any]:
        """Returns what `from_metadata` reads, plain data."""
        plan = None if self.plan is None else self.plan._asdict()
        return {_METADATA: {**self._asdict(), "plan": plan, "skipped_steps": list(self.skipped_steps)}}


def keep_pace(
    experiment: Experiment, trainer: Trainer, evaluator: PanopticEvaluator | ClassificationEvaluator | None
) -> Pace | None:
    """Plans a run within its budget, if it has none yet, and returns what keeps it there.

    Args:
        experiment: With `train.budget_seconds`.
        trainer: At its start.
        evaluator: If the run evaluates; it then does so each `train.eval_interval`.

    Returns:
        An action of the training loop; None where the budget does not count.

    Raises:
        UserError: The time is not enough for a single step.
    """
    train = experiment.config.train
    if train.budget_seconds is None:
        return None
    interval = None if evaluator is None else train.eval_interval
    if experiment.run_state.plan is None:
        costs = _measure(experiment, trainer, evaluator)._replace(eval_interval=interval)
        experiment.follow(_first_state(experiment, costs))
    state = experiment.run_state
    costs = Costs(state.step_seconds, state.evaluation_seconds if evaluator is not None else 0.0, interval)

    def changed(plan: Plan, costs: Costs) -> None:
        experiment.follow(RunState(0.0, plan, costs.step, costs.evaluation))
        evaluation = f" and {costs.evaluation:.3g} s an evaluation" if costs.evaluation else ""
        say(f"--budget: {costs.step:.3g} s a step{evaluation} now; {plan.steps} steps fit the time")

    return Pace(
        train.budget_seconds,
        state.plan,
        costs,
        experiment.clock,
        experiment.state.global_step,
        changed,
        train.steps_per_loop,
    )


def _measure(
    experiment: Experiment, trainer: Trainer, evaluator: PanopticEvaluator | ClassificationEvaluator | None
) -> Costs:
    train = experiment.config.train
    seconds = calibration_seconds(train.budget_seconds)
    step = measure_step(trainer, experiment.state.variables(), train.steps_per_loop, seconds)
    evaluation = 0.0 if evaluator is None else measure_evaluation(evaluator.rehearse(), evaluator.num_images, seconds)
    return Costs(step, evaluation)


def _first_state(experiment: Experiment, costs: Costs) -> RunState:
    train = experiment.config.train
    budget, spent = train.budget_seconds, experiment.clock.seconds()
    plan = first_plan(budget * (1 - RESERVE) - spent, costs, train.optimizer.warmup_steps)
    if plan is None:
        least = (spent + costs.seconds(0, 1)) / (1 - RESERVE)
        raise UserError(
            f"--budget: {budget:g} s is too short: starting took {spent:.0f} s; expected more than {least:.0f} s here"
        )
    text = f"--budget: {format_seconds(budget)}, {spent:.0f} s of it spent on starting; {costs.step:.3g} s a step"
    if costs.evaluation:
        text += f", {costs.evaluations(0, plan.steps)} evaluation(s) of {costs.evaluation:.3g} s"
    text += f": {plan.steps} steps"
    if plan.warmup_steps < train.optimizer.warmup_steps:
        text += f", {plan.warmup_steps} of them warm-up"
    say(text)
    return RunState(spent, plan, costs.step, costs.evaluation)
