"""A Keras callback that evaluates by the official rules at the end of epochs."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import resolve_dataset_info
from deeplab2_lite.data.record_index import open_records
from deeplab2_lite.trainer.evaluator import PanopticEvaluator


class EvaluationCallback(keras.callbacks.Callback):
    """Adds the evaluator's figures to the logs, such as `val_panoptic_quality/All/PQ`.

    It has to stand before the callbacks that monitor them.
    """

    def __init__(self, config: ExperimentConfig, output_dir: str | Path, every: int = 1) -> None:
        """Says what to evaluate.

        Args:
            config: The experiment; its evaluation split in `data.dir`.
            output_dir: Where `metrics.json`, `metrics.csv` and `pictures/` of the last evaluation go.
            every: Epochs from one evaluation to the next.
        """
        super().__init__()
        self._config = config
        self._output_dir = Path(output_dir)
        self._every = every
        self._evaluator: PanopticEvaluator | None = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Opens the records.

        Raises:
            UserError: There are none.
        """
        self._evaluator = PanopticEvaluator(
            self._config,
            resolve_dataset_info(self._config),
            open_records(self._config.data.dir, self._config.data.eval_split),
            self.model.distribute_strategy,
            self.model,
            self.model.optimizer.iterations,
            self._output_dir,
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Evaluates.

        Raises:
            UserError: A record cannot be read.
        """
        if (epoch + 1) % self._every == 0:
            figures = self._evaluator.evaluate(tf.constant(-1))
            logs.update({f"val_{tag}": value for tag, value in figures.items()})
