"""Showing how far training is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

import tensorflow as tf
from tqdm import tqdm

# Elsewhere than on a terminal, a line so often at most.
_SECONDS_BETWEEN_LINES = 15.0
Action = Callable[[Mapping[str, float]], None]
# What the trainer says of the seconds that a loop waited for its input.
INPUT_SECONDS = "time/input_seconds"


class Progress:
    """An orbit action that tells step, losses, images per second and the time left."""

    def __init__(
        self,
        global_step: tf.Variable,
        last_step: int,
        batch_size: int,
        blocked_seconds: Callable[[], float] = float,
        stream: TextIO | None = None,
    ) -> None:
        """Starts the clock.

        Args:
            global_step: Current step.
            last_step: Of training.
            batch_size: Global batch.
            blocked_seconds: Returns for how long checkpoints have held training up so far.
            stream: Where to write; None is standard error.
        """
        self._stream = stream or sys.stderr
        self._step = global_step
        self._last_step = last_step
        self._batch_size = batch_size
        self._first_step = self._shown_step = int(global_step.numpy())
        self._shown = time.monotonic()
        self._away = 0.0
        self._input = 0.0
        self._blocked_seconds = blocked_seconds
        self._blocked = blocked_seconds()
        self._bar: tqdm | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=last_step,
                initial=self._first_step,
                desc="train",
                unit="step",
                file=self._stream,
                dynamic_ncols=True,
            )

    def __call__(self, outputs: Mapping[str, float]) -> None:
        """Shows the state after an inner loop.

        Args:
            outputs: Of the trainer.
        """
        step, now = int(self._step.numpy()), time.monotonic()
        self._input += outputs.get(INPUT_SECONDS, 0.0)
        due = now - self._shown >= _SECONDS_BETWEEN_LINES
        if self._bar is None and not (due or step >= self._last_step or self._shown_step == self._first_step):
            return
        losses = {k.removeprefix("losses/train_").removesuffix("_loss"): v for k, v in outputs.items() if "loss" in k}
        text = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        seconds = max(now - self._shown - self._away, 1e-9)
        rate = (step - self._shown_step) * self._batch_size / seconds
        waiting = self._waiting(seconds)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{text} {rate:.1f} images/s{waiting}", refresh=False)
            self._bar.update(step - self._shown_step)
        else:
            left = (self._last_step - step) * self._batch_size / max(rate, 1e-9)
            self._stream.write(
                f"step {step}/{self._last_step}  {text}  {rate:.1f} images/s{waiting}  {format_seconds(left)} left\n"
            )
            self._stream.flush()
        self._shown, self._shown_step, self._away = now, step, 0.0
        self._input, self._blocked = 0.0, self._blocked_seconds()

    def _waiting(self, seconds: float) -> str:
        """Returns which shares of the time training waited for something else than its own steps."""
        waits = {"input": self._input, "checkpoint": self._blocked_seconds() - self._blocked}
        shares = {name: round(100 * wait / seconds) for name, wait in waits.items()}
        text = ", ".join(f"{name} {share} %" for name, share in shares.items() if share)
        return f" (waits: {text})" if text else ""

    def ends_at(self, last_step: int) -> None:
        """Takes another last step."""
        self._last_step = last_step
        if self._bar is not None:
            self._bar.total = last_step

    def pause(self, seconds: float) -> None:
        """Leaves out seconds that were spent on something else than training, such as evaluation."""
        self._away += seconds

    def leaving_out(self, action: Action) -> Action:
        """Returns an action whose time is left out."""

        def run(outputs: Mapping[str, float]) -> None:
            start = time.monotonic()
            action(outputs)
            self.pause(time.monotonic() - start)

        return run

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def format_seconds(seconds: float) -> str:
    """Formats a duration as "1:02:03" or "2:03"."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
