"""Random access to the records of a split, and their names for messages."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab2_lite.data.record_format import FILENAME_KEY
from deeplab2_lite.data.records import check_decodable, list_shards, scan_offsets
from deeplab2_lite.errors import UserError

_SEARCH_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class RecordIndex:
    """Where each record of a split lies. A record's index is its place in the order of the shards.

    Attributes:
        shards: The TFRecord files.
        shard_index: Each record's file, int32 [records].
        byte_offset: Where it begins in that file, int64 [records].
        byte_length: What it takes there, int64 [records].
    """

    shards: tuple[Path, ...]
    shard_index: np.ndarray
    byte_offset: np.ndarray
    byte_length: np.ndarray

    def __len__(self) -> int:
        return len(self.byte_offset)


def open_records(folder: str | Path, split: str) -> RecordIndex:
    """Finds the records of a split.

    Args:
        folder: The folder that a converter wrote.
        split: Name of the split, such as "train".

    Returns:
        Their index; the records themselves are not read.

    Raises:
        UserError: Shards are missing, cut off, or without any record.
    """
    shards = list_shards(folder, split)
    offsets = scan_offsets(shards)
    return RecordIndex(tuple(shards), *offsets)


def record_reader(index: RecordIndex, cache: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes a function that reads any record, for use in `tf.data.Dataset.map`.

    Args:
        index: The records.
        cache: Read all records now, and keep them in memory.

    Returns:
        A function from a record's index, int64 scalar, to the serialized record, scalar string.
    """
    with tf.device("/CPU:0"):
        # A process elsewhere may read, which has another current folder.
        paths = tf.constant([os.path.abspath(path) for path in index.shards])
        shard_index, byte_offset = tf.constant(index.shard_index), tf.constant(index.byte_offset)
        byte_length = tf.constant(index.byte_length)

    def read(record: tf.Tensor) -> tf.Tensor:
        path, offset = tf.gather(paths, tf.gather(shard_index, record)), tf.gather(byte_offset, record)
        # One read takes the record, and no byte of the next.
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[path],
            compression_type="",
            buffer_size=tf.gather(byte_length, record),
            byte_offsets=[offset],
        )
        records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
        return records.take(1).get_single_element()

    if not cache:
        return read
    with tf.device("/CPU:0"):
        everything = tf.data.Dataset.range(len(index)).map(read, tf.data.AUTOTUNE, deterministic=True)
        contents = everything.batch(len(index)).get_single_element()
    return lambda record: tf.gather(contents, record)


def record_names(index: RecordIndex, records: Iterable[int]) -> list[str]:
    """Names records for messages.

    Args:
        index: The records of the split.
        records: Indices of some.

    Returns:
        For each its shard, its place therein (from 0) and its image, such as
        "train-00001-of-00004.tfrecord record 17 (frankfurt_0001.png)".
    """
    records = list(map(int, records))
    names = []
    for record, filename in zip(records, record_filenames(index, records), strict=True):
        shard = index.shard_index[record]
        place = record - int(np.searchsorted(index.shard_index, shard))
        names.append(f"{index.shards[shard].name} record {place} ({filename})")
    return names


def record_filenames(index: RecordIndex, records: Iterable[int]) -> list[str]:
    """Returns the image file names of records, as the converter stored them.

    Args:
        index: The records of the split.
        records: Indices of some.

    Returns:
        Their file names, "" where none was stored.
    """
    read = record_reader(index)
    feature = {FILENAME_KEY: tf.io.FixedLenFeature([], tf.string, "")}
    names = []
    for record in map(int, records):
        filename = tf.io.parse_single_example(read(tf.constant(record, tf.int64)), feature)[FILENAME_KEY]
        names.append(filename.numpy().decode(errors="replace"))
    return names


def reading_error(error: Exception, index: RecordIndex) -> UserError | None:
    """Turns what an iterator raised over a faulty record into one line.

    Args:
        error: Raised by a step that reads from `training_dataset` or `evaluation_dataset`.
        index: The records that were read.

    Returns:
        The error to raise in its place, naming the folder and image, or the data service; None if it is about
        neither.
    """
    text, folder = str(error), index.shards[0].parent
    # The network and its losses may raise the same types; only iterators bear this in their stack of nodes.
    if "GetNext" not in text or not isinstance(error, (tf.errors.InvalidArgumentError, tf.errors.DataLossError)):
        return None
    refused = refusal(text)
    if refused is not None:
        return UserError(f"{folder}: {refused}")
    service = re.search(r"UserError: (data\.service: .*)", text)
    if service:
        return UserError(service[1])
    found = _faulty_record(index)
    if found is not None:
        return UserError(f"{folder}: {found}")
    return UserError(f"{folder}: a record cannot be read; 'deeplab2-lite inspect {folder}' says which")


def _faulty_record(index: RecordIndex) -> str | None:
    """Names the first record that cannot be decoded, and why; None if none is found in a minute."""
    read, end = record_reader(index), time.monotonic() + _SEARCH_SECONDS
    place = 0
    checked = tf.data.Dataset.range(len(index)).map(
        lambda record: check_decodable(read(record)), tf.data.AUTOTUNE, deterministic=True
    )
    try:
        for _ in checked:
            place += 1
            if time.monotonic() > end:
                return None
    except tf.errors.OpError:
        return f"{_name_and_fault(index, read, place)}; 'deeplab2-lite inspect' lists all that are at fault"
    return None


def _name_and_fault(index: RecordIndex, read: Callable[[tf.Tensor], tf.Tensor], record: int) -> str:
    shard = index.shard_index[record]
    name = f"{index.shards[shard].name} record {record - int(np.searchsorted(index.shard_index, shard))}"
    try:
        serialized = read(tf.constant(record, tf.int64))
    except tf.errors.OpError:
        return f"{name}: damaged; its checksum (CRC) is not that of its data"
    try:
        features = tf.io.parse_single_example(serialized, {FILENAME_KEY: tf.io.FixedLenFeature([], tf.string, "")})
        filename = features[FILENAME_KEY].numpy().decode(errors="replace")
        name += f" ({filename})" if filename else ""
        check_decodable(serialized)
    except tf.errors.OpError as error:
        said = re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*", "", error.message.splitlines()[0])
        return f"{name}: cannot be decoded ({said})"
    return f"{name}: cannot be read"


def refusal(text: str) -> str | None:
    """Finds what `records.require` said in TensorFlow's message.

    Args:
        text: The message.

    Returns:
        The line; None if it holds none.
    """
    refused = re.search(r"assertion failed: \[(.*?)\]\s*(?:\[\[|\n|$)", text, re.DOTALL)
    # There, quotes and backslashes have backslashes before them.
    return re.sub(r"\\(['\"\\])", r"\1", refused[1]) if refused else None
