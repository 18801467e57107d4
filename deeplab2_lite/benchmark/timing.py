"""Stages against the clock: how long each takes, and how much memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.benchmark.machine import peak_bytes, wait_for_devices
from deeplab2_lite.benchmark.stages import END_TO_END, Watch
from deeplab2_lite.errors import UserError

Clock = Callable[[], float]
# One pass through all stages under the eyes of a watch; gives panoptic maps, int32 [batch, height, width].
Round = Callable[[Watch], tf.Tensor]


@dataclass(frozen=True)
class Timing:
    """Times of one stage.

    Attributes:
        name: Of the stage.
        seconds: Of each run that counts.
        peak_bytes: Memory that it takes at its peak over what is in use before; None where nobody knows.
    """

    name: str
    seconds: tuple[float, ...]
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Seconds of the middle run."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Seconds that a quarter of the runs stayed below, and that a quarter exceeded."""
        low, high = np.quantile(self.seconds, [0.25, 0.75]).tolist()
        return low, high


class Measured(NamedTuple):
    """What came of all rounds.

    Attributes:
        instances: Found in an image, on average.
        stages: Times of each stage, in the order of a round.
        end_to_end: Times of the one function that does them all.
    """

    instances: float
    stages: tuple[Timing, ...]
    end_to_end: Timing


def measure(rounds: Iterable[Round], label_divisor: int, runs: int, clock: Clock) -> Measured:
    """Runs each round once to compile it, once for memory, and then against the clock.

    A round takes the stages in turn, so that what else the machine does meets all of them alike.

    Args:
        rounds: For each batch of images.
        label_divisor: Panoptic id = class id * label_divisor + instance id.
        runs: How often each round runs against the clock.
        clock: Tells the time in seconds.

    Returns:
        Times and memory; of several rounds, all times and the most memory.

    Raises:
        UserError: There are no rounds.
    """
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    found: list[int] = []

    def unwatched(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def gauged(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        results = []

        def compute() -> None:
            results.append(function(*arguments))
            wait_for_devices()

        peak = peak_bytes(compute)
        if peak is not None:
            peaks[name] = max(peak, peaks.get(name, 0))
        return results[0]

    def timed(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        wait_for_devices()
        start = clock()
        result = function(*arguments)
        wait_for_devices()
        seconds.setdefault(name, []).append(clock() - start)
        return result

    for run_round in rounds:
        run_round(unwatched)
        found += [np.count_nonzero(np.unique(panoptic) % label_divisor) for panoptic in run_round(gauged).numpy()]
        for _ in range(runs):
            run_round(timed)
    if not found:
        raise UserError("images: expected at least one")
    timings = {name: Timing(name, tuple(times), peaks.get(name)) for name, times in seconds.items()}
    end_to_end = timings.pop(END_TO_END)
    return Measured(float(np.mean(found)), tuple(timings.values()), end_to_end)
