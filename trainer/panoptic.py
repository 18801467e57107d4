"""Training of segmentation: its input, targets and losses."""

from __future__ import annotations

import tensorflow as tf

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.data.device_targets import make_targets_on_device
from deeplab2_lite.data.pipeline import LabelledBatch, TrainingBatch, training_dataset
from deeplab2_lite.data.record_index import RecordIndex
from deeplab2_lite.data.targets import Targets
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.losses import bootstrapped_cross_entropy, center_heatmap_loss, center_offset_loss
from deeplab2_lite.postprocessing.upsampling import Heads, upsample_heads
from deeplab2_lite.trainer.loop import Trainer
from deeplab2_lite.trainer.replica_step import WeightedTerm

# Tags of DeepLab2's TensorBoard summaries.
SEMANTIC, CENTER, OFFSET = "semantic_loss", "center_loss", "regression_loss"


class PanopticTrainer(Trainer):
    """Trains segmentation, of whatever heads the network has."""

    @staticmethod
    def loss_names(config: ExperimentConfig) -> tuple[str, ...]:
        """Returns those of the tasks."""
        semantic = (SEMANTIC,) if config.model.tasks != "instance" else ()
        return (*semantic, *((CENTER, OFFSET) if config.model.tasks != "semantic" else ()))

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
        return loss_terms(upsample_heads(outputs, *batch.image.shape[1:3]), batch.targets, config)

    @staticmethod
    def batch_denominators(batch: TrainingBatch) -> dict[str, tf.Tensor]:
        """Returns those of `batch_losses`."""
        return loss_denominators(batch.targets)


def loss_terms(heads: Heads, targets: Targets, config: ExperimentConfig) -> dict[str, WeightedTerm]:
    """Computes the losses of the heads that the network has.

    Args:
        heads: At the resolution of the targets.
        targets: Batched.
        config: `losses` is used.

    Returns:
        Loss terms by their TensorBoard names.
    """
    losses = config.losses
    terms = {}
    if heads.semantic_logits is not None:
        cross_entropy = bootstrapped_cross_entropy(
            heads.semantic_logits, targets.semantic, targets.semantic_weight, losses.hardest_fraction
        )
        terms[SEMANTIC] = WeightedTerm(cross_entropy, losses.semantic_weight)
    if heads.center_heatmap is not None and heads.center_offset is not None:
        heatmap = center_heatmap_loss(
            heads.center_heatmap[..., 0], targets.center_heatmap, targets.center_weight, losses.center
        )
        offset = center_offset_loss(heads.center_offset, targets.center_offset, targets.offset_weight)
        terms[CENTER] = WeightedTerm(heatmap, losses.center_weight)
        terms[OFFSET] = WeightedTerm(offset, losses.offset_weight)
    return terms


def loss_denominators(targets: Targets) -> dict[str, tf.Tensor]:
    """Computes what the losses are divided by, summed over the global batch.

    Args:
        targets: Batched.

    Returns:
        The denominators of `loss_terms` by name, float32 scalars, whatever heads there are.
    """
    return {
        SEMANTIC: tf.cast(tf.shape(targets.semantic)[0], tf.float32),
        CENTER: tf.reduce_sum(targets.center_weight),
        OFFSET: tf.reduce_sum(targets.offset_weight),
    }
