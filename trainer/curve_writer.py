"""Writing a run's learning curve while it trains, as CSV and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from deeplab2_lite.trainer.learning_curve import CURVE_FILE, STEP, LearningCurve, Row, figure_columns
from deeplab2_lite.trainer.learning_curve_plot import plot_run
from deeplab2_lite.trainer.run_clock import RunClock

PICTURE_FILE = "learning_curve.png"


class CurveWriter:
    """An orbit action that adds a row every so many steps; evaluations add theirs."""

    def __init__(
        self, model_dir: Path, global_step: tf.Variable, clock: RunClock, interval: int, writes: bool = True
    ) -> None:
        """Goes on with the curve that is there, up to the current step.

        Args:
            model_dir: Where CSV and picture are.
            global_step: Current step.
            clock: Of the run.
            interval: Steps between two rows.
            writes: Whether this process writes files, or collects alone.

        Raises:
            UserError: The file that is there is no learning curve.
        """
        self._picture = model_dir / PICTURE_FILE
        self._name = model_dir.resolve().name
        self._step = global_step
        self._clock = clock
        self._interval = interval
        self._writes = writes
        if writes:
            # Left by a run that was killed while it drew; nobody else writes them.
            for unfinished in model_dir.glob(f".{Path(PICTURE_FILE).stem}.*.tmp"):
                unfinished.unlink(missing_ok=True)
        self._curve = LearningCurve(model_dir / CURVE_FILE, int(global_step.numpy()), writes)

    @property
    def rows(self) -> list[Row]:
        """The rows so far."""
        return self._curve.rows

    def has_figures(self, step: int) -> bool:
        """Whether a step was evaluated."""
        return any(row[STEP] == step and figure_columns([row]) for row in self._curve.rows)

    def __call__(self, outputs: Mapping[str, float]) -> None:
        """Takes the losses of a loop, and adds a row if the step is a multiple of the interval."""
        step = int(self._step.numpy())
        self._curve.collect(step, outputs)
        if step % self._interval == 0:
            self._add(step)

    def evaluated(self, figures: Mapping[str, float]) -> None:
        """Adds the figures of an evaluation, by tag."""
        self._add(int(self._step.numpy()), figures)

    def close(self) -> None:
        """Adds what came after the last row."""
        step = int(self._step.numpy())
        rows = self._curve.rows
        if step and (not rows or rows[-1][STEP] < step):
            self._add(step)

    def _add(self, step: int, figures: Mapping[str, float] | None = None) -> None:
        self._curve.add(step, self._clock.seconds(), figures)
        if self._writes:
            plot_run(self._curve.rows, self._picture, self._name)
