"""The input pipeline as it is usually written: int32 labels, whole images resized, a loop over segments in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, DataConfig, TargetConfig
from deeplab2_lite.data.record_format import (
    FILENAME_KEY,
    HEIGHT_KEY,
    IMAGE_KEY,
    LABEL_FORMAT_KEY,
    LABEL_KEY,
    WIDTH_KEY,
    decode_panoptic,
    serialize_example,
)
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.panoptic_losses import Targets

_FEATURES = {
    IMAGE_KEY: tf.io.FixedLenFeature([], tf.string),
    LABEL_KEY: tf.io.FixedLenFeature([], tf.string),
    HEIGHT_KEY: tf.io.FixedLenFeature([], tf.int64),
    WIDTH_KEY: tf.io.FixedLenFeature([], tf.int64),
}
Loop = Callable[[np.ndarray, DatasetInfo, TargetConfig], Targets]

_TYPES = Targets(tf.int32, *[tf.float32] * 5)


def with_raw_label(serialized: bytes) -> bytes:
    """Returns a record whose label is stored as int32, 4 bytes a pixel."""
    feature = tf.train.Example.FromString(serialized).features.feature
    panoptic = decode_panoptic(feature[LABEL_KEY].bytes_list.value[0])
    height, width = panoptic.shape
    return serialize_example(
        {
            IMAGE_KEY: feature[IMAGE_KEY].bytes_list.value[0],
            FILENAME_KEY: feature[FILENAME_KEY].bytes_list.value[0],
            HEIGHT_KEY: height,
            WIDTH_KEY: width,
            LABEL_KEY: panoptic.astype("<i4").tobytes(),
            LABEL_FORMAT_KEY: b"raw",
        }
    )


def decode_image(serialized: tf.Tensor) -> tf.Tensor:
    """Decodes the image of a record, uint8."""
    encoded = tf.io.parse_single_example(serialized, _FEATURES)[IMAGE_KEY]
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(encoded, channels=3),
    )
    return tf.ensure_shape(image, [None, None, 3])


def decode_label(serialized: tf.Tensor) -> tf.Tensor:
    """Decodes the label of a record, int32 [height, width]."""
    features = tf.io.parse_single_example(serialized, _FEATURES)
    size = tf.stack([features[HEIGHT_KEY], features[WIDTH_KEY]])
    return tf.reshape(tf.io.decode_raw(features[LABEL_KEY], tf.int32), size)


def augment(image: tf.Tensor, label: tf.Tensor, config: DataConfig, void_id: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes, mirrors, pads and crops an image and its label."""
    image, label = tf.cast(image, tf.float32), label[:, :, tf.newaxis]
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    if config.longest_side is not None:
        size *= config.longest_side / tf.reduce_max(size)
    size = tf.cast(tf.round(size * _scale(config.augmentation)), tf.int32)
    image = tf.image.resize(image, size)
    label = tf.image.resize(label, size, tf.image.ResizeMethod.NEAREST_NEIGHBOR)
    mirrored = tf.random.uniform([]) < 0.5
    image = tf.cond(mirrored, lambda: tf.image.flip_left_right(image), lambda: image)
    label = tf.cond(mirrored, lambda: tf.image.flip_left_right(label), lambda: label)
    height, width = config.crop_size
    full_height, full_width = tf.maximum(size[0], height), tf.maximum(size[1], width)
    image = tf.image.pad_to_bounding_box(image - 127.5, 0, 0, full_height, full_width) + 127.5
    label = tf.image.pad_to_bounding_box(label - void_id, 0, 0, full_height, full_width) + void_id
    top = tf.random.uniform([], 0, full_height - height + 1, tf.int32)
    left = tf.random.uniform([], 0, full_width - width + 1, tf.int32)
    image = tf.image.crop_to_bounding_box(image, top, left, height, width)
    label = tf.image.crop_to_bounding_box(label, top, left, height, width)
    return tf.ensure_shape(image, [height, width, 3]), tf.ensure_shape(label[:, :, 0], [height, width])


def targets_by_masks(panoptic: np.ndarray, info: DatasetInfo, config: TargetConfig) -> Targets:
    """The targets of a label, each map filled segment by segment: several passes over the label for each.

    So does public code, where `instance_loop.targets_by_loop` needs one pass for each instance and none for stuff.
    """
    height, width = panoptic.shape
    semantic = np.full((height, width), info.ignore_label, np.int32)
    semantic_weight, center_weight, offset_weight, heatmap = np.zeros((4, height, width), np.float32)
    offset = np.zeros((height, width, 2), np.float32)
    rows, columns = np.indices((height, width), np.float32)
    radius = int(3 * config.center_sigma) + 1
    reach = np.arange(-radius, radius + 1)
    gaussian = np.exp(-(reach[:, np.newaxis] ** 2 + reach**2) / (2 * config.center_sigma**2)).astype(np.float32)
    for identifier in np.unique(panoptic):
        class_id, instance_id = divmod(identifier, info.label_divisor)
        if class_id == info.ignore_label:
            continue
        semantic[panoptic == identifier] = class_id
        semantic_weight[panoptic == identifier] = 1
        is_thing = info.classes[class_id].isthing
        if is_thing and instance_id == 0:
            continue
        center_weight[panoptic == identifier] = 1
        if not is_thing:
            continue
        offset_weight[panoptic == identifier] = 1
        pixels = np.where(panoptic == identifier)
        if len(pixels[0]) < config.small_instance_area:
            semantic_weight[panoptic == identifier] = config.small_instance_weight
        center_y, center_x = pixels[0].mean(), pixels[1].mean()
        offset[(*pixels, 0)] = center_y - rows[pixels]
        offset[(*pixels, 1)] = center_x - columns[pixels]
        top, left = int(center_y + 0.5) - radius, int(center_x + 0.5) - radius
        window = heatmap[max(top, 0) : top + 2 * radius + 1, max(left, 0) : left + 2 * radius + 1]
        inside = gaussian[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
        np.maximum(window, inside, out=window)
    return Targets(semantic, semantic_weight, heatmap, center_weight, offset, offset_weight)


def make_targets(
    panoptic: tf.Tensor, info: DatasetInfo, config: TargetConfig, loop: Loop = targets_by_masks
) -> Targets:
    """Makes the targets of a label in NumPy."""
    targets = tf.numpy_function(lambda label: list(loop(label, info, config)), [panoptic], list(_TYPES))
    shapes = Targets(*[panoptic.shape] * 4, panoptic.shape.concatenate(2), panoptic.shape)
    return Targets(*(tf.ensure_shape(target, shape) for target, shape in zip(targets, shapes, strict=True)))


def usual_dataset(
    path: str, info: DatasetInfo, data: DataConfig, targets: TargetConfig, loop: Loop = targets_by_masks
) -> tf.data.Dataset:
    """Makes endless batches of one image and its targets from a file of records `with_raw_label`."""

    def example(serialized: tf.Tensor) -> tuple[tf.Tensor, Targets]:
        image, panoptic = augment(decode_image(serialized), decode_label(serialized), data, info.void_id)
        return image, make_targets(panoptic, info, targets, loop)

    records = tf.data.TFRecordDataset(path).repeat().shuffle(8)
    return records.map(example, tf.data.AUTOTUNE).batch(1, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _scale(config: AugmentationConfig) -> tf.Tensor:
    count = round((config.max_scale - config.min_scale) / config.scale_step) + 1
    return config.min_scale + config.scale_step * tf.cast(tf.random.uniform([], 0, count, tf.int32), tf.float32)
