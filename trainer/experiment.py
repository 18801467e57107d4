"""One run: data, network, optimizer, checkpoints, and what the modes do with them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import orbit
import tensorflow as tf

from deeplab2_lite.checkpoints import CheckpointStore, assign, named_optimizer_state, named_weights
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import config_to_dict, resolve_dataset_info, save_config
from deeplab2_lite.data import shapes
from deeplab2_lite.data.record_index import open_records
from deeplab2_lite.dataset_info import FILE_NAME
from deeplab2_lite.errors import UserError
from deeplab2_lite.export import export_merge, export_saved_model
from deeplab2_lite.loading import CHECKPOINTS, CONFIG_FILE
from deeplab2_lite.model import build_model
from deeplab2_lite.pretrained.weight_files import read_starting_weights, start_from
from deeplab2_lite.trainer.classification import ClassificationEvaluator, ClassificationTrainer
from deeplab2_lite.trainer.distribution import build_strategy, check_batch_size, is_tpu
from deeplab2_lite.trainer.evaluator import PanopticEvaluator
from deeplab2_lite.trainer.loop import PanopticTrainer, steps_until
from deeplab2_lite.trainer.optimization import build_optimizer, optimizer_variables
from deeplab2_lite.trainer.progress import Progress
from deeplab2_lite.trainer.summaries import ImageSummaries

_POLL_SECONDS = 10.0


class Experiment:
    """A model folder and all that is built for it. Restores the newest checkpoint, if there is one."""

    def __init__(self, config: ExperimentConfig, model_dir: Path, training: bool) -> None:
        """Prepares a run; refuses what cannot work before any of it starts.

        Args:
            config: The experiment.
            model_dir: Made if it is not there. Holds `config.yaml`, `dataset_info.yaml`, `checkpoints/`,
                TensorBoard's `train/` and `eval/`, `metrics.json`, `metrics.csv`, `pictures/`, `export/`.
            training: Whether an optimizer is needed.

        Raises:
            UserError: Data, devices, checkpoint and configuration do not go together.
        """
        self.model_dir = model_dir
        self.strategy = build_strategy(config.runtime)
        check_batch_size("train.batch_size", config.train.batch_size, self.strategy)
        check_batch_size("evaluation.batch_size", config.evaluation.batch_size, self.strategy)
        self.config = config = _with_static_evaluation(config, self.strategy)
        try:
            model_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--model_dir: {model_dir}: expected a folder ({error.strerror})") from None
        self.data_dir = _prepare_data(config, model_dir)
        self.info = resolve_dataset_info(config)
        self.store = CheckpointStore(model_dir / CHECKPOINTS, config.train.max_to_keep)
        with self.strategy.scope():
            self.network = build_model(config, self.info.num_classes)
            if training and config.train.init_checkpoint is not None and self.store.latest_step() is None:
                # Before the optimizer is there: some of them keep copies of the weights.
                self._start_from(config.train.init_checkpoint)
            self.global_step = orbit.utils.create_global_step()
            self.optimizer = None
            if training:
                self.optimizer = build_optimizer(
                    config.train.optimizer, config.train.steps, self.network.trainable_variables
                )
        self.restore()
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
        self.global_step.assign(checkpoint.step)
        return checkpoint.step

    def _start_from(self, path: str) -> None:
        start = read_starting_weights(path)
        report = start_from(self.network, self.config, start, self.config.train.init_fresh_logits)
        _say(f"starting from {path}\n{report.table()}")

    def save(self) -> None:
        """Writes a checkpoint of the current step, in the background."""
        metadata = {"config": config_to_dict(self.config), "dataset_info": self.info.to_dict()}
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
        train, last_step = self.config.train, self.config.train.steps
        index = open_records(self.data_dir, self.config.data.train_split)
        # Who trains alone need not have an evaluation split; there are no pictures then.
        has_split = any(self.data_dir.glob(f"{self.config.data.eval_split}-*-of-*"))
        evaluator = self._evaluator() if evaluate or has_split else None
        if self.step:
            _say(f"going on from the checkpoint of step {self.step}")
        trainer_class = ClassificationTrainer if _is_classifier(self.config) else PanopticTrainer
        trainer = trainer_class(
            self.config, self.info, index, self.strategy, self.network, self.optimizer, self.global_step
        )
        progress = Progress(self.global_step, last_step, train.batch_size)
        # Checkpoints come before pictures, so that what was learnt is safe first.
        actions = [progress, self._save_if_due]
        if evaluator is not None and train.image_interval is not None and self.config.model.tasks == "panoptic":
            images = ImageSummaries(
                evaluator, self.info, self.global_step, train.image_interval, self.model_dir / "train"
            )
            actions.append(_timed(images, progress))
        controller = orbit.Controller(
            strategy=self.strategy,
            trainer=trainer,
            evaluator=evaluator,
            global_step=self.global_step,
            steps_per_loop=steps_until(
                [train.checkpoint_interval, train.eval_interval, train.image_interval], train.steps_per_loop, last_step
            ),
            train_actions=actions,
            eval_actions=[lambda _: _say(evaluator.table)],
            summary_dir=str(self.model_dir / "train"),
            eval_summary_dir=str(self.model_dir / "eval"),
        )
        try:
            while True:
                until = last_step
                if evaluate and train.eval_interval is not None:
                    until = min(last_step, (self.step // train.eval_interval + 1) * train.eval_interval)
                with _quiet():
                    controller.train(until)
                if evaluate:
                    start = time.monotonic()
                    with _quiet():
                        controller.evaluate()
                    progress.pause(time.monotonic() - start)
                if self.step >= last_step:
                    break
        except KeyboardInterrupt:
            self.save()
            raise
        finally:
            progress.close()
            self.store.close()

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
        done = -1
        while done < self.config.train.steps:
            latest = self.store.latest_step()
            if latest is None or latest <= done:
                time.sleep(_POLL_SECONDS)
                continue
            done = self.restore(latest)
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
        evaluator_class = ClassificationEvaluator if _is_classifier(self.config) else PanopticEvaluator
        return evaluator_class(
            self.config, self.info, index, self.strategy, self.network, self.global_step, self.model_dir
        )

    def _evaluating_controller(self, evaluator: PanopticEvaluator) -> orbit.Controller:
        return orbit.Controller(
            strategy=self.strategy,
            evaluator=evaluator,
            global_step=self.global_step,
            eval_actions=[lambda _: _say(evaluator.table)],
            eval_summary_dir=str(self.model_dir / "eval"),
        )

    def _save_if_due(self, _: object) -> None:
        if self.step % self.config.train.checkpoint_interval == 0 or self.step >= self.config.train.steps:
            self.save()

    def _require_checkpoint(self) -> None:
        if self.store.latest_step() is None:
            raise UserError(f"{self.store.directory}: no checkpoint here; train first")


def _is_classifier(config: ExperimentConfig) -> bool:
    return config.model.tasks == "classification"


def _prepare_data(config: ExperimentConfig, model_dir: Path) -> Path:
    """Returns the folder of records; generates it where the configuration says so."""
    if config.data.dir is not None:
        folder = Path(config.data.dir)
        if not folder.is_dir():
            raise UserError(f"data.dir: no folder {folder}; expected one written by 'deeplab2-lite convert'")
        return folder
    if config.data.shapes is None:
        raise UserError(f"data.dir: not set; expected a folder of TFRecords with its {FILE_NAME}")
    return shapes.build(model_dir / "data", config.data.shapes).parent


def _with_static_evaluation(config: ExperimentConfig, strategy: tf.distribute.Strategy) -> ExperimentConfig:
    # A classifier's crops are static anyway.
    if not is_tpu(strategy) or config.evaluation.fixed_size is not None or _is_classifier(config):
        return config
    size = config.data.crop_size
    _say(f"TPU: evaluation pads every image to data.crop_size {size[0]}x{size[1]} (evaluation.fixed_size)")
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, fixed_size=size))


def _timed(action: ImageSummaries, progress: Progress) -> Callable[[Mapping[str, float]], None]:
    def run(outputs: Mapping[str, float]) -> None:
        start = time.monotonic()
        action(outputs)
        progress.pause(time.monotonic() - start)

    return run


def _quiet() -> contextlib.AbstractContextManager[object]:
    # The Controller prints every loop to standard output; ours goes to standard error, as a bar or lines.
    return contextlib.redirect_stdout(io.StringIO())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
