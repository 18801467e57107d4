"""Which record comes when: the order of training images, and each worker's share of a batch.

Both are functions of the position in the run alone, so that a step number says all about the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from deeplab2_lite.errors import UserError


@dataclass(frozen=True)
class BatchShare:
    """The part of each global batch that one input pipeline feeds to its replicas.

    Position `step * global_batch + i` is image i of a step's global batch. Pipeline k takes a run of
    `local_batch` of them, and cuts it into one batch for each of its replicas.

    Attributes:
        global_batch: Images of a step, over all replicas.
        replica_batch: Images of a step on one replica.
        local_replicas: Replicas that this pipeline feeds.
        pipeline: Which pipeline this is, from 0.
    """

    global_batch: int
    replica_batch: int
    local_replicas: int = 1
    pipeline: int = 0

    @property
    def local_batch(self) -> int:
        """Images of a step that this pipeline reads."""
        return self.replica_batch * self.local_replicas

    def position(self, count: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
        """Returns the position of the image that this pipeline reads after `count` others, counted from step 0."""
        step, i = count // self.local_batch, count % self.local_batch
        return step * self.global_batch + self.pipeline * self.local_batch + i


def share_of_batch(key: str, batch_size: int, context: tf.distribute.InputContext | None) -> BatchShare:
    """Divides a global batch over input pipelines and replicas.

    Args:
        key: The config key of the batch size, for the message.
        batch_size: Images of a step, over all replicas.
        context: Which pipeline of how many, from `distribute_datasets_from_function`; None is the only one,
            with one replica.

    Returns:
        This pipeline's share.

    Raises:
        UserError: The batch cannot be divided evenly over the replicas.
    """
    if context is None:
        return BatchShare(batch_size, batch_size)
    replicas, pipelines = context.num_replicas_in_sync, context.num_input_pipelines
    if batch_size % replicas:
        raise UserError(f"{key}: expected a multiple of the {replicas} replicas, got {batch_size}")
    return BatchShare(batch_size, batch_size // replicas, replicas // pipelines, context.input_pipeline_id)


def record_at(position: tf.Tensor, num_records: int, seed: int) -> tf.Tensor:
    """Returns the record at a position of the training run.

    Each epoch, `num_records` positions long, visits every record once, in an order of its own.

    Args:
        position: Images before it in the run, int64 scalar.
        num_records: Records of the split.
        seed: Seed of the run.

    Returns:
        Index of the record, int64 scalar.
    """
    epoch, place = position // num_records, position % num_records
    return tf.random.experimental.index_shuffle(
        place, seed=tf.stack([tf.constant(seed, tf.int64), epoch]), max_index=tf.constant(num_records - 1, tf.int64)
    )
