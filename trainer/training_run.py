"""Training an experiment to its end: what happens between the loops that orbit runs."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping

import orbit
import tensorflow as tf

from deeplab2_lite.command import Preempted
from deeplab2_lite.data.record_index import open_records
from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer.best_steps import best_step
from deeplab2_lite.trainer.classification import ClassificationTrainer
from deeplab2_lite.trainer.curve_writer import CurveWriter
from deeplab2_lite.trainer.evaluation_runs import out_of_patience, quiet
from deeplab2_lite.trainer.experiment import Experiment
from deeplab2_lite.trainer.interruption import Interruption
from deeplab2_lite.trainer.loop import Trainer, steps_until
from deeplab2_lite.trainer.model_dir_lock import locked
from deeplab2_lite.trainer.pacing import keep_pace
from deeplab2_lite.trainer.panoptic import PanopticTrainer
from deeplab2_lite.trainer.preparation import is_classifier, say
from deeplab2_lite.trainer.profiling import Profile, ProfiledSteps
from deeplab2_lite.trainer.progress import Progress
from deeplab2_lite.trainer.summaries import ImageSummaries

Action = Callable[[Mapping[str, float]], None]
_DISK_IS_FULL = re.compile(r"space left|quota", re.IGNORECASE)
_GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


def train(experiment: Experiment, evaluate: bool, profiled: ProfiledSteps | None = None) -> None:
    """Trains up to `train.steps`, from the newest checkpoint on.

    Args:
        experiment: Made for training.
        evaluate: Also evaluate, each `train.eval_interval` and at the end.
        profiled: Steps to write a trace of.

    Raises:
        UserError: A record cannot be read, a loss is not finite, the memory is too small, or the model folder
            cannot be written.
        Preempted: After SIGTERM, or where another process of the job is gone; a checkpoint is there.
        KeyboardInterrupt: After Ctrl-C; likewise.
    """
    with locked(experiment.model_dir) if experiment.is_chief else contextlib.nullcontext():
        experiment.describe()
        run = TrainingRun(experiment, evaluate, profiled)
        try:
            run.run()
        except OSError as error:
            place = error.filename or experiment.model_dir
            raise UserError(f"{place}: cannot be written ({error.strerror or error})") from None
        except tf.errors.ResourceExhaustedError as error:
            if _DISK_IS_FULL.search(str(error.message)):
                # Of TensorBoard's files.
                raise UserError(f"{experiment.model_dir}: cannot be written ({_line(error)})") from None
            raise UserError(
                f"train.batch_size: a step does not fit the memory ({_line(error)}); expected a smaller one, more "
                "train.accumulation_steps, train.recompute_activations=true or train.precision=bfloat16"
            ) from None
        except _GONE as error:
            if not experiment.has_other_processes:
                raise
            raise Preempted(f"another process of the job does not answer ({_line(error)})") from None
        finally:
            run.close()


class TrainingRun:
    """What one call of the command trains."""

    def __init__(self, experiment: Experiment, evaluate: bool, profiled: ProfiledSteps | None) -> None:
        """Sets up the loop and all that looks on.

        Args:
            experiment: As for `train`.
            evaluate: Likewise.
            profiled: Likewise.

        Raises:
            UserError: Records cannot be read, or the time of `--budget` is too short.
        """
        self._experiment = experiment
        self._evaluate = evaluate
        config, train, global_step = experiment.config, experiment.config.train, experiment.state.global_step
        index = open_records(experiment.data_dir, config.data.train_split)
        # Who trains alone need not have an evaluation split; there are no pictures then.
        has_split = any(experiment.data_dir.glob(f"{config.data.eval_split}-*-of-*"))
        self._evaluator = experiment.evaluator() if evaluate or has_split else None
        if experiment.step:
            say(f"going on from the checkpoint of step {experiment.step}")
        trainer_class = ClassificationTrainer if is_classifier(config) else PanopticTrainer
        skipped = experiment.run_state.skipped_steps
        self._trainer: Trainer = trainer_class(
            config, experiment.info, index, experiment.strategy, experiment.state, skipped
        )
        self._pace = keep_pace(experiment, self._trainer, self._evaluator if evaluate else None)
        self._interruption = Interruption()
        self._progress = Progress(
            global_step, experiment.config.train.steps, train.batch_size, lambda: experiment.store.blocked_seconds
        )
        self._profile = Profile(profiled, global_step, experiment.model_dir / "train")
        self._curve = CurveWriter(
            experiment.model_dir, global_step, experiment.clock, train.checkpoint_interval, experiment.is_chief
        )
        self._keep_best()
        writes = experiment.is_chief
        self._controller = orbit.Controller(
            strategy=experiment.strategy,
            trainer=self._trainer,
            evaluator=self._evaluator,
            global_step=global_step,
            steps_per_loop=self._loop_length,
            train_actions=self._actions(),
            eval_actions=[lambda _: say(self._evaluator.table)] if writes else None,
            summary_dir=str(experiment.model_dir / "train") if writes else None,
            eval_summary_dir=str(experiment.model_dir / "eval") if writes else None,
        )

    def run(self) -> None:
        """Trains and evaluates to the end, or until somebody asks to stop."""
        with self._interruption.heeding(self._trainer.stop):
            try:
                self._profile({})
                # A run that was killed in an evaluation makes up for it.
                self._evaluate_if_due()
                while self._experiment.step < self._last_step and not self._is_out_of_patience():
                    with quiet():
                        self._controller.train(self._experiment.step + self._loop_length(self._experiment.step))
                    self._evaluate_if_due()
                self._curve.close()
            except (KeyboardInterrupt, Preempted):
                # Where there are other processes, they save together or not at all.
                if self._trainer.has_stopped or not self._experiment.has_other_processes:
                    self._save()
                    self._experiment.store.wait()
                    say(f"saved step {self._experiment.step}")
                self._curve.close()
                raise

    def close(self) -> None:
        """Ends what goes on in the background."""
        self._progress.close()
        self._profile.close()
        self._experiment.store.close()

    @property
    def _last_step(self) -> int:
        return self._experiment.config.train.steps

    def _loop_length(self, step: int) -> int:
        train = self._experiment.config.train
        intervals = [train.checkpoint_interval, train.eval_interval, train.image_interval]
        return steps_until(intervals, train.steps_per_loop, self._last_step, self._profile.boundaries)(step)

    def _actions(self) -> list[Action]:
        # Checkpoints come before pictures, so that what was learnt is safe first; they hold the plan.
        actions: list[Action] = [self._progress] if self._experiment.is_chief else []
        if self._pace is not None:
            actions += [self._pace, lambda _: self._progress.ends_at(self._last_step)]
        actions += [self._tell_skips, self._curve, self._save_if_due, self._profile]
        # A full disk is no reason to train on up to the next checkpoint.
        actions.append(lambda _: self._experiment.store.raise_failure())
        images = self._image_summaries()
        return [*actions, *([self._progress.leaving_out(images)] if images is not None else []), self._end_if_asked]

    def _image_summaries(self) -> ImageSummaries | None:
        experiment, interval = self._experiment, self._experiment.config.train.image_interval
        is_panoptic = experiment.config.model.tasks == "panoptic"
        if self._evaluator is None or interval is None or not is_panoptic or experiment.has_other_processes:
            return None
        folder = experiment.model_dir / "train"
        return ImageSummaries(self._evaluator, experiment.info, experiment.state.global_step, interval, folder)

    def _tell_skips(self, _: object) -> None:
        lines = self._trainer.newly_skipped()
        for line in lines:
            say(f"warning: {line}; left out (train.max_skipped_batches)")
        if lines:
            self._experiment.run_state = self._experiment.run_state._replace(skipped_steps=self._trainer.skipped_steps)

    def _save_if_due(self, _: object) -> None:
        step = self._experiment.step
        if step % self._experiment.config.train.checkpoint_interval == 0 or step >= self._last_step:
            self._save()

    def _save(self) -> None:
        self._experiment.save()

    def _end_if_asked(self, _: object = None) -> None:
        if self._trainer.has_stopped:
            self._interruption.end()
        if not self._experiment.has_other_processes:
            self._interruption.raise_if_asked()

    def _evaluate_if_due(self) -> None:
        step, interval = self._experiment.step, self._experiment.config.train.eval_interval
        is_last = step >= self._last_step
        is_due = interval is not None and step > 0 and step % interval == 0 and not self._curve.has_figures(step)
        if not self._evaluate or not (is_last or is_due):
            return
        # What is evaluated is there to be exported, and nothing is lost if this is interrupted.
        self._save()
        start = time.monotonic()
        self._evaluator.between_batches = self._end_if_asked
        with quiet(), self._experiment.looking():
            figures = self._controller.evaluate()
        self._curve.evaluated(figures)
        self._keep_best()
        self._progress.pause(time.monotonic() - start)
        if self._pace is not None:
            self._pace.evaluated(time.monotonic() - start)

    def _keep_best(self) -> None:
        best = best_step(self._curve.rows, self._experiment.config.train.best_metric)
        self._experiment.store.keep = set() if best is None else {best}

    def _is_out_of_patience(self) -> bool:
        train, rows = self._experiment.config.train, self._curve.rows
        is_out = out_of_patience(train, rows)
        if is_out:
            say(
                f"stopping early: {train.best_metric} was the best at step {best_step(rows, train.best_metric)}, "
                f"{train.patience} evaluation(s) ago (train.patience)"
            )
        return is_out


def _line(error: tf.errors.OpError) -> str:
    return " ".join(str(error.message).split())[:120]
