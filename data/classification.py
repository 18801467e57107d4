"""From ImageNet-style records to batches: the input pipelines of a classifier.

A record is a `tf.train.Example` as TF-slim and the Model Garden write them: `image/encoded` and
`image/class/label`, one integer, whose first class is `classification.first_label`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.data.augment import augment_for_classification, central_crop
from deeplab2_lite.data.ordering import share_of_batch
from deeplab2_lite.data.pipeline import as_input, endless_input, numbered_records
from deeplab2_lite.data.record_format import CLASS_LABEL_KEY, FILENAME_KEY, IMAGE_KEY
from deeplab2_lite.data.record_index import RecordIndex
from deeplab2_lite.data.records import decode_image, require
from deeplab2_lite.dataset_info import DatasetInfo

_FEATURES = {
    IMAGE_KEY: tf.io.FixedLenFeature([], tf.string, ""),
    FILENAME_KEY: tf.io.FixedLenFeature([], tf.string, ""),
    CLASS_LABEL_KEY: tf.io.VarLenFeature(tf.int64),
}


class ClassificationBatch(NamedTuple):
    """One replica's batch of crops.

    Attributes:
        image: RGB in 0..255, float32 [batch, crop_height, crop_width, 3].
        label: Class ids from 0, int32 [batch].
        record: Index of each image's record in its split, -1 where not valid; int64 [batch].
        valid: Whether this is an image at all, and no filling; bool [batch].
    """

    image: tf.Tensor
    label: tf.Tensor
    record: tf.Tensor
    valid: tf.Tensor


class ClassifiedImage(NamedTuple):
    """One decoded record: RGB, uint8 [height, width, 3], and class id from 0, int32 scalar."""

    image: tf.Tensor
    label: tf.Tensor


def parse_classification_record(serialized: tf.Tensor, info: DatasetInfo, first_label: int) -> ClassifiedImage:
    """Decodes one record in graph operations.

    Args:
        serialized: A `tf.train.Example`, scalar string.
        info: The classes.
        first_label: Label of the first of them.

    Returns:
        Image and class.

    Raises:
        tf.errors.InvalidArgumentError: The record lacks a part, or its label is that of no class; the message
            names the record's file name.
    """
    features = tf.io.parse_single_example(serialized, _FEATURES)
    filename, labels = features[FILENAME_KEY], features[CLASS_LABEL_KEY].values
    image = decode_image(features[IMAGE_KEY], filename)
    one = require(tf.equal(tf.size(labels), 1), [filename, f": {CLASS_LABEL_KEY}: expected one label"])
    with tf.control_dependencies([one]):
        label = tf.reshape(labels, [])
    last_label = first_label + info.num_classes - 1
    expected = f", expected {first_label}..{last_label} (classification.first_label, {info.num_classes} classes)"
    is_class = (label >= first_label) & (label <= last_label)
    known = require(is_class, [filename, f": {CLASS_LABEL_KEY}: got ", tf.strings.as_string(label), expected])
    with tf.control_dependencies([known]):
        return ClassifiedImage(tf.identity(image), tf.cast(label - first_label, tf.int32))


@tf.autograph.experimental.do_not_convert
def classification_training_dataset(
    config: ExperimentConfig,
    info: DatasetInfo,
    index: RecordIndex,
    start_step: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Makes the endless input of training, from a step on; order and draws as in `pipeline.training_dataset`.

    Args:
        config: The experiment; `data`, `classification`, `train.batch_size` and `train.seed` count here.
        info: The classes.
        index: The records of `data.train_split`.
        start_step: Steps already taken.
        context: The input pipeline, as `distribute_datasets_from_function` gives it; None is the only one.

    Returns:
        Batches for one replica after another, each a `ClassificationBatch` of static shape.

    Raises:
        UserError: The global batch cannot be divided evenly over the replicas.
    """

    def example(record: tf.Tensor, serialized: tf.Tensor, draws: tf.Tensor) -> ClassificationBatch:
        image, label = parse_classification_record(serialized, info, config.classification.first_label)
        crop = augment_for_classification(image, draws, config.data, config.classification)
        return ClassificationBatch(crop, label, record, tf.constant(True))

    return endless_input(example, config, index, start_step, context)


@tf.autograph.experimental.do_not_convert
def classification_evaluation_dataset(
    config: ExperimentConfig,
    info: DatasetInfo,
    index: RecordIndex,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Makes the input of one evaluation: the central crop of every image of a split once, in order.

    The last batches are filled up with images that are not valid, so that all replicas get equally many.

    Args:
        config: The experiment; `evaluation.batch_size`, `data.crop_size`, `data.cache` and `classification` count here.
        info: The classes.
        index: The records of the split.
        context: The input pipeline, as `distribute_datasets_from_function` gives it; None is the only one.
            Pipelines divide the records among them.

    Returns:
        Batches for one replica after another, each a `ClassificationBatch` of static shape.

    Raises:
        UserError: The global batch cannot be divided evenly over the replicas.
    """
    share = share_of_batch("evaluation.batch_size", config.evaluation.batch_size, context)
    crop_size, settings = config.data.crop_size, config.classification

    def example(record: tf.Tensor, serialized: tf.Tensor) -> ClassificationBatch:
        image, label = parse_classification_record(serialized, info, settings.first_label)
        crop = tf.ensure_shape(central_crop(image, crop_size, settings.crop_fraction), [*crop_size, 3])
        return ClassificationBatch(crop, label, record, tf.constant(True))

    steps = -(-len(index) // share.global_batch)
    positions = share.position(np.arange(steps * share.local_batch, dtype=np.int64))
    records = numbered_records(index, positions[positions < len(index)], config.data.cache)
    images = records.map(example, tf.data.AUTOTUNE, deterministic=True)
    filling = ClassificationBatch(
        tf.zeros([*crop_size, 3]), tf.constant(0), tf.constant(-1, tf.int64), tf.constant(False)
    )
    fillings = tf.data.Dataset.from_tensors(filling).repeat(int(np.sum(positions >= len(index))))
    return as_input(images.concatenate(fillings).batch(share.replica_batch, drop_remainder=True))
