"""Evaluating a run's checkpoints: the newest one, or each as training writes it."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator

import orbit

from deeplab2_lite.config import TrainConfig
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.loading import CONFIG_FILE
from deeplab2_lite.trainer.best_steps import evaluations_since_best
from deeplab2_lite.trainer.experiment import Evaluator, Experiment
from deeplab2_lite.trainer.learning_curve import CURVE_FILE, read_curve
from deeplab2_lite.trainer.preparation import say

_POLL_SECONDS = 10.0


def evaluate(experiment: Experiment) -> None:
    """Evaluates the checkpoint that an experiment has taken up.

    Args:
        experiment: Its owner.

    Raises:
        UserError: There is none, or a record cannot be read.
    """
    experiment.require_checkpoint()
    _evaluate(experiment, _controller(experiment, experiment.evaluator()))


def evaluate_continuously(experiment: Experiment) -> None:
    """Evaluates each checkpoint as training writes it, until that of the last step.

    Args:
        experiment: Its owner.

    Raises:
        UserError: A record cannot be read.
    """
    controller = _controller(experiment, experiment.evaluator())
    done, last_step = -1, experiment.config.train.steps
    while done < last_step:
        latest = experiment.store.latest_step()
        if latest is None or latest <= done:
            if _has_stopped_early(experiment):
                return
            time.sleep(_POLL_SECONDS)
            continue
        done = experiment.restore()
        saved = load_config(experiment.model_dir / CONFIG_FILE).train
        if saved.budget_seconds is not None:
            # Training has measured its steps since, or moved its end.
            last_step = saved.steps
        _evaluate(experiment, controller)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the Controller from printing every loop to standard output; ours goes to standard error."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def out_of_patience(train: TrainConfig, rows: list[dict[str, float]]) -> bool:
    """Whether so many evaluations have brought nothing better that training is to stop.

    Args:
        train: The training loop.
        rows: Of the learning curve.
    """
    return train.patience is not None and evaluations_since_best(rows, train.best_metric) >= train.patience


def _has_stopped_early(experiment: Experiment) -> bool:
    curve = experiment.model_dir / CURVE_FILE
    return curve.is_file() and out_of_patience(experiment.config.train, read_curve(curve))


def _evaluate(experiment: Experiment, controller: orbit.Controller) -> None:
    with quiet(), experiment.looking():
        controller.evaluate()


def _controller(experiment: Experiment, evaluator: Evaluator) -> orbit.Controller:
    return orbit.Controller(
        strategy=experiment.strategy,
        evaluator=evaluator,
        global_step=experiment.state.global_step,
        eval_actions=[lambda _: say(evaluator.table)],
        eval_summary_dir=str(experiment.model_dir / "eval") if experiment.is_chief else None,
    )
