"""Evaluation of the network in training, on the strategy's devices."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbit
import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.data.pipeline import EvaluationBatch, evaluation_dataset
from deeplab2_lite.data.record_index import RecordIndex, reading_error, record_filenames
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction, write_report
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts
from deeplab2_lite.evaluation.metrics.on_device import confusion_on_device
from deeplab2_lite.evaluation.report import EvaluationReport, scalars
from deeplab2_lite.inference import Inference, InferenceSettings, infer, infer_semantic
from deeplab2_lite.trainer.distribution import gather, has_other_processes, is_chief

_MAPS = ("semantic", "panoptic", "instance")


class DeviceBatch(NamedTuple):
    """An `EvaluationBatch` without strings, which some devices do not take."""

    image: tf.Tensor
    panoptic: tf.Tensor
    record: tf.Tensor
    valid: tf.Tensor
    size: tf.Tensor


class Snapshot(NamedTuple):
    """An image with its label and all that the network says of it; NumPy arrays without batch dimension."""

    image: np.ndarray
    truth: np.ndarray
    inference: Inference


class PanopticEvaluator(orbit.AbstractEvaluator):
    """Evaluates every image of the evaluation split by the official rules."""

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
            info: Its label space.
            index: The records of the split.
            strategy: The network was made in its scope.
            network: As `build_model` gives it.
            global_step: Step of the weights.
            output_dir: Where `metrics.json`, `metrics.csv` and `pictures/` go.
        """
        self._config = config
        self._info = info
        self._index = index
        self._strategy = strategy
        self._network = network
        self._global_step = global_step
        self._output_dir = output_dir
        self._settings = InferenceSettings.from_config(config, info)
        self._dataset = strategy.distribute_datasets_from_function(
            lambda context: evaluation_dataset(config, info, index, context).map(_without_strings)
        )
        self._has_instances = config.model.tasks == "panoptic"
        # The semantic map is wanted here if somebody looks at it, or if a figure needs more than the confusion.
        is_drawn = config.evaluation.pictures != 0 and not self._has_instances
        self._confusion_on_device = not (is_drawn or Evaluation(info).needs_semantic_maps)
        self._step = tf.function(self._evaluation_step)
        self._snapshot_step = tf.function(self._inference_step)
        self.report: EvaluationReport | None = None
        self.table = ""
        self._records: list[int] = []
        self.between_batches: Callable[[], None] = _go_on

    def evaluate(self, num_steps: tf.Tensor) -> dict[str, float]:
        """Evaluates the whole split (`num_steps` -1) or so many batches.

        Returns:
            Figures by TensorBoard tag.

        Raises:
            UserError: A record cannot be read.
        """
        evaluation = Evaluation(self._info, self._output_dir / "pictures", self._config.evaluation.pictures)
        self._records.clear()
        with tqdm(total=len(self._index), desc="eval", unit="image", disable=None, leave=False) as bar:
            for count in self._update(evaluation, int(num_steps)):
                bar.update(count)
                self.between_batches()
        self.report = self._of_all_processes(evaluation).report(int(self._global_step.numpy()))
        if is_chief(self._strategy):
            self.table = write_report(self.report, self._output_dir)
        return scalars(self.report)

    @property
    def num_images(self) -> int:
        """Images of the split."""
        return len(self._index)

    def rehearse(self) -> Iterator[int]:
        """Evaluates without a report, to see how long it takes; yields how many images each batch had."""
        return self._update(Evaluation(self._info), -1)

    def snapshots(self, count: int) -> list[Snapshot]:
        """Returns the first images of the split with the network's outputs, for pictures.

        Args:
            count: How many.

        Returns:
            At most so many.
        """
        found: list[Snapshot] = []
        for batch, outputs in self._batches(self._snapshot_step, -1):
            inference = outputs["inference"]
            for i, valid in enumerate(batch.valid):
                if valid and len(found) < count:
                    height, width = batch.size[i]
                    one = tf.nest.map_structure(lambda array, i=i: array[i], inference)
                    found.append(Snapshot(batch.image[i, :height, :width], batch.panoptic[i, :height, :width], one))
            if len(found) >= count:
                break
        return found

    def _update(self, evaluation: Evaluation, num_steps: int) -> Iterator[int]:
        for batch, outputs in self._batches(self._step, num_steps):
            before = evaluation.num_images
            for image, prediction in _images(batch, outputs):
                name = record_filenames(self._index, [image.record])[0] if evaluation.wants_picture() else ""
                prediction = ImagePrediction(prediction.pop("semantic", None), **prediction)
                evaluation.update(image.image, image.panoptic, prediction, name)
                self._records.append(image.record)
            yield evaluation.num_images - before

    def _of_all_processes(self, evaluation: Evaluation) -> Evaluation:
        """Returns the evaluation of all images, of which each process has its share, in the order of the records."""
        if not has_other_processes(self._strategy):
            return evaluation
        counts = [counts.to_json() for counts in evaluation.images]
        content = json.dumps(list(zip(self._records, counts, strict=True)))
        parts = gather(self._strategy, zlib.compress(content.encode()))
        merged = Evaluation(self._info)
        images = (pair for part in parts for pair in json.loads(zlib.decompress(part)))
        for _, counted in sorted(images, key=lambda pair: pair[0]):
            merged.add(ImageCounts.from_json(counted, self._info.num_classes))
        return merged

    def _batches(self, step: Any, limit: int) -> Iterator[tuple[DeviceBatch, dict[str, Any]]]:
        """Runs a step on each batch; yields each replica's batch and outputs as NumPy arrays."""
        iterator = iter(self._dataset)
        count = 0
        while limit < 0 or count < limit:
            try:
                batch, outputs = step(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):
                return
            except tf.errors.OpError as error:
                raise (reading_error(error, self._index) or error) from None
            count += 1
            local = self._strategy.experimental_local_results
            parts = [local(tensor) for tensor in tf.nest.flatten((batch, outputs))]
            for replica in zip(*parts, strict=True):
                arrays = [tensor.numpy() for tensor in replica]
                yield tf.nest.pack_sequence_as((batch, outputs), arrays)

    def _evaluation_step(self, iterator: Any) -> tuple[DeviceBatch, dict[str, tf.Tensor]]:
        batch = next(iterator)
        outputs = self._strategy.run(self._predict, args=(batch,))
        if self._confusion_on_device and not self._has_instances:
            # Nothing of the size of an image is read here.
            batch = batch._replace(image=(), panoptic=())
        return batch, outputs

    def _inference_step(self, iterator: Any) -> tuple[DeviceBatch, dict[str, Inference]]:
        batch = next(iterator)
        return batch, {"inference": self._strategy.run(self._infer, args=(batch,))}

    def _predict(self, batch: DeviceBatch) -> dict[str, tf.Tensor]:
        if not self._has_instances:
            semantic = infer_semantic(self._network, batch.image, self._settings, self._sizes(batch))
            return self._semantic_output(batch, semantic)
        inference = self._infer(batch)
        result = inference.result
        return {
            **self._semantic_output(batch, result.semantic),
            "panoptic": result.panoptic,
            "instance": result.instance,
            "class_id": result.instances.class_id,
            "score": inference.instance_scores,
        }

    def _semantic_output(self, batch: DeviceBatch, semantic: tf.Tensor) -> dict[str, tf.Tensor]:
        if not self._confusion_on_device:
            return {"semantic": semantic}
        is_tpu = isinstance(self._strategy, tf.distribute.TPUStrategy)
        return {"confusion": confusion_on_device(batch.panoptic, semantic, self._info, by_products=is_tpu)}

    def _infer(self, batch: DeviceBatch) -> Inference:
        return infer(self._network, batch.image, self._settings, self._sizes(batch))

    def _sizes(self, batch: DeviceBatch) -> tf.Tensor | None:
        return batch.size if self._config.evaluation.fixed_size is not None else None


def _go_on() -> None:
    """Does nothing between two batches."""


def _without_strings(batch: EvaluationBatch) -> DeviceBatch:
    return DeviceBatch(batch.image, batch.panoptic, batch.record, batch.valid, batch.size)


def _images(batch: DeviceBatch, outputs: dict[str, np.ndarray]) -> Iterator[tuple[DeviceBatch, dict[str, np.ndarray]]]:
    """Takes a batch apart, drops its filling, and cuts off padding."""
    for i in np.flatnonzero(batch.valid):
        height, width = batch.size[i]
        image, panoptic = (
            None if isinstance(maps, tuple) else maps[i, :height, :width] for maps in (batch.image, batch.panoptic)
        )
        # Maps are as large as the image; tables of instances and matrices of classes are not.
        yield (
            DeviceBatch(image, panoptic, int(batch.record[i]), True, batch.size[i]),
            {k: v[i, :height, :width] if k in _MAPS else v[i] for k, v in outputs.items()},
        )
