"""Reading records in TensorFlow: the graph side of the schema in `record_format.py`."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.data.record_format import (
    FILENAME_KEY,
    HEIGHT_KEY,
    IMAGE_KEY,
    LABEL_FORMAT_KEY,
    LABEL_KEY,
    PANOPTIC_PNG,
    WIDTH_KEY,
    decode_panoptic,
    encode_panoptic,
    make_record,
)
from deeplab2_lite.data.shards import RecordOffsets, list_shards, scan_offsets
from deeplab2_lite.dataset_info import DatasetInfo

__all__ = [
    "ParsedRecord",
    "RecordOffsets",
    "decode_image",
    "decode_panoptic",
    "decode_panoptic_tensor",
    "encode_panoptic",
    "list_shards",
    "make_record",
    "parse_record",
    "require",
    "scan_offsets",
]

_FEATURES = {
    IMAGE_KEY: tf.io.FixedLenFeature([], tf.string, ""),
    FILENAME_KEY: tf.io.FixedLenFeature([], tf.string, ""),
    HEIGHT_KEY: tf.io.FixedLenFeature([], tf.int64, 0),
    WIDTH_KEY: tf.io.FixedLenFeature([], tf.int64, 0),
    LABEL_KEY: tf.io.FixedLenFeature([], tf.string, ""),
    LABEL_FORMAT_KEY: tf.io.FixedLenFeature([], tf.string, ""),
}
_RAW_INT32 = "raw"
_SEMANTIC_PNG = "png"
_LABEL_FORMATS = (PANOPTIC_PNG, _RAW_INT32, _SEMANTIC_PNG)


class ParsedRecord(NamedTuple):
    """One decoded record.

    Attributes:
        image: RGB, uint8 [height, width, 3].
        panoptic: Panoptic ids, int32 [height, width].
        filename: Name of the image, scalar string.
    """

    image: tf.Tensor
    panoptic: tf.Tensor
    filename: tf.Tensor


def parse_record(serialized: tf.Tensor, info: DatasetInfo) -> ParsedRecord:
    """Decodes one record in graph operations.

    Labels are told by their format: "panoptic_png" (this library's), "raw" (int32 panoptic ids) or "png"
    (one channel of semantic ids, whose things count as crowd), the last two as DeepLab2 writes them.

    Args:
        serialized: A `tf.train.Example`, scalar string.
        info: The label space of the record.

    Returns:
        Image, panoptic ids and name.

    Raises:
        tf.errors.InvalidArgumentError: The record lacks a part, its label has another size than its
            image, or holds a class that `info` has not; the message names the record's file name.
    """
    features = tf.io.parse_single_example(serialized, _FEATURES)
    filename = features[FILENAME_KEY]
    image = decode_image(features[IMAGE_KEY], filename)
    panoptic = _decode_label(features, info)
    checks = [_same_size(image, panoptic, filename), _known_classes(panoptic, info, filename)]
    with tf.control_dependencies(checks):
        return ParsedRecord(tf.identity(image), tf.identity(panoptic), filename)


def decode_panoptic_tensor(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes what `encode_panoptic` wrote, in graph operations.

    Args:
        encoded: An RGB PNG, scalar string.

    Returns:
        The ids, int32 [height, width].
    """
    channels = tf.cast(tf.io.decode_png(encoded), tf.int32)
    channels = tf.ensure_shape(channels, [None, None, 3])
    return channels[:, :, 0] + channels[:, :, 1] * 2**8 + channels[:, :, 2] * 2**16


def decode_image(encoded: tf.Tensor, filename: tf.Tensor) -> tf.Tensor:
    """Decodes a PNG or JPEG in graph operations.

    Args:
        encoded: The image, scalar string.
        filename: Its name, for messages.

    Returns:
        RGB, uint8 [height, width, 3].

    Raises:
        tf.errors.InvalidArgumentError: It is neither.
    """
    is_jpeg = tf.io.is_jpeg(encoded)
    is_png = tf.equal(tf.strings.substr(encoded, 0, 8), b"\x89PNG\r\n\x1a\n")
    check = require(is_jpeg | is_png, [filename, f": {IMAGE_KEY}: expected a PNG or JPEG image"])
    with tf.control_dependencies([check]):
        image = tf.cond(
            is_jpeg,
            # The fast default differs from other decoders by many grey levels.
            lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_png(encoded, channels=3),
        )
    return tf.ensure_shape(image, [None, None, 3])


def _decode_label(features: dict[str, tf.Tensor], info: DatasetInfo) -> tf.Tensor:
    filename, encoded, label_format = features[FILENAME_KEY], features[LABEL_KEY], features[LABEL_FORMAT_KEY]

    def from_raw() -> tf.Tensor:
        size = tf.stack([features[HEIGHT_KEY], features[WIDTH_KEY]])
        as_expected = tf.equal(tf.strings.length(encoded), tf.cast(4 * tf.reduce_prod(size), tf.int32))
        message = [filename, f": {LABEL_KEY}: expected 4 bytes for each of ", _size_text(size), " pixels"]
        with tf.control_dependencies([require(as_expected, message)]):
            return tf.reshape(tf.io.decode_raw(encoded, tf.int32), size)

    def from_semantic() -> tf.Tensor:
        semantic = tf.cast(tf.io.decode_png(encoded, channels=1)[:, :, 0], tf.int32)
        return semantic * info.label_divisor

    is_panoptic, is_raw, is_semantic = (tf.equal(label_format, name) for name in _LABEL_FORMATS)
    known = require(
        is_panoptic | is_raw | is_semantic,
        [filename, f": {LABEL_FORMAT_KEY}: expected one of {', '.join(_LABEL_FORMATS)}, got '", label_format, "'"],
    )
    present = require(tf.not_equal(encoded, ""), [filename, f": {LABEL_KEY}: the record holds no label"])
    with tf.control_dependencies([known, present]):
        panoptic = tf.cond(
            is_panoptic,
            lambda: decode_panoptic_tensor(encoded),
            lambda: tf.cond(is_raw, from_raw, from_semantic),
        )
    return tf.ensure_shape(panoptic, [None, None])


def _same_size(image: tf.Tensor, panoptic: tf.Tensor, filename: tf.Tensor) -> tf.Operation | None:
    image_size, label_size = tf.shape(image)[:2], tf.shape(panoptic)
    return require(
        tf.reduce_all(tf.equal(image_size, label_size)),
        [filename, ": the label has ", _size_text(label_size), " pixels, its image ", _size_text(image_size)],
    )


def _known_classes(panoptic: tf.Tensor, info: DatasetInfo, filename: tf.Tensor) -> tf.Operation | None:
    semantic = panoptic // info.label_divisor
    unknown = ((semantic < 0) | (semantic >= info.num_classes)) & tf.not_equal(semantic, info.ignore_label)
    offender = tf.reduce_max(tf.where(unknown, panoptic, tf.int32.min))
    return require(
        ~tf.reduce_any(unknown),
        [
            filename,
            ": the label holds panoptic id ",
            tf.strings.as_string(offender),
            f", whose class is none of the {info.num_classes} of '{info.name}' nor void ({info.ignore_label}) at "
            f"label_divisor {info.label_divisor}",
        ],
    )


def _size_text(size: tf.Tensor) -> tf.Tensor:
    return tf.strings.reduce_join(tf.strings.as_string(size), separator="x")


def require(condition: tf.Tensor, message: list[tf.Tensor | str]) -> tf.Operation | None:
    """Refuses a record in a way that `record_index.reading_error` turns into one line.

    Args:
        condition: What must hold, bool scalar.
        message: Parts of the line, the record's file name first.

    Returns:
        What has to run before the record is used; None where it has run already.
    """
    return tf.debugging.Assert(condition, [tf.strings.join(message)])
