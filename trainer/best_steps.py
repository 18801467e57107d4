"""Which evaluated step was the best, as the rows of a run's learning curve tell."""

from __future__ import annotations

from collections.abc import Sequence

from deeplab2_lite.errors import UserError, nearest_name
from deeplab2_lite.trainer.learning_curve import FIGURES, STEP, Row

_CLASSIFIER = ("top_1", "top_5")


def check_best_metric(metric: str | None, is_classifier: bool) -> None:
    """Refuses a figure that no evaluation gives.

    Args:
        metric: `train.best_metric`.
        is_classifier: Whether whole images are classified.

    Raises:
        UserError: It is none of the columns of the learning curve.
    """
    names = [name for name in FIGURES.values() if (name in _CLASSIFIER) == is_classifier]
    if metric is not None and metric not in names:
        raise UserError(f"train.best_metric: no figure '{metric}'{nearest_name(metric, names)}")


def best_step(rows: Sequence[Row], metric: str | None) -> int | None:
    """Returns the step with the highest figure, the first one of equals; None where there is none.

    Args:
        rows: Of the learning curve.
        metric: Column of the figure.
    """
    evaluated = [row for row in rows if metric in row]
    # max takes the first of equals.
    return max(evaluated, key=lambda row: row[metric])[STEP] if evaluated else None


def evaluations_since_best(rows: Sequence[Row], metric: str) -> int:
    """Returns how many evaluations came after the best one."""
    best = best_step(rows, metric)
    return 0 if best is None else sum(row[STEP] > best for row in rows if metric in row)
