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
from deeplab2_lite.data.renumbering import renumber
from deeplab2_lite.data.shards import RecordOffsets, list_shards, scan_offsets
from deeplab2_lite.dataset_info import DatasetInfo, deeplab2_preset_of

__all__ = [
    "ParsedRecord",
    "RecordOffsets",
    "check_decodable",
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

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bits a channel and type of colour, the bytes 24 and 25 of a PNG: others decode without a word to other ids.
_PNG_KIND_PLACE = 24
_RGB_KIND = b"\x08\x02"
_GREY_KIND = b"\x08\x00"


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
    (one channel of semantic ids, whose things count as crowd), the last two as DeepLab2 writes them. Their ids
    are those of `info.stored`, where that is given.

    Args:
        serialized: A `tf.train.Example`, scalar string.
        info: The label space of the record.

    Returns:
        Image, panoptic ids and name.

    Raises:
        tf.errors.InvalidArgumentError: The record lacks a part, its label has another size than its
            image, or holds an id that `info` has not; the message names the record's file name.
    """
    features = tf.io.parse_single_example(serialized, _FEATURES)
    filename = features[FILENAME_KEY]
    named = tf.where(tf.equal(filename, ""), f"a record without {FILENAME_KEY}", filename)
    image = decode_image(features[IMAGE_KEY], named)
    label = _decode_label(features, info, named)
    checks = [_same_size(image, label, named)]
    if info.stores_other_ids:
        label, is_known, message = renumber(label, info)
        checks.append(require(is_known, [named, ": ", message]))
    else:
        checks.append(_known_classes(label, info, named))
    with tf.control_dependencies(checks):
        return ParsedRecord(tf.identity(image), tf.identity(label), filename)


def decode_panoptic_tensor(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes what `encode_panoptic` wrote, in graph operations.

    Args:
        encoded: An RGB PNG, scalar string.

    Returns:
        The ids, int32 [height, width].
    """
    # With a fourth channel, whose content does not matter, the bytes of a pixel are those of an integer.
    ids = tf.bitcast(tf.io.decode_png(encoded, channels=4), tf.int32)
    return tf.bitwise.bitwise_and(ids, 2**24 - 1)


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
    is_png = tf.equal(tf.strings.substr(encoded, 0, 8), _PNG_SIGNATURE)
    found = tf.where(tf.equal(encoded, ""), "; the record holds none, or is of another schema", "")
    check = require(is_jpeg | is_png, [filename, f": {IMAGE_KEY}: expected a PNG or JPEG image", found])
    with tf.control_dependencies([check]):
        image = tf.cond(
            is_jpeg,
            # The fast default differs from other decoders by many grey levels.
            lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_png(encoded, channels=3),
        )
    return tf.ensure_shape(image, [None, None, 3])


def check_decodable(serialized: tf.Tensor) -> tf.Tensor:
    """Decodes the parts of a record, whatever its label space.

    Args:
        serialized: As for `parse_record`.

    Returns:
        Pixels of image and label, int32 scalar.

    Raises:
        tf.errors.InvalidArgumentError: It is no `tf.train.Example` of this schema, or an image in it is damaged.
    """
    features = tf.io.parse_single_example(serialized, _FEATURES)
    image, label = decode_image(features[IMAGE_KEY], features[FILENAME_KEY]), features[LABEL_KEY]
    is_png = tf.equal(tf.strings.substr(label, 0, 8), _PNG_SIGNATURE)
    return tf.size(image) + tf.cond(is_png, lambda: tf.size(tf.io.decode_png(label)), lambda: 0)


def _decode_label(features: dict[str, tf.Tensor], info: DatasetInfo, filename: tf.Tensor) -> tf.Tensor:
    """Decodes a label, whose ids are those stored."""
    encoded, label_format = features[LABEL_KEY], features[LABEL_FORMAT_KEY]
    divisor = info.label_divisor if info.stored is None else info.stored.label_divisor

    def from_panoptic() -> tf.Tensor:
        with tf.control_dependencies([_require_png(encoded, _RGB_KIND, "an RGB PNG of 8 bits a channel", filename)]):
            return decode_panoptic_tensor(tf.identity(encoded))

    def from_raw() -> tf.Tensor:
        size = tf.stack([features[HEIGHT_KEY], features[WIDTH_KEY]])
        as_expected = tf.equal(tf.strings.length(encoded), tf.cast(4 * tf.reduce_prod(size), tf.int32))
        said = f" pixels that {HEIGHT_KEY} and {WIDTH_KEY} say"
        message = [filename, f": {LABEL_KEY}: expected 4 bytes for each of ", _size_text(size), said]
        with tf.control_dependencies([require(as_expected, message), _require_declared(info, filename)]):
            return tf.reshape(tf.io.decode_raw(encoded, tf.int32), size)

    def from_semantic() -> tf.Tensor:
        with tf.control_dependencies([_require_png(encoded, _GREY_KIND, "a grey PNG of 8 bits", filename)]):
            semantic = tf.io.decode_png(tf.identity(encoded), channels=1)
        return tf.cast(semantic[:, :, 0], tf.int32) * divisor

    is_panoptic, is_raw, is_semantic = (tf.equal(label_format, name) for name in _LABEL_FORMATS)
    known = require(
        is_panoptic | is_raw | is_semantic | tf.equal(encoded, ""),
        [filename, f": {LABEL_FORMAT_KEY}: expected one of {', '.join(_LABEL_FORMATS)}, got '", label_format, "'"],
    )
    present = require(tf.not_equal(encoded, ""), [filename, f": {LABEL_KEY}: the record holds no label"])
    with tf.control_dependencies([known, present]):
        label = tf.cond(is_panoptic, from_panoptic, lambda: tf.cond(is_raw, from_raw, from_semantic))
    return tf.ensure_shape(label, [None, None])


def _require_png(encoded: tf.Tensor, kind: bytes, expected: str, filename: tf.Tensor) -> tf.Operation | None:
    # Padded, since there is no substring beyond the end.
    head = tf.strings.join([tf.strings.substr(encoded, 0, _PNG_KIND_PLACE + 2), b"\0" * (_PNG_KIND_PLACE + 2)])
    is_png = tf.equal(tf.strings.substr(head, 0, len(_PNG_SIGNATURE)), _PNG_SIGNATURE)
    as_expected = is_png & tf.equal(tf.strings.substr(head, _PNG_KIND_PLACE, len(kind)), kind)
    return require(as_expected, [filename, f": {LABEL_KEY}: expected {expected}"])


def _require_declared(info: DatasetInfo, filename: tf.Tensor) -> tf.Operation | None:
    # DeepLab2's ids of another numbering would pass for other classes of things.
    preset = None if info.stored is not None else deeplab2_preset_of(info)
    message = f": {LABEL_FORMAT_KEY}: {_RAW_INT32}, as DeepLab2 writes it; expected data.dataset_info={preset}"
    return require(tf.constant(preset is None), [filename, message])


def _same_size(image: tf.Tensor, panoptic: tf.Tensor, filename: tf.Tensor) -> tf.Operation | None:
    image_size, label_size = tf.shape(image)[:2], tf.shape(panoptic)
    return require(
        tf.reduce_all(tf.equal(image_size, label_size)),
        [filename, ": the label has ", _size_text(label_size), " pixels, its image ", _size_text(image_size)],
    )


def _known_classes(panoptic: tf.Tensor, info: DatasetInfo, filename: tf.Tensor) -> tf.Operation | None:
    # Unsigned, negative ids are beyond all classes. Ranges are told several times faster than classes are computed.
    ids, void = tf.bitcast(panoptic, tf.uint32), tf.constant(info.void_id, tf.uint32)
    is_class = ids < info.num_classes * info.label_divisor
    known = is_class | (ids - void < info.label_divisor)

    def offender() -> tf.Tensor:
        return tf.strings.as_string(tf.reduce_max(tf.where(known, tf.int32.min, panoptic)))

    is_known = tf.reduce_all(known)
    return require(
        is_known,
        [
            filename,
            ": the label holds panoptic id ",
            tf.cond(is_known, lambda: tf.constant(""), offender),
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
