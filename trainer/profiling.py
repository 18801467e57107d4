"""A trace of some training steps for TensorBoard's profiler."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer.preparation import say


class ProfiledSteps(NamedTuple):
    """The steps after `start` up to `end`."""

    start: int
    end: int


def parse_profiled_steps(text: str) -> ProfiledSteps:
    """Reads `--profile`.

    Args:
        text: Such as "100,110".

    Returns:
        The steps.

    Raises:
        UserError: It is no pair of steps, in order.
    """
    found = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text, re.ASCII)
    steps = ProfiledSteps(*map(int, found.groups())) if found else None
    if steps is None or steps.start >= steps.end:
        raise UserError(f"--profile: expected START,END such as 100,110, got {text!r}")
    return steps


class Profile:
    """An orbit action that traces the steps that it is told; loops have to end at its `boundaries`."""

    def __init__(self, steps: ProfiledSteps | None, global_step: tf.Variable, folder: Path) -> None:
        """Prepares it.

        Args:
            steps: Which; None traces nothing.
            global_step: Current step.
            folder: TensorBoard's, which gets `plugins/profile/`.
        """
        self._steps = steps
        self._global_step = global_step
        self._folder = folder
        self._is_running = False

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Steps at which something is to be done."""
        return () if self._steps is None else tuple(self._steps)

    def __call__(self, outputs: Mapping[str, float]) -> None:
        """Starts or ends the trace, if it is time for that."""
        if self._steps is None:
            return
        step = int(self._global_step.numpy())
        if self._is_running and step >= self._steps.end:
            self.close()
        elif not self._is_running and self._steps.start <= step < self._steps.end:
            tf.profiler.experimental.start(str(self._folder))
            self._is_running = True

    def close(self) -> None:
        """Writes what there is."""
        if self._is_running:
            self._is_running = False
            tf.profiler.experimental.stop()
            say(f"--profile: the trace is in {self._folder}, for TensorBoard's profiler")
