"""The input of `fit` and `evaluate` of a compiled `PanopticDeepLab`: that of the training loop, as Keras takes it."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import resolve_dataset_info
from deeplab2_lite.data.pipeline import EvaluationBatch, TrainingBatch, evaluation_dataset, training_dataset
from deeplab2_lite.data.record_index import RecordIndex, open_records
from deeplab2_lite.data.targets import make_targets
from deeplab2_lite.errors import UserError
from deeplab2_lite.panoptic_losses import Targets


def fitting_dataset(config: ExperimentConfig, start_step: int = 0) -> tf.data.Dataset:
    """Makes the endless input of `fit`: the batches of the training loop, to the bit.

    Args:
        config: The experiment; as for `training_dataset`, and `data.dir`. Targets are made by the input, also where
            `targets.on_device` asks for the device.
        start_step: Steps already taken.

    Returns:
        Pairs of images, float32 [batch, crop_height, crop_width, 3], and `Targets`, of the global batch.

    Raises:
        UserError: There are no records.
    """
    index = _records(config, config.data.train_split)
    config = dataclasses.replace(config, targets=dataclasses.replace(config.targets, on_device=False))
    batches = training_dataset(config, resolve_dataset_info(config), index, start_step)
    # Else Keras would wait for the end of the first epoch.
    endless = batches.map(_pair).apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return endless.prefetch(tf.data.AUTOTUNE)


def fitting_steps(config: ExperimentConfig) -> int:
    """Returns how many batches show every training image once, or nearly: what `fit` calls `steps_per_epoch`.

    Args:
        config: The experiment.

    Raises:
        UserError: There are no records.
    """
    return max(1, len(_records(config, config.data.train_split)) // config.train.batch_size)


def fitting_validation_dataset(config: ExperimentConfig) -> tf.data.Dataset:
    """Makes the input of `evaluate`: every image of the evaluation split once, whole, alone in its batch.

    Args:
        config: The experiment; as for `evaluation_dataset`, and `data.dir`.

    Returns:
        Pairs of images, float32 [1, height, width, 3], and `Targets`.

    Raises:
        UserError: There are no records.
    """
    evaluation = dataclasses.replace(config.evaluation, batch_size=1, fixed_size=None)
    index = _records(config, config.data.eval_split)
    info = resolve_dataset_info(config)

    def pair(batch: EvaluationBatch) -> tuple[tf.Tensor, Targets]:
        targets = make_targets(batch.panoptic[0], info, config.targets)
        return tf.cast(batch.image, tf.float32), Targets(*(target[tf.newaxis] for target in targets))

    batches = evaluation_dataset(dataclasses.replace(config, evaluation=evaluation), info, index)
    counted = batches.map(pair, tf.data.AUTOTUNE).apply(tf.data.experimental.assert_cardinality(len(index)))
    return counted.prefetch(tf.data.AUTOTUNE)


def _pair(batch: TrainingBatch) -> tuple[tf.Tensor, Targets]:
    return batch.image, batch.targets


def _records(config: ExperimentConfig, split: str) -> RecordIndex:
    if config.data.dir is None:
        raise UserError("data.dir: not set; expected a folder of TFRecords")
    return open_records(config.data.dir, split)
