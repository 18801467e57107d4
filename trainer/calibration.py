"""Measuring what a step and an evaluation take, on state that is thrown away."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from deeplab2_lite.trainer.loop import Trainer

# The most that is spent on each of both, and the share of the time that is.
_SECONDS = 20.0
_SHARE = 0.02


def calibration_seconds(budget: float) -> float:
    """Returns how long to measure for a run of so many seconds."""
    return min(_SECONDS, _SHARE * budget)


def measure_step(trainer: Trainer, variables: Sequence[tf.Variable], steps_per_loop: int, seconds: float) -> float:
    """Trains for a while, and puts everything back as it was.

    Args:
        trainer: At its start.
        variables: All that a step changes.
        steps_per_loop: The most steps of a loop.
        seconds: How long, after the first step, which is traced.

    Returns:
        Seconds a step.
    """
    before = [np.array(tf.convert_to_tensor(variable)) for variable in variables]
    trainer.train(tf.constant(1))
    start, steps, loop = time.monotonic(), 0, 1
    while not steps or time.monotonic() - start < seconds:
        trainer.train(tf.constant(loop))
        steps += loop
        loop = min(2 * loop, steps_per_loop)
    taken = time.monotonic() - start
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    trainer.rewind()
    return max(taken, 1e-6) / steps


def measure_evaluation(images: Iterator[int], number: int, seconds: float) -> float:
    """Evaluates for a while.

    Args:
        images: Evaluates, and yields how many images each batch had.
        number: How many there are in all.
        seconds: How long, after the first, which is traced.

    Returns:
        Seconds for all images.
    """
    first = next(images, None)
    start, done = time.monotonic(), 0
    for count in images:
        done += count
        if time.monotonic() - start >= seconds:
            break
    # Of a split of a single batch there is nothing but that: its second time is faster.
    return (time.monotonic() - start) / done * number if done and first else 0.0
