"""How many steps fit a time, as arithmetic alone: durations, costs and the plan of a schedule."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from deeplab2_lite.errors import UserError

_SECONDS = {"h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0}
_PART = r"(\d+(?:\.\d+)?)\s*"
_DURATION = re.compile(rf"(?:{_PART}h)?\s*(?:{_PART}m(?:in)?)?\s*(?:{_PART}s)?", re.ASCII)
_LONGEST = 365 * 24 * 3600.0
# Warm-up of a schedule that turns out short: more would leave little of its rate.
_LARGEST_WARMUP = 0.1


def parse_duration(text: str, what: str = "--budget") -> float:
    """Reads a duration.

    Args:
        text: Such as "60min", "90s", "1.5h" or "1h30min".
        what: Says where it comes from, for the message.

    Returns:
        Seconds.

    Raises:
        UserError: It is none, or not above 0, or longer than a year.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or not any(found.groups()):
        raise UserError(f"{what}: {text!r} is no duration; expected such as 60min, 90s, 1.5h or 1h30min")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = hours * _SECONDS["h"] + minutes * _SECONDS["min"] + seconds
    if not 0 < total <= _LONGEST:
        raise UserError(f"{what}: {text!r} is {total:g} seconds; expected more than none, a year at most")
    return total


class Costs(NamedTuple):
    """Seconds that things take.

    Attributes:
        step: A training step, with its share of pictures and checkpoints.
        evaluation: One evaluation of the whole split; 0 where nothing is evaluated.
        eval_interval: Steps between two evaluations; None evaluates at the end alone.
    """

    step: float
    evaluation: float = 0.0
    eval_interval: int | None = None

    def seconds(self, step: int, last_step: int) -> float:
        """Returns what is still to be spent after a step, the evaluation at the end included."""
        if last_step <= step:
            return 0.0
        return (last_step - step) * self.step + self.evaluations(step, last_step) * self.evaluation

    def evaluations(self, step: int, last_step: int) -> int:
        """Returns how many evaluations come after a step up to the last one."""
        between = (
            0 if self.eval_interval is None else (last_step - 1) // self.eval_interval - step // self.eval_interval
        )
        return between + 1


class Plan(NamedTuple):
    """A schedule's progress from 0 to 1 as a function of the step: linear from a point on.

    Attributes:
        steps: Step at which progress is 1.
        warmup_steps: Steps of linear warm-up from 0.
        start_step: Where the line begins.
        start_progress: Progress there.
    """

    steps: int
    warmup_steps: int = 0
    start_step: int = 0
    start_progress: float = 0.0

    def progress(self, step: int) -> float:
        """Returns the progress at a step."""
        share = (step - self.start_step) / (self.steps - self.start_step)
        return min(1.0, self.start_progress + share * (1 - self.start_progress))

    def moved(self, step: int, steps: int) -> Plan:
        """Returns a plan that ends elsewhere, and whose progress has no jump at this step.

        Args:
            step: The current one.
            steps: The new last one, after it.
        """
        return Plan(steps, self.warmup_steps, step, self.progress(step))


def affordable_last_step(seconds: float, costs: Costs, step: int = 0) -> int:
    """Returns the last step that a time is enough for.

    Args:
        seconds: There are so many left.
        costs: What they are spent on.
        step: The current one.

    Returns:
        The greatest step up to which `costs.seconds` is no more; the current one if there is none.
    """
    low, high = step, step + max(0, math.floor(seconds / costs.step)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if costs.seconds(step, middle) <= seconds:
            low = middle
        else:
            high = middle
    return low


def first_plan(seconds: float, costs: Costs, warmup_steps: int) -> Plan | None:
    """Returns the plan of a run that begins.

    Args:
        seconds: There are so many.
        costs: What they are spent on.
        warmup_steps: Wanted; a tenth of the steps at most is given.

    Returns:
        The plan; None if not a single step fits.
    """
    steps = affordable_last_step(seconds, costs)
    return Plan(steps, min(warmup_steps, int(steps * _LARGEST_WARMUP))) if steps else None
