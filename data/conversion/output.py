"""What a conversion is, and how its folder comes about: planned, opened, filled shard by shard, finished.

The steps are those of every way to run a conversion: in processes of one machine (`conversion.py`), or as an
Apache Beam pipeline (`conversion_beam.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from absl import logging

import deeplab2_lite
from deeplab2_lite import dataset_info
from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord, LabelStatistics, sum_statistics
from deeplab2_lite.data.conversion.manifest import MANIFEST_NAME, Manifest, ShardEntry, file_sha256, load_manifest
from deeplab2_lite.data.conversion.shard_reports import collect_reports, discard_reports
from deeplab2_lite.data.shards import shard_name
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import atomic_path

RECORDS_PER_SHARD = 128

_SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


class Converter(Protocol):
    """Turns one source item into a record; a frozen dataclass, so that its `repr` tells its settings.

    Instances and items travel to other processes by pickle, and their modules should not import
    TensorFlow, which takes seconds in each process.
    """

    info: DatasetInfo

    def __call__(self, item: Any) -> ConvertedRecord:
        """Returns the record of an item, or raises a UserError that names its file."""
        ...

    def files(self, item: Any) -> Sequence[Path]:
        """Returns the files that an item is made of: if one changes, its shard is made anew."""
        ...


class Conversion(NamedTuple):
    """What is to be converted, and how.

    Attributes:
        converter: Makes one record of one item.
        splits: Source items by split; each item's `repr` tells all about it.
        records_per_shard: The most records of one shard.
    """

    converter: Converter
    splits: Mapping[str, Sequence[Any]]
    records_per_shard: int = RECORDS_PER_SHARD


class PlannedShard(NamedTuple):
    """A shard that a conversion is to have.

    Attributes:
        name: Its file name.
        split: Its split.
        items: What its records are made of, in order.
        fingerprint: Digest of the items, and of their files' sizes and times.
    """

    name: str
    split: str
    items: Sequence[Any]
    fingerprint: str


def plan_shards(conversion: Conversion) -> list[PlannedShard]:
    """Divides the items of each split over shards of nearly equal size.

    Args:
        conversion: What to convert.

    Returns:
        The shards, split by split.

    Raises:
        UserError: There is nothing to convert, a split's name will not do, or a source file is not there.
    """
    if conversion.records_per_shard < 1:
        raise UserError(f"records_per_shard: expected 1 or more, got {conversion.records_per_shard}")
    _check_splits(conversion.splits)
    shards = []
    for split, items in conversion.splits.items():
        count = -(-len(items) // conversion.records_per_shard)
        bounds = [len(items) * i // count for i in range(count + 1)]
        for index, (begin, end) in enumerate(itertools.pairwise(bounds)):
            chosen = items[begin:end]
            fingerprint = _digest(_describe(conversion.converter, item) for item in chosen)
            shards.append(PlannedShard(shard_name(split, index, count), split, chosen, fingerprint))
    return shards


def conversion_digest(conversion: Conversion, shards: Sequence[PlannedShard]) -> str:
    """Returns a digest of the converter, its settings, and which item goes where."""
    items = (f"{shard.name} {item!r}" for shard in shards for item in shard.items)
    return _digest(itertools.chain([deeplab2_lite.__version__, repr(conversion.converter)], items))


def local_folder(output: str | Path) -> Path:
    """Returns a folder as a path.

    Args:
        output: What the user gave.

    Raises:
        UserError: It is the address of something that is not mounted as a folder.
    """
    if "://" in str(output):
        raise UserError(
            f"{output}: expected a folder, not an address; mount it, write to a folder, or copy the records there after"
        )
    return Path(output)


def open_output(output: Path, digest: str, overwrite: bool) -> Manifest:
    """Makes sure that a folder is empty, or holds this very conversion.

    Args:
        output: The folder to write into.
        digest: Of the conversion.
        overwrite: Remove what other conversions wrote.

    Returns:
        What the folder is known to hold.

    Raises:
        UserError: It holds other records.
    """
    for name in ("*.tfrecord", MANIFEST_NAME, dataset_info.FILE_NAME):
        for leftover in output.glob(f".{name}.*.tmp"):
            leftover.unlink(missing_ok=True)
    if not overwrite:
        with contextlib.suppress(UserError):
            manifest = load_manifest(output)
            if manifest is not None and manifest.settings == digest:
                # Of a pipeline that nobody saw the end of.
                collect_reports(output, manifest)
                return manifest
    written = sorted({*output.glob("*.tfrecord"), *output.glob(dataset_info.FILE_NAME)})
    if written and not overwrite:
        raise UserError(
            f"{output}: holds {written[0].name} of a conversion with other sources or settings; choose an empty "
            "folder, or give --overwrite to replace it"
        )
    for path in (*written, output / MANIFEST_NAME):
        path.unlink(missing_ok=True)
    discard_reports(output)
    return Manifest(digest)


def pending_shards(output: Path, shards: Sequence[PlannedShard], manifest: Manifest) -> list[PlannedShard]:
    """Finds what is still to be written, and if it is anything, marks the folder as incomplete.

    Args:
        output: The folder to write into.
        shards: All shards of the conversion.
        manifest: What the folder is known to hold; shards that are not there or out of date leave it.

    Returns:
        The shards to write.
    """
    pending = []
    for shard in shards:
        entry, path = manifest.shards.get(shard.name), output / shard.name
        if entry is None or entry.fingerprint != shard.fingerprint or not _has_size(path, entry.bytes):
            manifest.shards.pop(shard.name, None)
            pending.append(shard)
    logging.info("%s: %d of %d shards to write", output, len(pending), len(shards))
    if pending:
        # Without it, nobody takes the folder for complete.
        (output / dataset_info.FILE_NAME).unlink(missing_ok=True)
        # Before the first shard, so that a shard never lies there without what tells whose it is.
        manifest.splits = {}
        manifest.save(output)
    return pending


def finish(output: Path, conversion: Conversion, shards: Sequence[PlannedShard], manifest: Manifest) -> Path:
    """Writes the sums into the manifest, and `dataset_info.yaml` last.

    Args:
        output: The folder written.
        conversion: What was converted.
        shards: All its shards.
        manifest: Entries of all shards.

    Returns:
        The path of `dataset_info.yaml`.
    """
    info = conversion.converter.info
    by_split: dict[str, list[str]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard.name)
    manifest.shards = {shard.name: manifest.shards[shard.name] for shard in shards}
    manifest.summarize(by_split, info)
    manifest.save(output)
    sizes = {split: len(items) for split, items in conversion.splits.items()}
    return dataclasses.replace(info, splits=sizes, stored=None).save(output)


def write_shard(path: Path, fingerprint: str, records: Iterable[ConvertedRecord], num_classes: int) -> ShardEntry:
    """Writes one shard, whole or not at all.

    Args:
        path: The file.
        fingerprint: Of its sources.
        records: Its records, in order.
        num_classes: Of the label space.

    Returns:
        Its entry in the manifest.

    Raises:
        UserError: It cannot be written.
    """
    # TensorFlow takes seconds to import: the processes that convert import this module, and need it not.
    import tensorflow as tf

    statistics: list[LabelStatistics] = []
    with atomic_path(path) as temporary:
        try:
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for record in records:
                    writer.write(record.serialized)
                    statistics.append(record.statistics)
        except tf.errors.OpError as error:
            raise UserError(f"{path}: cannot be written ({' '.join(error.message.split())})") from None
        size, sha256 = temporary.stat().st_size, file_sha256(temporary)
    return ShardEntry(fingerprint, size, sha256, sum_statistics(statistics, num_classes))


def _check_splits(splits: Mapping[str, Sequence[Any]]) -> None:
    if not splits:
        raise UserError("splits: expected at least one split, such as 'train'")
    for split, items in splits.items():
        if not _SPLIT_NAME.fullmatch(split):
            raise UserError(f"split '{split}': expected a name of letters, digits and ._+-")
        if not items:
            raise UserError(f"split '{split}': there is nothing to convert")


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _describe(converter: Converter, item: Any) -> str:
    states = []
    for path in converter.files(item):
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        states.append((status.st_size, status.st_mtime_ns))
    return f"{item!r} {states}"


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()
