"""One run: data, network, optimizer, checkpoints, and what the modes do with them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import time
from pathlib import Path
from typing import Any

import orbit
import tensorflow as tf

from deeplab2_lite.checkpoints import Checkpoint, CheckpointStore, assign, named_optimizer_state, named_weights
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import config_to_dict, load_config, resolve_dataset_info, save_config
from deeplab2_lite.data.record_index import open_records
from deeplab2_lite.errors import UserError
from deeplab2_lite.export import export_merge, export_saved_model
from deeplab2_lite.loading import CHECKPOINTS, CONFIG_FILE
from deeplab2_lite.model import build_model
from deeplab2_lite.pretrained.weight_files import read_starting_weights, start_from
from deeplab2_lite.trainer.budget import Plan
from deeplab2_lite.trainer.classification import ClassificationEvaluator, ClassificationTrainer
from deeplab2_lite.trainer.curve_writer import CurveWriter
from deeplab2_lite.trainer.distribution import build_strategy, check_batch_size
from deeplab2_lite.trainer.evaluator import PanopticEvaluator
from deeplab2_lite.trainer.loop import PanopticTrainer, steps_until
from deeplab2_lite.trainer.optimization import build_optimizer, optimizer_variables, plan_values
from deeplab2_lite.trainer.pacing import RunState, keep_pace
from deeplab2_lite.trainer.preparation import is_classifier, prepare_data, say, with_static_evaluation
from deeplab2_lite.trainer.progress import Progress
from deeplab2_lite.trainer.run_clock import RunClock
from deeplab2_lite.trainer.summaries import ImageSummaries

_POLL_SECONDS = 10.0


class Experiment:
    """A model folder and all that is built for it. Restores the newest checkpoint, if there is one."""

    def __init__(
        self, config: ExperimentConfig, model_dir: Path, training: bool, clock: RunClock | None = None
    ) -> None:
        """Prepares a run; refuses what cannot work before any of it starts.

        Args:
            config: The experiment.
            model_dir: Made if it is not there. Holds `config.yaml`, `dataset_info.yaml`, `checkpoints/`,
                TensorBoard's `train/` and `eval/`, `metrics.json`, `metrics.csv`, `pictures/`, `export/`,
                `learning_curve.csv`, `learning_curve.png`.
            training: Whether an optimizer is needed.
            clock: Of the run; None starts it now.

        Raises:
            UserError: Data, devices, checkpoint and configuration do not go together.
        """
        self.clock = clock or RunClock()
        self.model_dir = model_dir
        self.strategy = build_strategy(config.runtime)
        check_batch_size("train.batch_size", config.train.batch_size, self.strategy)
        check_batch_size("evaluation.batch_size", config.evaluation.batch_size, self.strategy)
        self.config = config = with_static_evaluation(config, self.strategy)
        try:
            model_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--model_dir: {model_dir}: expected a folder ({error.strerror})") from None
        self.data_dir = prepare_data(config, model_dir)
        self.info = resolve_dataset_info(config)
        self.store = CheckpointStore(model_dir / CHECKPOINTS, config.train.max_to_keep)
        with self.strategy.scope():
            self.network = build_model(config, self.info.num_classes)
            if training and config.train.init_checkpoint is not None and self.store.latest_step() is None:
                # Before the optimizer is there: some of them keep copies of the weights.
                self._start_from(config.train.init_checkpoint)
            self.global_step = orbit.utils.create_global_step()
            self.optimizer = None
            self.run_state: RunState | None = None
            self._plan_values: tf.Variable | None = None
            if training:
                steps = config.train.steps
                if config.train.budget_seconds is not None:
                    plan = Plan(steps, config.train.optimizer.warmup_steps)
                    steps = self._plan_values = tf.Variable(plan_values(plan), trainable=False)
                self.optimizer = build_optimizer(config.train.optimizer, steps, self.network.trainable_variables)
        self.restore()
        config = self.config
        if training or not (model_dir / CONFIG_FILE).is_file():
            # An evaluation with other settings does not change what the run is.
            self.info.save(model_dir)
            save_config(config, model_dir / CONFIG_FILE)

    @property
    def step(self) -> int:
        """The training step of the weights."""
        return int(self.global_step.numpy())

    def restore(self, step: int | None = None) -> int | None:
        """Puts a checkpoint into network, optimizer and step.

        Args:
            step: Which; None is the newest.

        Returns:
            Its step; None if there is none.
        """
        if self.store.latest_step() is None:
            return None
        checkpoint = self.store.load(step)
        folder = self.store.directory / str(checkpoint.step)
        assign(named_weights(self.network), checkpoint.weights, f"weights of {folder}")
        if self.optimizer is not None:
            state = named_optimizer_state(optimizer_variables(self.optimizer))
            assign(state, checkpoint.optimizer, f"optimizer of {folder} (train.optimizer.name)")
            self._take_up(checkpoint)
        self.global_step.assign(checkpoint.step)
        return checkpoint.step

    def _take_up(self, checkpoint: Checkpoint) -> None:
        """Goes on with the time and the plan of an interrupted run."""
        state = RunState.from_metadata(checkpoint.metadata)
        self.clock.go_on_from(state.seconds)
        if self._plan_values is None:
            return
        if state.plan is not None:
            self.run_state = state
            self._follow(state.plan)
            say(f"--budget: the run goes on within its time, with the {state.plan.steps} steps planned so far")
            return
        train = checkpoint.metadata["config"]["train"]
        self._follow(Plan(train["steps"], train["optimizer"]["warmup_steps"]))
        self._set_train(budget_seconds=None)
        say(f"--budget: the run goes on with the {train['steps']} steps it was started with; nothing is measured")

    def _follow(self, plan: Plan) -> None:
        """Lets the schedule go by a plan, and the configuration say so."""
        self._plan_values.assign(plan_values(plan))
        optimizer = dataclasses.replace(self.config.train.optimizer, warmup_steps=plan.warmup_steps)
        self._set_train(steps=plan.steps, optimizer=optimizer)

    def _set_train(self, **values: Any) -> None:
        self.config = dataclasses.replace(self.config, train=dataclasses.replace(self.config.train, **values))

    def _start_from(self, path: str) -> None:
        start = read_starting_weights(path)
        report = start_from(self.network, self.config, start, self.config.train.init_fresh_logits)
        say(f"starting from {path}\n{report.table()}")

    def save(self) -> None:
        """Writes a checkpoint of the current step, in the background."""
        state = (self.run_state or RunState())._replace(seconds=self.clock.seconds())
        metadata = {
            "config": config_to_dict(self.config),
            "dataset_info": self.info.to_dict(),
            **state.to_metadata(),
        }
        self.store.save(
            self.step,
            named_weights(self.network),
            named_optimizer_state(optimizer_variables(self.optimizer)),
            metadata,
        )

    def train(self, evaluate: bool) -> None:
        """Trains up to `train.steps`, from the newest checkpoint on.

        Args:
            evaluate: Also evaluate, each `train.eval_interval` and at the end.
        """
        train = self.config.train
        index = open_records(self.data_dir, self.config.data.train_split)
        # Who trains alone need not have an evaluation split; there are no pictures then.
        has_split = any(self.data_dir.glob(f"{self.config.data.eval_split}-*-of-*"))
        evaluator = self._evaluator() if evaluate or has_split else None
        if self.step:
            say(f"going on from the checkpoint of step {self.step}")
        trainer_class = ClassificationTrainer if is_classifier(self.config) else PanopticTrainer
        trainer = trainer_class(
            self.config, self.info, index, self.strategy, self.network, self.optimizer, self.global_step
        )
        pace = keep_pace(self, trainer, evaluator if evaluate else None) if self._plan_values is not None else None
        progress = Progress(self.global_step, self.config.train.steps, train.batch_size)
        # Checkpoints come before pictures, so that what was learnt is safe first; they hold the plan.
        actions = [progress, *([pace, lambda _: progress.ends_at(self.config.train.steps)] if pace else [])]
        curve = CurveWriter(self.model_dir, self.global_step, self.clock, train.checkpoint_interval)
        actions += [curve, self._save_if_due]
        if evaluator is not None and train.image_interval is not None and self.config.model.tasks == "panoptic":
            images = ImageSummaries(
                evaluator, self.info, self.global_step, train.image_interval, self.model_dir / "train"
            )
            actions.append(progress.leaving_out(images))
        intervals = [train.checkpoint_interval, train.eval_interval, train.image_interval]

        def loop_length(step: int) -> int:
            return steps_until(intervals, train.steps_per_loop, self.config.train.steps)(step)

        controller = orbit.Controller(
            strategy=self.strategy,
            trainer=trainer,
            evaluator=evaluator,
            global_step=self.global_step,
            steps_per_loop=loop_length,
            train_actions=actions,
            eval_actions=[lambda _: say(evaluator.table)],
            summary_dir=str(self.model_dir / "train"),
            eval_summary_dir=str(self.model_dir / "eval"),
        )
        try:
            while True:
                # Loop by loop, since each may move the end.
                if self.step < self.config.train.steps:
                    with _quiet():
                        controller.train(self.step + loop_length(self.step))
                is_last = self.step >= self.config.train.steps
                if evaluate and (is_last or (train.eval_interval and self.step % train.eval_interval == 0)):
                    start = time.monotonic()
                    with _quiet():
                        curve.evaluated(controller.evaluate())
                    progress.pause(time.monotonic() - start)
                    if pace is not None:
                        pace.evaluated(time.monotonic() - start)
                if is_last:
                    break
            curve.close()
        except KeyboardInterrupt:
            self.save()
            curve.close()
            raise
        finally:
            progress.close()
            self.store.close()

    def follow(self, state: RunState) -> None:
        """Goes by a new plan from here on, and writes it down.

        Args:
            state: With a plan.
        """
        self.run_state = state
        self._follow(state.plan)
        save_config(self.config, self.model_dir / CONFIG_FILE)

    def evaluate(self) -> None:
        """Evaluates the newest checkpoint."""
        self._require_checkpoint()
        evaluator = self._evaluator()
        with _quiet():
            self._evaluating_controller(evaluator).evaluate()

    def evaluate_continuously(self) -> None:
        """Evaluates each checkpoint as training writes it, until that of `train.steps`."""
        evaluator = self._evaluator()
        controller = self._evaluating_controller(evaluator)
        done, last_step = -1, self.config.train.steps
        while done < last_step:
            latest = self.store.latest_step()
            if latest is None or latest <= done:
                time.sleep(_POLL_SECONDS)
                continue
            done = self.restore(latest)
            saved = load_config(self.model_dir / CONFIG_FILE).train
            if saved.budget_seconds is not None:
                # Training has measured its steps since, or moved its end.
                last_step = saved.steps
            with _quiet():
                controller.evaluate()

    def export(self) -> Path:
        """Exports the newest checkpoint and the merge alone, and returns the folder of the former."""
        self._require_checkpoint()
        folder = self.model_dir / "export"
        export_merge(self.config, self.info, folder / "merge")
        return export_saved_model(self.network, self.config, self.info, folder / "saved_model")

    def _evaluator(self) -> PanopticEvaluator | ClassificationEvaluator:
        index = open_records(self.data_dir, self.config.data.eval_split)
        evaluator_class = ClassificationEvaluator if is_classifier(self.config) else PanopticEvaluator
        return evaluator_class(
            self.config, self.info, index, self.strategy, self.network, self.global_step, self.model_dir
        )

    def _evaluating_controller(self, evaluator: PanopticEvaluator) -> orbit.Controller:
        return orbit.Controller(
            strategy=self.strategy,
            evaluator=evaluator,
            global_step=self.global_step,
            eval_actions=[lambda _: say(evaluator.table)],
            eval_summary_dir=str(self.model_dir / "eval"),
        )

    def _save_if_due(self, _: object) -> None:
        if self.step % self.config.train.checkpoint_interval == 0 or self.step >= self.config.train.steps:
            self.save()

    def _require_checkpoint(self) -> None:
        if self.store.latest_step() is None:
            raise UserError(f"{self.store.directory}: no checkpoint here; train first")


def _quiet() -> contextlib.AbstractContextManager[object]:
    # The Controller prints every loop to standard output; ours goes to standard error, as a bar or lines.
    return contextlib.redirect_stdout(io.StringIO())
