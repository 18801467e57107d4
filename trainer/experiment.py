"""One run: data, network, training state, checkpoints, and what is made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tensorflow as tf

from deeplab2_lite.checkpoints import Checkpoint, CheckpointStore, named_weights
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import config_to_dict, resolve_dataset_info, save_config
from deeplab2_lite.data.record_index import open_records
from deeplab2_lite.errors import UserError
from deeplab2_lite.export import export_merge, export_saved_model
from deeplab2_lite.loading import CHECKPOINTS, CONFIG_FILE, load_model_dir
from deeplab2_lite.model import build_model
from deeplab2_lite.pretrained.weight_files import read_starting_weights, start_from
from deeplab2_lite.trainer.best_steps import best_step, check_best_metric
from deeplab2_lite.trainer.budget import Plan
from deeplab2_lite.trainer.classification import ClassificationEvaluator
from deeplab2_lite.trainer.distribution import (
    build_strategy,
    check_batch_size,
    has_other_processes,
    is_chief,
    wait_for_all,
)
from deeplab2_lite.trainer.evaluator import PanopticEvaluator
from deeplab2_lite.trainer.learning_curve import CURVE_FILE, read_curve
from deeplab2_lite.trainer.optimization import plan_values
from deeplab2_lite.trainer.pacing import RunState
from deeplab2_lite.trainer.preparation import is_classifier, make_folder, prepare_data, say, with_static_evaluation
from deeplab2_lite.trainer.run_clock import RunClock
from deeplab2_lite.trainer.training_state import TrainingState

Evaluator = PanopticEvaluator | ClassificationEvaluator


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
        self.config = config
        self.strategy = build_strategy(config.runtime)
        self.is_chief = is_chief(self.strategy)
        train = config.train
        check_batch_size("train.batch_size", train.batch_size, self.strategy, train.accumulation_steps)
        check_batch_size("evaluation.batch_size", config.evaluation.batch_size, self.strategy)
        self._check_evaluation()
        check_best_metric(train.best_metric, is_classifier(config))
        self.config = config = with_static_evaluation(config, self.strategy)
        make_folder(model_dir)
        if not self.is_chief:
            # Where the chief generates records, the others find them.
            wait_for_all(self.strategy)
        self.data_dir = prepare_data(config, model_dir)
        if self.is_chief:
            wait_for_all(self.strategy)
        self.info = resolve_dataset_info(config)
        self.store = CheckpointStore(model_dir / CHECKPOINTS, train.max_to_keep, writes=training and self.is_chief)
        self.run_state = RunState()
        self._plan_values: tf.Variable | None = None
        with self.strategy.scope():
            self.network = build_model(config, self.info.num_classes)
            if training and train.init_checkpoint is not None and self.store.latest_step() is None:
                # Before optimizer and averages are there, which keep copies of the weights.
                self._start_from(train.init_checkpoint)
            steps: int | tf.Variable | None = train.steps if training else None
            if training and train.budget_seconds is not None:
                plan = Plan(train.steps, train.optimizer.warmup_steps)
                steps = self._plan_values = tf.Variable(plan_values(plan), trainable=False)
            self.state = TrainingState(self.network, train, steps)
        self.restore()
        if not (model_dir / CONFIG_FILE).is_file():
            # An evaluation with other settings does not change what the run is; training does when it begins.
            self.describe()

    def _check_evaluation(self) -> None:
        evaluation, replicas = self.config.evaluation, self.strategy.num_replicas_in_sync
        is_of_any_size = evaluation.fixed_size is None and not is_classifier(self.config)
        if self.has_other_processes and is_of_any_size and evaluation.batch_size > replicas:
            raise UserError(
                f"evaluation.batch_size: images of different sizes cannot be shared evenly between processes; expected "
                f"one for each of the {replicas} replicas, or evaluation.fixed_size"
            )

    @property
    def has_other_processes(self) -> bool:
        """Whether it is trained by several."""
        return has_other_processes(self.strategy)

    @property
    def step(self) -> int:
        """The training step of the weights."""
        return self.state.step

    def describe(self) -> None:
        """Writes down what the run is."""
        if self.is_chief:
            self.info.save(self.model_dir)
            save_config(self.config, self.model_dir / CONFIG_FILE)

    def restore(self, step: int | None = None) -> int | None:
        """Takes up a checkpoint.

        Args:
            step: Which; None is the newest.

        Returns:
            Its step; None if there is none.
        """
        if self.store.latest_step() is None:
            return None
        checkpoint = self.store.load(step)
        self.state.restore(checkpoint, str(self.store.directory / str(checkpoint.step)))
        if self.state.optimizer is not None:
            self._take_up(checkpoint)
        return checkpoint.step

    def step_of(self, name: str) -> int:
        """Returns the step of a checkpoint by its name.

        Args:
            name: "best", or the step.

        Raises:
            UserError: There is none of this name.
        """
        if name.isdecimal():
            return int(name)
        metric, curve = self.config.train.best_metric, self.model_dir / CURVE_FILE
        if name != "best":
            raise UserError(f"--checkpoint: expected newest, best or a step, got {name!r}")
        if metric is None:
            raise UserError("--checkpoint: 'best' has no meaning without train.best_metric")
        best = best_step(read_curve(curve), metric) if curve.is_file() else None
        if best is None:
            raise UserError(f"--checkpoint: no step was evaluated for {metric} in {curve}")
        return best

    def _take_up(self, checkpoint: Checkpoint) -> None:
        """Goes on with the time and the plan of an interrupted run."""
        self.run_state = state = RunState.from_metadata(checkpoint.metadata)
        self.clock.go_on_from(state.seconds)
        if self._plan_values is None:
            return
        if state.plan is not None:
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
        """Writes a checkpoint of the current step, in the background; all processes of a job have to call it."""
        state = self.run_state._replace(seconds=self.clock.seconds())
        metadata = {
            "config": config_to_dict(self.config),
            "dataset_info": self.info.to_dict(),
            **state.to_metadata(),
        }
        weights = named_weights(self.network)
        self.store.save(self.step, weights, self.state.optimizer_state(), metadata, self.state.averaged())

    def follow(self, state: RunState) -> None:
        """Goes by a new plan from here on, and writes it down.

        Args:
            state: With a plan.
        """
        self.run_state = state._replace(skipped_steps=self.run_state.skipped_steps)
        self._follow(state.plan)
        self.describe()

    def export(self) -> Path:
        """Exports the network and the merge alone, and returns the folder of the former."""
        self.require_checkpoint()
        folder = self.model_dir / "export"
        export_merge(self.config, self.info, folder / "merge")
        if self.has_other_processes:
            # They have ended, and variables that all of them read together cannot be read any more.
            network = load_model_dir(self.model_dir).network
            return export_saved_model(network, self.config, self.info, folder / "saved_model")
        with self.looking():
            return export_saved_model(self.network, self.config, self.info, folder / "saved_model")

    def looking(self) -> Any:
        """Returns a block in which the network has the weights that are evaluated and exported."""
        return self.state.looking(self.config.inference.averaged_weights)

    def evaluator(self) -> Evaluator:
        """Returns what evaluates the evaluation split."""
        index = open_records(self.data_dir, self.config.data.eval_split)
        evaluator_class = ClassificationEvaluator if is_classifier(self.config) else PanopticEvaluator
        return evaluator_class(
            self.config, self.info, index, self.strategy, self.network, self.state.global_step, self.model_dir
        )

    def require_checkpoint(self) -> None:
        """Refuses a folder without.

        Raises:
            UserError: There is none.
        """
        if self.store.latest_step() is None:
            raise UserError(f"{self.store.directory}: no checkpoint here; train first")
