"""Reading one record for an inspection: through the path of training, and with one line for whatever is wrong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.data.inspection.findings import Fault, check_segments
from deeplab2_lite.data.record_format import (
    CLASS_LABEL_KEY,
    FILENAME_KEY,
    HEIGHT_KEY,
    IMAGE_FORMAT_KEY,
    IMAGE_KEY,
    LABEL_FORMAT_KEY,
    LABEL_KEY,
    WIDTH_KEY,
)
from deeplab2_lite.data.record_index import refusal
from deeplab2_lite.data.records import ParsedRecord, decode_image, parse_record
from deeplab2_lite.dataset_info import DatasetInfo

# From a record's number, int64 scalar, to its bytes, scalar string.
RecordReader = Callable[[tf.Tensor], tf.Tensor]

_PNG_START = b"\x89PNG"
# Where the header of a PNG has its bits a channel.
_PNG_DEPTH_PLACE = 24
_DIGEST_BYTES = 16


class RecordContent(NamedTuple):
    """What a readable record holds.

    Attributes:
        height: Of image and label, in pixels.
        width: Likewise.
        image_format: "png" or "jpeg".
        label_format: As stored, such as "panoptic_png".
        ids: Panoptic ids that occur in the label, ascending, int64 [segments].
        areas: Pixels of each, int64 [segments].
        image_digest: Digest of the decoded image.
    """

    height: int
    width: int
    image_format: str
    label_format: str
    ids: np.ndarray
    areas: np.ndarray
    image_digest: bytes


class InspectedRecord(NamedTuple):
    """A record that was inspected.

    Attributes:
        filename: Name of its image; "" where there is none.
        faults: What is wrong with it by itself.
        content: What it holds; None where training cannot read it.
    """

    filename: str
    faults: tuple[Fault, ...]
    content: RecordContent | None


class RecordInspector:
    """Inspects records one by one; calls may come from many threads."""

    def __init__(self, info: DatasetInfo) -> None:
        """Makes the graphs that decode.

        Args:
            info: The label space of the records.
        """
        self._info = info
        string = tf.TensorSpec([], tf.string)

        @tf.function(input_signature=[string], autograph=False)
        def parse(serialized: tf.Tensor) -> tuple[ParsedRecord, tf.Tensor, tf.Tensor]:
            with tf.device("/CPU:0"):
                parsed = parse_record(serialized, info)
                ids, _, areas = tf.unique_with_counts(tf.reshape(parsed.panoptic, [-1]), tf.int64)
                return parsed, ids, areas

        @tf.function(input_signature=[string], autograph=False)
        def decode(encoded: tf.Tensor) -> tf.Tensor:
            with tf.device("/CPU:0"):
                return decode_image(encoded, tf.constant(""))

        self._parse, self._decode_image = parse, decode

    def inspect(self, read: RecordReader, record: int) -> InspectedRecord:
        """Inspects a record.

        Args:
            read: Of `record_index.record_reader`.
            record: Number of a record.

        Returns:
            What it holds and what is wrong with it; a damaged record raises nothing.
        """
        try:
            serialized = _read(read, record)
        except tf.errors.OpError as error:
            return InspectedRecord("", (Fault("unreadable", _reading_line(error)),), None)
        features = _features(serialized.numpy())
        if not features:
            return InspectedRecord("", (Fault("unreadable", "is no tf.train.Example with features"),), None)
        filename = _text(features.get(FILENAME_KEY))
        faults = [] if filename else [Fault("unnamed", f"no {FILENAME_KEY}: pictures and submissions need one")]
        try:
            parsed, ids, areas = self._parse(serialized)
        except tf.errors.OpError as error:
            faults.append(Fault("refused", self._refusal(error, filename, features)))
            return InspectedRecord(filename, tuple(faults), None)
        order = np.argsort(ids.numpy())
        content = RecordContent(
            height=int(parsed.image.shape[0]),
            width=int(parsed.image.shape[1]),
            image_format="png" if features[IMAGE_KEY].startswith(_PNG_START) else "jpeg",
            label_format=_text(features[LABEL_FORMAT_KEY]),
            ids=ids.numpy()[order].astype(np.int64),
            areas=areas.numpy()[order],
            image_digest=_digest(parsed.image.numpy()),
        )
        faults += _check_features(features, content)
        faults += check_segments(content.ids, content.areas, self._info)
        return InspectedRecord(filename, tuple(faults), content)

    def load(self, read: RecordReader, record: int) -> ParsedRecord:
        """Reads a record that is known to be sound.

        Args:
            read: Of `record_index.record_reader`.
            record: Number of a record.

        Returns:
            Image, panoptic ids and name.
        """
        return self._parse(_read(read, record))[0]

    def _refusal(self, error: tf.errors.OpError, filename: str, features: dict[str, Any]) -> str:
        """Returns the line of `parse_record`, or makes one where TensorFlow's error does not say what it is about."""
        if CLASS_LABEL_KEY in features and LABEL_KEY not in features:
            return f"a classifier's record: it has {CLASS_LABEL_KEY}, and no panoptic label in {LABEL_KEY}"
        text = str(error)
        line = refusal(text)
        if line is not None:
            start = f"{filename}: " if filename else f"a record without {FILENAME_KEY}: "
            return line.removeprefix(start)
        if "Key: " in text:
            return _plain(text)
        try:
            self._decode_image(tf.constant(features.get(IMAGE_KEY, b"")))
        except tf.errors.OpError as image_error:
            return f"{IMAGE_KEY}: cannot be decoded ({_plain(str(image_error))})"
        return f"{LABEL_KEY}: cannot be decoded ({_plain(text)})"


def _read(read: RecordReader, record: int) -> tf.Tensor:
    with tf.device("/CPU:0"):
        return read(tf.constant(record, tf.int64))


def _features(serialized: bytes) -> dict[str, Any]:
    """Returns the first value of each feature that has any; nothing if it is no `tf.train.Example`."""
    try:
        example = tf.train.Example.FromString(serialized)
    except Exception as error:  # The type of the error depends on the implementation of protocol buffers.
        if type(error).__name__ != "DecodeError":
            raise
        return {}
    values = {}
    for key, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind and (content := getattr(feature, kind).value):
            values[key] = content[0]
    return values


def _check_features(features: dict[str, Any], content: RecordContent) -> list[Fault]:
    faults = []
    height, width = features.get(HEIGHT_KEY, 0), features.get(WIDTH_KEY, 0)
    if (height, width) != (content.height, content.width):
        message = f"{HEIGHT_KEY} and {WIDTH_KEY} say {height}x{width}, the image has {content.height}x{content.width}"
        faults.append(Fault("size", message))
    image_format = _text(features.get(IMAGE_FORMAT_KEY)).lower().replace("jpg", "jpeg")
    if image_format not in ("", content.image_format):
        faults.append(Fault("format", f"{IMAGE_FORMAT_KEY} says '{image_format}', the image is {content.image_format}"))
    if content.image_format == "png" and features[IMAGE_KEY][_PNG_DEPTH_PLACE] > 8:
        faults.append(Fault("deep_image", "the image has 16 bits a channel, of which the upper 8 are used"))
    return faults


def _digest(image: np.ndarray) -> bytes:
    digest = hashlib.blake2b(np.array(image.shape, np.int64).tobytes(), digest_size=_DIGEST_BYTES)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _reading_line(error: tf.errors.OpError) -> str:
    if isinstance(error, tf.errors.DataLossError):
        return "damaged: its checksum (CRC) is not that of its data"
    return f"cannot be read ({_plain(str(error))})"


def _plain(text: str) -> str:
    """Returns the line of TensorFlow's message that says what happened, without the names of its nodes."""
    # It may begin with where the graph was built, and ends with the node: the line before that one says it.
    lines = re.split(r"\n\s*\[\[", text)[0].splitlines()
    line = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", next((line for line in reversed(lines) if line.strip()), ""))
    return " ".join(line.split()).rstrip(".")
