"""Keeping a run within its time: a plan that follows the speed of the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from deeplab2_lite.trainer.budget import Costs, Plan, affordable_last_step
from deeplab2_lite.trainer.run_clock import RunClock

# Kept back for the last checkpoint and for what no measurement foresees.
RESERVE = 0.01
# The speed is looked at each such share of the time, and followed if the end would be off by more than that.
_WINDOW = 0.05
_TOLERANCE = 0.02


class Pace:
    """An orbit action that moves the end of the schedule when the machine has become faster or slower.

    Progress has no jump where the plan changes, so neither has the learning rate, which still ends at its end.
    """

    def __init__(
        self,
        budget: float,
        plan: Plan,
        costs: Costs,
        clock: RunClock,
        global_step: tf.Variable,
        changed: Callable[[Plan, Costs], None],
        smallest_rest: int = 1,
    ) -> None:
        """Starts to look.

        Args:
            budget: Seconds for the whole run.
            plan: Current.
            costs: As far as they are known; those of a step are measured anew.
            clock: Of the run.
            global_step: Current step.
            changed: Called with a new plan and the costs that it follows from.
            smallest_rest: Steps that are left at least, were the time over already.
        """
        self.plan = plan
        self._budget = budget
        self._costs = costs
        self._clock = clock
        self._step = global_step
        self._changed = changed
        self._smallest_rest = smallest_rest
        self._window: tuple[int, float] | None = None
        self._away = 0.0

    def __call__(self, outputs: Mapping[str, float]) -> None:
        """Looks at the speed, and makes a new plan if the end would be off."""
        step, now = int(self._step.numpy()), self._clock.seconds()
        if self._window is None:
            # What the first loop takes to be traced is no step's cost.
            self._window = step, now
            return
        first_step, start = self._window
        if now - start - self._away < _WINDOW * self._budget or step >= self.plan.steps:
            return
        self._costs = self._costs._replace(step=(now - start - self._away) / (step - first_step))
        self._window, self._away = (step, now), 0.0
        end = now + self._costs.seconds(step, self.plan.steps)
        available = self._budget * (1 - RESERVE)
        if abs(end - available) <= _TOLERANCE * self._budget:
            return
        rest = min(self._smallest_rest, self.plan.steps - step)
        steps = max(affordable_last_step(available - now, self._costs, step), step + rest)
        if steps != self.plan.steps:
            self.plan = self.plan.moved(step, steps)
            self._changed(self.plan, self._costs)

    def evaluated(self, seconds: float) -> None:
        """Takes the time of an evaluation, which is no training and is what the next one will take."""
        self._away += seconds
        self._costs = self._costs._replace(evaluation=seconds)
