"""Training and evaluation of a classifier of whole images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orbit
import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from deeplab2_lite.classifier import CLASS_LOGITS
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.data.classification import (
    ClassificationBatch,
    classification_evaluation_dataset,
    classification_training_dataset,
)
from deeplab2_lite.data.record_index import RecordIndex, reading_error
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.files import write_text_atomically
from deeplab2_lite.losses import WeightedTerm, classification_cross_entropy
from deeplab2_lite.trainer.distribution import is_chief
from deeplab2_lite.trainer.loop import Trainer

CLASSIFICATION = "classification_loss"
_TOP = 5


class Counts(NamedTuple):
    """Sums over images, float32 scalars: their number, of which right at rank 1, at rank 5, and the loss."""

    images: tf.Tensor
    top_1: tf.Tensor
    top_5: tf.Tensor
    loss: tf.Tensor


class ClassificationTrainer(Trainer):
    """Trains a classifier."""

    @staticmethod
    def loss_names(config: ExperimentConfig) -> tuple[str, ...]:
        """Returns the one name."""
        return (CLASSIFICATION,)

    @staticmethod
    def input_dataset(
        config: ExperimentConfig,
        info: DatasetInfo,
        index: RecordIndex,
        start_step: int,
        context: tf.distribute.InputContext,
    ) -> tf.data.Dataset:
        """Returns each a `ClassificationBatch`."""
        return classification_training_dataset(config, info, index, start_step, context)

    @staticmethod
    def batch_losses(
        outputs: dict[str, tf.Tensor], batch: ClassificationBatch, config: ExperimentConfig
    ) -> dict[str, WeightedTerm]:
        """Returns the cross entropy."""
        smoothing = config.classification.label_smoothing
        return {
            CLASSIFICATION: WeightedTerm(
                classification_cross_entropy(outputs[CLASS_LOGITS], batch.label, smoothing), 1.0
            )
        }

    @staticmethod
    def batch_denominators(batch: ClassificationBatch) -> dict[str, tf.Tensor]:
        """Returns the number of images."""
        return {CLASSIFICATION: tf.cast(tf.shape(batch.label)[0], tf.float32)}


class ClassificationEvaluator(orbit.AbstractEvaluator):
    """Top-1 and top-5 accuracy of the central crops of the evaluation split."""

    def __init__(
        self,
        config: ExperimentConfig,
        info: DatasetInfo,
        index: RecordIndex,
        strategy: tf.distribute.Strategy,
        network: keras.Model,
        global_step: tf.Variable,
        output_dir: Path,
    ) -> None:
        """Sets up the input.

        Args:
            config: The experiment.
            info: Its classes.
            index: The records of the split.
            strategy: The network was made in its scope.
            network: As `build_model` gives it.
            global_step: Step of the weights.
            output_dir: Where `metrics.json` goes.
        """
        self._index = index
        self._strategy = strategy
        self._network = network
        self._global_step = global_step
        self._output_dir = output_dir
        self._batch_size = config.evaluation.batch_size
        self._has_top_5 = info.num_classes > _TOP
        self._dataset = strategy.distribute_datasets_from_function(
            lambda context: classification_evaluation_dataset(config, info, index, context)
        )
        self._step = tf.function(self._evaluation_step, autograph=False)
        self.table = ""
        self.between_batches: Callable[[], None] = _go_on

    def evaluate(self, num_steps: tf.Tensor) -> dict[str, float]:
        """Evaluates the whole split (`num_steps` -1) or so many batches.

        Returns:
            Figures by TensorBoard tag: accuracies as fractions (top-5 of more than five classes), and the mean
            cross entropy without label smoothing.

        Raises:
            UserError: A record cannot be read.
        """
        steps = self._num_batches()
        if num_steps >= 0:
            steps = min(steps, int(num_steps))
        iterator = iter(self._dataset)
        totals = [0.0] * len(Counts._fields)
        try:
            for _ in tqdm(range(steps), desc="eval", unit="batch", disable=None, leave=False):
                totals = [total + float(count) for total, count in zip(totals, self._step(iterator), strict=True)]
                self.between_batches()
        except tf.errors.OpError as error:
            raise (reading_error(error, self._index) or error) from None
        return self._report(Counts(*totals))

    @property
    def num_images(self) -> int:
        """Images of the split."""
        return len(self._index)

    def rehearse(self) -> Iterator[int]:
        """Evaluates without a report, to see how long it takes; yields how many images each batch had."""
        iterator = iter(self._dataset)
        for _ in range(self._num_batches()):
            # Reading a figure waits until the device is done.
            float(self._step(iterator).loss)
            yield self._batch_size

    def _num_batches(self) -> int:
        return -(-len(self._index) // self._batch_size)

    def _evaluation_step(self, iterator: Any) -> Counts:
        counts = self._strategy.run(self._count, args=(next(iterator),))
        return Counts(*(self._strategy.reduce(tf.distribute.ReduceOp.SUM, count, axis=None) for count in counts))

    def _count(self, batch: ClassificationBatch) -> Counts:
        logits = self._network(batch.image, training=False)[CLASS_LOGITS]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=batch.label, logits=logits)
        ranks = rank_of_label(logits, batch.label)
        per_image = (tf.ones_like(losses), tf.cast(ranks < 1, tf.float32), tf.cast(ranks < _TOP, tf.float32), losses)
        return Counts(*(tf.reduce_sum(tf.where(batch.valid, values, 0.0)) for values in per_image))

    def _report(self, counts: Counts) -> dict[str, float]:
        figures = {"accuracy/top_1": counts.top_1 / counts.images}
        if self._has_top_5:
            figures["accuracy/top_5"] = counts.top_5 / counts.images
        figures["losses/eval_classification_loss"] = counts.loss / counts.images
        step, images = int(self._global_step.numpy()), int(counts.images)
        # What JSON has no number for.
        finite = {tag: value if math.isfinite(value) else None for tag, value in figures.items()}
        content = json.dumps({"step": step, "num_images": images, **finite}, indent=2)
        if is_chief(self._strategy):
            write_text_atomically(self._output_dir / "metrics.json", content + "\n")
        shown = "  ".join(f"{tag.split('/')[1]} {value:.4f}" for tag, value in figures.items())
        self.table = f"step {step}, {images} images:  {shown}"
        return figures


def _go_on() -> None:
    """Does nothing between two batches."""


def rank_of_label(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns how many classes come before the true one; of equal logits the smaller id comes first.

    Args:
        logits: [batch, classes] float32. What is not a number comes before all else.
        labels: [batch] int32.

    Returns:
        int32 [batch], 0 where the true class is the best.
    """
    true_logits = tf.gather(logits, labels, batch_dims=1)[:, None]
    not_before = tf.range(tf.shape(logits)[1])[None, :] >= labels[:, None]
    behind = (logits < true_logits) | (tf.equal(logits, true_logits) & not_before)
    return tf.math.count_nonzero(~behind, axis=1, dtype=tf.int32)
