"""Times and peak memory of functions, in a form that noise of the machine spoils least."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Ratio(NamedTuple):
    """Medians in milliseconds, and the median of the ratios run by run."""

    first: float
    second: float
    ratio: float


def milliseconds(run: Callable[[], Any]) -> float:
    """One run, until its results are there."""
    start = time.perf_counter()
    for tensor in tf.nest.flatten(run()):
        # Eager results may be promises; the first element fulfils them.
        tf.reshape(tensor, [-1])[:1].numpy()
    return 1e3 * (time.perf_counter() - start)


def median_milliseconds(run: Callable[[], Any], runs: int) -> float:
    """Median of runs after one that warms up."""
    milliseconds(run)
    return statistics.median(milliseconds(run) for _ in range(runs))


def compare(first: Callable[[], Any], second: Callable[[], Any], runs: int) -> Ratio:
    """Runs two functions in turn after one warm-up each, so that both see the same noise."""
    for run in (first, second):
        milliseconds(run)
    pairs = [(milliseconds(first), milliseconds(second)) for _ in range(runs)]
    medians = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Ratio(*medians, statistics.median(b / a for a, b in pairs))


def peak_megabytes(run: Callable[[], Any]) -> float | None:
    """Peak resident memory of one run above what was resident before it; None where the system does not tell."""
    if not _CLEAR.exists():
        return None
    before = _resident("VmRSS")
    # Resets the high-water mark, which never falls by itself.
    _CLEAR.write_text("5")
    milliseconds(run)
    return _resident("VmHWM") - before


def _resident(key: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024
