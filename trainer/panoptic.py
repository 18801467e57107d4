"""Training of segmentation: its input, targets and losses."""

from __future__ import annotations

import tensorflow as tf

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.data.device_targets import make_targets_on_device
from deeplab2_lite.data.pipeline import LabelledBatch, TrainingBatch, training_dataset
from deeplab2_lite.data.record_index import RecordIndex
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.losses import WeightedTerm
from deeplab2_lite.panoptic_losses import Targets, loss_denominators, loss_names, loss_terms
from deeplab2_lite.postprocessing.upsampling import upsample_heads
from deeplab2_lite.trainer.loop import Trainer


class PanopticTrainer(Trainer):
    """Trains segmentation, of whatever heads the network has."""

    @staticmethod
    def loss_names(config: ExperimentConfig) -> tuple[str, ...]:
        """Returns those of the tasks."""
        return loss_names(config.model.tasks != "instance", config.model.tasks != "semantic")

    @staticmethod
    def input_dataset(
        config: ExperimentConfig,
        info: DatasetInfo,
        index: RecordIndex,
        start_step: int,
        context: tf.distribute.InputContext,
    ) -> tf.data.Dataset:
        """Returns each a `TrainingBatch`, or with `targets.on_device` a `LabelledBatch`."""
        return training_dataset(config, info, index, start_step, context)

    def prepare_batch(self, batch: TrainingBatch | LabelledBatch) -> TrainingBatch:
        """Makes the targets where the input pipeline left them to be made."""
        if isinstance(batch, TrainingBatch):
            return batch

        def make(panoptic: tf.Tensor) -> Targets:
            return make_targets_on_device(panoptic, self._info, self._config.targets)

        if not isinstance(self._strategy, tf.distribute.TPUStrategy):
            # A TPU compiles the whole step.
            make = tf.function(make, autograph=False, jit_compile=True)
        return TrainingBatch(batch.image, make(batch.panoptic), batch.record)

    @staticmethod
    def batch_losses(
        outputs: dict[str, tf.Tensor], batch: TrainingBatch, config: ExperimentConfig
    ) -> dict[str, WeightedTerm]:
        """Returns the losses at the resolution of the crops."""
        return loss_terms(upsample_heads(outputs, *batch.image.shape[1:3]), batch.targets, config.losses)

    @staticmethod
    def batch_denominators(batch: TrainingBatch) -> dict[str, tf.Tensor]:
        """Returns those of `batch_losses`."""
        return loss_denominators(batch.targets)
