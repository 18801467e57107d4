"""From records to batches: the input pipelines of training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.config import ExperimentConfig, Size
from deeplab2_lite.data.augment import augment
from deeplab2_lite.data.data_service import batches_from_services
from deeplab2_lite.data.ordering import BatchShare, record_at, share_of_batch
from deeplab2_lite.data.record_format import HEIGHT_KEY, WIDTH_KEY
from deeplab2_lite.data.record_index import RecordIndex, record_reader
from deeplab2_lite.data.records import parse_record
from deeplab2_lite.data.resampling import pad_bottom_right
from deeplab2_lite.data.targets import make_targets
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.panoptic_losses import Targets


class TrainingBatch(NamedTuple):
    """One replica's batch of training crops.

    Attributes:
        image: RGB in 0..255, float32 [batch, crop_height, crop_width, 3].
        targets: What to learn of each.
        record: Index of each image's record in its split, int64 [batch].
    """

    image: tf.Tensor
    targets: Targets
    record: tf.Tensor


class LabelledBatch(NamedTuple):
    """One replica's batch of training crops whose targets are still to be made (`targets.on_device`).

    Attributes:
        image: As in `TrainingBatch`.
        panoptic: Panoptic ids, int32 [batch, crop_height, crop_width].
        record: As in `TrainingBatch`.
    """

    image: tf.Tensor
    panoptic: tf.Tensor
    record: tf.Tensor


class EvaluationBatch(NamedTuple):
    """One replica's batch of whole images with their labels.

    Attributes:
        image: RGB, uint8 [batch, height, width, 3]; what lies beyond `size` is 0.
        panoptic: Panoptic ids, int32 [batch, height, width]; void beyond `size`.
        filename: Name of each image, string [batch].
        record: Index of each image's record in its split, -1 where not valid; int64 [batch].
        valid: Whether this is an image at all, and no filling; bool [batch].
        size: Height and width of each image, int32 [batch, 2].
    """

    image: tf.Tensor
    panoptic: tf.Tensor
    filename: tf.Tensor
    record: tf.Tensor
    valid: tf.Tensor
    size: tf.Tensor


@tf.autograph.experimental.do_not_convert
def training_dataset(
    config: ExperimentConfig,
    info: DatasetInfo,
    index: RecordIndex,
    start_step: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Makes the endless input of training, from a step on.

    Image i of a step's global batch is the same, to the bit, however often training was restarted, over
    however many replicas the batch is divided, and on however many services it is made.

    Args:
        config: The experiment; `data`, `targets`, `train.batch_size` and `train.seed` count here.
        info: The label space of the records.
        index: The records of `data.train_split`.
        start_step: Steps already taken.
        context: The input pipeline, as `distribute_datasets_from_function` gives it; None is the only one.

    Returns:
        Batches for one replica after another, of static shape: each a `TrainingBatch`, or with
        `targets.on_device` a `LabelledBatch`.

    Raises:
        UserError: The global batch cannot be divided evenly over the replicas, or a service is out of reach.
    """

    def example(record: tf.Tensor, serialized: tf.Tensor, draws: tf.Tensor) -> TrainingBatch | LabelledBatch:
        image, panoptic, _ = parse_record(serialized, info)
        crop = augment(image, panoptic, draws, config.data, info.void_id)
        if config.targets.on_device:
            return LabelledBatch(crop.image, crop.panoptic, record)
        return TrainingBatch(crop.image, make_targets(crop.panoptic, info, config.targets), record)

    return endless_input(example, config, index, start_step, context)


def endless_input(
    example: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Any],
    config: ExperimentConfig,
    index: RecordIndex,
    start_step: int,
    context: tf.distribute.InputContext | None,
) -> tf.data.Dataset:
    """Makes examples of records in training order, and batches of them.

    Args:
        example: From a record's number, its bytes, and a pair of integers that its random draws follow from,
            int64 [2], to tensors of static shape.
        config: The experiment.
        index: As for `training_dataset`.
        start_step: Likewise.
        context: Likewise.

    Returns:
        Batches for one replica after another.

    Raises:
        UserError: The global batch cannot be divided evenly over the replicas, or a service is out of reach.
    """
    share = share_of_batch("train.batch_size", config.train.batch_size, context)
    read = record_reader(index, config.data.cache)
    seed = config.train.seed

    def at(count: tf.Tensor) -> Any:
        position = share.position(count)
        record = record_at(position, len(index), seed)
        return example(record, read(record), tf.stack([tf.constant(seed, tf.int64), position]))

    def batches(first: int, stride: int) -> tf.data.Dataset:
        """Makes every `stride`-th of this pipeline's batches."""
        batch, begin = share.replica_batch, start_step * share.local_batch
        counts = tf.data.Dataset.range(np.iinfo(np.int64).max)
        counts = counts.map(lambda i: begin + (first + i // batch * stride) * batch + i % batch)
        examples = counts.map(at, tf.data.AUTOTUNE, deterministic=True)
        return as_input(examples.batch(batch, drop_remainder=True))

    if config.data.service:
        return as_input(batches_from_services(batches, config.data.service))
    return batches(0, 1)


@tf.autograph.experimental.do_not_convert
def evaluation_dataset(
    config: ExperimentConfig,
    info: DatasetInfo,
    index: RecordIndex,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Makes the input of one evaluation: every image of a split once, at its own resolution.

    Images of different sizes never share a batch. So a batch size above 1 collects images of the same size,
    and leaves the order of the records; the order is the same each time. With `evaluation.fixed_size` all are
    padded to it, the order is kept, shapes are static, and the last batches are filled up with images that
    are not valid. All replicas of a pipeline get equally many batches; with a fixed size, or one image each, all
    replicas do.

    Args:
        config: The experiment; `evaluation.batch_size`, `evaluation.fixed_size` and `data.cache` count here.
        info: The label space of the records.
        index: The records of the split.
        context: The input pipeline, as `distribute_datasets_from_function` gives it; None is the only one.
            Pipelines divide the records among them.

    Returns:
        Batches for one replica after another, each an `EvaluationBatch`. An image larger than the fixed size
        raises `tf.errors.InvalidArgumentError` that names it.

    Raises:
        UserError: The global batch cannot be divided evenly over the replicas.
    """
    share = share_of_batch("evaluation.batch_size", config.evaluation.batch_size, context)
    fixed_size = config.evaluation.fixed_size
    # All pipelines take equally many positions; those from len(index) on are filling.
    steps = -(-len(index) // share.global_batch)
    positions = share.position(np.arange(steps * share.local_batch, dtype=np.int64))
    serialized = numbered_records(index, positions[positions < len(index)], config.data.cache)
    if fixed_size is not None:
        filling = tf.data.Dataset.from_tensors(_filling(fixed_size, info)).repeat(int(np.sum(positions >= len(index))))
        images = serialized.map(
            lambda record, content: _pad(_image(record, content, info), fixed_size, info),
            tf.data.AUTOTUNE,
            deterministic=True,
        )
        return as_input(images.concatenate(filling).batch(share.replica_batch, drop_remainder=True))
    if share.replica_batch == 1:
        images = serialized.map(
            lambda record, content: _image(record, content, info), tf.data.AUTOTUNE, deterministic=True
        )
        # Filling is of record 0, since a pipeline may have no image of its own.
        first = numbered_records(index, np.zeros(1, np.int64), False).map(
            lambda record, content: _as_filling(_image(record, content, info), info)
        )
        return as_input(images.concatenate(first.repeat()).take(steps * share.local_replicas).batch(1))
    return as_input(_complete_rounds(_batches_of_equal_size(serialized, share, info), share.local_replicas, info))


def numbered_records(index: RecordIndex, records: np.ndarray, cache: bool) -> tf.data.Dataset:
    """Reads records in a given order.

    Args:
        index: Where they lie.
        records: Their indices, int64.
        cache: Keep them in memory when the dataset is first iterated, for the times after it.

    Returns:
        Pairs of a record's index and its bytes.
    """
    read = record_reader(index)
    numbered = tf.data.Dataset.from_tensor_slices(records).map(
        lambda record: (record, read(record)), tf.data.AUTOTUNE, deterministic=True
    )
    return numbered.cache() if cache else numbered


def _image(record: tf.Tensor, serialized: tf.Tensor, info: DatasetInfo) -> EvaluationBatch:
    image, panoptic, filename = parse_record(serialized, info)
    return EvaluationBatch(image, panoptic, filename, record, tf.constant(True), tf.shape(panoptic))


def _require(image: EvaluationBatch, is_met: tf.Tensor, expected: str) -> EvaluationBatch:
    """Returns the image, or raises with its name and size and what was expected."""
    size = tf.strings.reduce_join(tf.strings.as_string(image.size), separator="x")
    message = tf.strings.join([image.filename, ": the image has ", size, f" pixels; {expected}"])
    with tf.control_dependencies([tf.debugging.Assert(is_met, [message])]):
        return EvaluationBatch(*(tf.identity(tensor) for tensor in image))


def _pad(image: EvaluationBatch, size: Size, info: DatasetInfo) -> EvaluationBatch:
    fits = tf.reduce_all(image.size <= size)
    image = _require(image, fits, f"evaluation.fixed_size is {size[0]}x{size[1]}")
    return image._replace(
        image=pad_bottom_right(image.image, size, 0), panoptic=pad_bottom_right(image.panoptic, size, info.void_id)
    )


def _filling(size: Size, info: DatasetInfo) -> EvaluationBatch:
    return EvaluationBatch(
        image=tf.zeros([*size, 3], tf.uint8),
        panoptic=tf.fill(size, tf.constant(info.void_id, tf.int32)),
        filename=tf.constant(""),
        record=tf.constant(-1, tf.int64),
        valid=tf.constant(False),
        size=tf.constant(size, tf.int32),
    )


def _batches_of_equal_size(serialized: tf.data.Dataset, share: BatchShare, info: DatasetInfo) -> tf.data.Dataset:
    batch = share.replica_batch

    def stored_size(_: tf.Tensor, content: tf.Tensor) -> tf.Tensor:
        sizes = {key: tf.io.FixedLenFeature([], tf.int64, 0) for key in (HEIGHT_KEY, WIDTH_KEY)}
        size = tf.io.parse_single_example(content, sizes)
        return size[HEIGHT_KEY] * 2**31 + size[WIDTH_KEY]

    def decode(stored: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        def image(record: tf.Tensor, content: tf.Tensor) -> EvaluationBatch:
            decoded = _image(record, content, info)
            height, width = tf.unstack(tf.cast(decoded.size, tf.int64))
            as_stored = tf.equal(height * 2**31 + width, stored)
            return _require(decoded, as_stored, f"expected what {HEIGHT_KEY} and {WIDTH_KEY} say")

        return window.map(image, batch, deterministic=True).batch(batch)

    # Encoded records wait for others of their size: decoded ones would fill the memory.
    return serialized.group_by_window(stored_size, decode, window_size=batch)


def _complete_rounds(batches: tf.data.Dataset, replicas: int, info: DatasetInfo) -> tf.data.Dataset:
    """Adds filling, so that in the last round each replica has a batch."""
    if replicas == 1:
        return batches

    filling = batches.take(1).map(lambda batch: _as_filling(batch, info))
    filled = batches.concatenate(filling.repeat(replicas - 1))
    # Whole rounds alone: what they drop is filling.
    rounds = filled.window(replicas, drop_remainder=True)
    return rounds.flat_map(lambda batch: tf.data.Dataset.zip(tuple(batch)).map(EvaluationBatch))


def _as_filling(batch: EvaluationBatch, info: DatasetInfo) -> EvaluationBatch:
    return batch._replace(
        panoptic=tf.fill(tf.shape(batch.panoptic), info.void_id),
        record=tf.fill(tf.shape(batch.record), tf.constant(-1, tf.int64)),
        valid=tf.zeros_like(batch.valid),
    )


def as_input(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Makes batches ready for `distribute_datasets_from_function`: in order, not sharded again, prefetched."""
    options = tf.data.Options()
    options.deterministic = True
    # Each pipeline takes its share of the records by itself.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
