"""The learning curve of a run: losses, learning rate and figures by step, as a CSV file that survives restarts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from deeplab2_lite.errors import UserError
from deeplab2_lite.files import write_text_atomically

CURVE_FILE = "learning_curve.csv"
STEP, SECONDS, LEARNING_RATE = "step", "seconds", "learning_rate"
# Columns of the figures, by the tags of an evaluation.
FIGURES = {
    **{
        f"panoptic_quality/{part}/{key}": f"{key}{suffix}"
        for part, suffix in (("All", ""), ("Things", "_things"), ("Stuff", "_stuff"))
        for key in ("PQ", "SQ", "RQ")
    },
    "semantic/mIoU": "mIoU",
    "instance/AP": "AP",
    "instance/AP50": "AP50",
    "detection/AP50": "detection_AP50",
    "accuracy/top_1": "top_1",
    "accuracy/top_5": "top_5",
}
_FIRST = (STEP, SECONDS, LEARNING_RATE)
_LOSS_TAG = "losses/train_"
Row = dict[str, float]


class LearningCurve:
    """Collects what training says between two rows, and writes the file anew with each row."""

    def __init__(self, path: Path, step: int, writes: bool = True) -> None:
        """Opens the curve of a run.

        Args:
            path: The file; it need not be there.
            step: That the run is at: what is later was lost with an interruption, and will come again.
            writes: Whether to write the file, or to collect alone.

        Raises:
            UserError: The file is no learning curve.
        """
        self.path = path
        self._writes = writes
        self.rows = [row for row in read_curve(path) if row[STEP] <= step] if path.is_file() else []
        self._last_step = step
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._learning_rate = math.nan

    def collect(self, step: int, outputs: Mapping[str, float]) -> None:
        """Takes the mean losses of the steps since the last call.

        Args:
            step: The current one.
            outputs: Of the trainer.
        """
        steps, self._last_step = step - self._last_step, step
        self._steps += steps
        self._learning_rate = outputs.get(LEARNING_RATE, math.nan)
        for tag, value in outputs.items():
            if tag.startswith(_LOSS_TAG):
                name = tag.removeprefix(_LOSS_TAG)
                self._sums[name] = self._sums.get(name, 0.0) + steps * value

    def add(self, step: int, seconds: float, figures: Mapping[str, float] | None = None) -> None:
        """Adds a row, or figures to the row of this step, and writes the file.

        Args:
            step: The current one.
            seconds: That the run has taken.
            figures: Of an evaluation, by tag.
        """
        if not self.rows or self.rows[-1][STEP] < step:
            self.rows.append({STEP: step})
        row = self.rows[-1]
        row[SECONDS] = seconds
        if self._steps:
            row[LEARNING_RATE] = self._learning_rate
            row.update({name: total / self._steps for name, total in self._sums.items()})
            self._sums, self._steps = {}, 0
        row.update({FIGURES[tag]: value for tag, value in (figures or {}).items() if tag in FIGURES})
        if self._writes:
            write_text_atomically(self.path, _to_csv(self.rows))


def read_curve(path: Path) -> list[Row]:
    """Reads a learning curve.

    Args:
        path: The file.

    Returns:
        Its rows, in order of steps; what is left empty is not there.

    Raises:
        UserError: It cannot be read, or is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, csv.Error):
        raise UserError(f"{path}: is no learning curve; expected a table of numbers") from None
    steps = [row.get(STEP, math.nan) for row in rows]
    if not all({STEP, SECONDS} <= row.keys() for row in rows) or steps != sorted(set(steps)):
        raise UserError(f"{path}: is no learning curve; expected '{STEP}' and '{SECONDS}' in each row, steps ascending")
    for row in rows:
        row[STEP] = int(row[STEP])
    return rows


def loss_columns(rows: list[Row]) -> list[str]:
    """Returns the columns that are losses, in order."""
    return [name for name in _columns(rows) if name.endswith("_loss")]


def figure_columns(rows: list[Row]) -> list[str]:
    """Returns the columns that are figures, in order."""
    return [name for name in _columns(rows) if name in FIGURES.values()]


def _columns(rows: list[Row]) -> list[str]:
    found = {name for row in rows for name in row}
    # The total first, and the figures as they are named above, whatever an early row lacks.
    losses = sorted((name for name in found if name.endswith("_loss")), key=lambda name: (name != "total_loss", name))
    return [*_FIRST, *losses, *(name for name in FIGURES.values() if name in found)]


def _to_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.6g}" if math.isfinite(value) else ""
