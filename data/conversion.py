"""What all converters share: many processes, whole shards or none, and resuming.

A conversion writes shard after shard under a temporary name and notes each finished one in
`conversion.json`. Run again, it keeps the shards whose sources and settings are still the same. Records
come out in the order of the items, so the files do not depend on the number of processes.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from absl import logging
from tqdm import tqdm

import deeplab2_lite
from deeplab2_lite import dataset_info
from deeplab2_lite.data.shards import shard_name
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import atomic_path, write_text_atomically

MANIFEST_NAME = "conversion.json"
RECORDS_PER_SHARD = 128

_SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
# Enough work in flight that no process waits for the writer, little enough to fit into memory.
_ITEMS_IN_FLIGHT_PER_PROCESS = 4


class Converter(Protocol):
    """Turns one source item into a record; a frozen dataclass, so that its `repr` tells its settings.

    Instances and items travel to other processes by pickle, and their modules should not import
    TensorFlow, which takes seconds in each process.
    """

    info: DatasetInfo

    def __call__(self, item: Any) -> bytes:
        """Returns the serialized record of an item, or raises a UserError that names its file."""
        ...

    def files(self, item: Any) -> Sequence[Path]:
        """Returns the files that an item is made of: if one changes, its shard is made anew."""
        ...


class _Shard(NamedTuple):
    path: Path
    items: Sequence[Any]
    fingerprint: str


def convert(
    converter: Converter,
    splits: Mapping[str, Sequence[Any]],
    output: str | Path,
    *,
    num_processes: int = 1,
    records_per_shard: int = RECORDS_PER_SHARD,
    overwrite: bool = False,
) -> Path:
    """Writes TFRecord shards and their `dataset_info.yaml`.

    Args:
        converter: Makes one record of one item.
        splits: Source items by split; each item's `repr` tells all about it.
        output: Folder to write into; made if need be. An unfinished conversion of the same settings is
            resumed there, a finished one is brought up to date.
        num_processes: Processes that convert; 1 works in this one. A script that asks for more must
            guard its entry with `if __name__ == "__main__"`.
        records_per_shard: The most records of one shard.
        overwrite: Remove all records from `output` first, this conversion's or another's.

    Returns:
        The path of `dataset_info.yaml`, which is written last.

    Raises:
        UserError: A source is at fault, the folder holds other records, or it cannot be written.
    """
    output = Path(output)
    _check_arguments(splits, num_processes, records_per_shard)
    shards = _plan(converter, splits, output, records_per_shard)
    settings = _settings(converter, shards)
    try:
        output.mkdir(parents=True, exist_ok=True)
        finished = _prepare(output, settings, overwrite)
        pending = [shard for shard in shards if not _is_finished(shard, finished)]
        logging.info("%s: %d of %d shards to write", output, len(pending), len(shards))
        info_path = output / dataset_info.FILE_NAME
        if pending:
            # Without it, nobody takes the folder for complete.
            info_path.unlink(missing_ok=True)
            _write_shards(converter, pending, num_processes, output, settings, finished)
        sizes = {split: len(items) for split, items in splits.items()}
        return dataclasses.replace(converter.info, splits=sizes).save(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error})") from None


def _check_arguments(splits: Mapping[str, Sequence[Any]], num_processes: int, records_per_shard: int) -> None:
    for name, value in (("num_processes", num_processes), ("records_per_shard", records_per_shard)):
        if value < 1:
            raise UserError(f"{name}: expected 1 or more, got {value}")
    if not splits:
        raise UserError("splits: expected at least one split, such as 'train'")
    for split, items in splits.items():
        if not _SPLIT_NAME.fullmatch(split):
            raise UserError(f"split '{split}': expected a name of letters, digits and ._+-")
        if not items:
            raise UserError(f"split '{split}': there is nothing to convert")


def _plan(
    converter: Converter, splits: Mapping[str, Sequence[Any]], output: Path, records_per_shard: int
) -> list[_Shard]:
    shards = []
    for split, items in splits.items():
        count = -(-len(items) // records_per_shard)
        bounds = [len(items) * i // count for i in range(count + 1)]
        for index, (begin, end) in enumerate(itertools.pairwise(bounds)):
            chosen = items[begin:end]
            fingerprint = _digest(_describe(converter, item) for item in chosen)
            shards.append(_Shard(output / shard_name(split, index, count), chosen, fingerprint))
    return shards


def _settings(converter: Converter, shards: Sequence[_Shard]) -> str:
    items = (f"{shard.path.name} {item!r}" for shard in shards for item in shard.items)
    return _digest(itertools.chain([deeplab2_lite.__version__, repr(converter)], items))


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


def _prepare(output: Path, settings: str, overwrite: bool) -> dict[str, dict[str, Any]]:
    """Returns the finished shards that the folder tells of, after making sure that they are ours."""
    manifest_path = output / MANIFEST_NAME
    for name in ("*.tfrecord", MANIFEST_NAME, dataset_info.FILE_NAME):
        for leftover in output.glob(f".{name}.*.tmp"):
            leftover.unlink(missing_ok=True)
    if manifest_path.is_file() and not overwrite:
        try:
            manifest = json.loads(manifest_path.read_text())
            if manifest["settings"] == settings:
                return dict(manifest["shards"])
        except (ValueError, KeyError, TypeError):
            pass
    written = sorted({*output.glob("*.tfrecord"), *output.glob(dataset_info.FILE_NAME)})
    if written and not overwrite:
        raise UserError(
            f"{output}: holds {written[0].name} of a conversion with other sources or settings; choose an empty "
            "folder, or give --overwrite to replace it"
        )
    for path in (*written, manifest_path):
        path.unlink(missing_ok=True)
    return {}


def _is_finished(shard: _Shard, finished: Mapping[str, Mapping[str, Any]]) -> bool:
    entry = finished.get(shard.path.name)
    if entry is None or not shard.path.is_file():
        return False
    return dict(entry) == {"fingerprint": shard.fingerprint, "bytes": shard.path.stat().st_size}


def _write_shards(
    converter: Converter,
    shards: Sequence[_Shard],
    num_processes: int,
    output: Path,
    settings: str,
    finished: dict[str, dict[str, Any]],
) -> None:
    items = [item for shard in shards for item in shard.items]
    # disable=None: a bar on terminals alone; log files get a line for each shard.
    with tqdm(total=len(items), desc=output.name, unit="image", disable=None) as progress:
        records = _map_in_order(converter, items, num_processes)
        try:
            # Before the first shard, so that a shard never lies there without what tells whose it is.
            _write_manifest(output, settings, finished)
            for shard in shards:
                _write_shard(shard, itertools.islice(records, len(shard.items)), progress.update)
                finished[shard.path.name] = {"fingerprint": shard.fingerprint, "bytes": shard.path.stat().st_size}
                _write_manifest(output, settings, finished)
                logging.info("%s: %d records", shard.path, len(shard.items))
        finally:
            records.close()


def _write_manifest(output: Path, settings: str, finished: Mapping[str, Mapping[str, Any]]) -> None:
    manifest = json.dumps({"settings": settings, "shards": finished}, indent=1)
    write_text_atomically(output / MANIFEST_NAME, manifest + "\n")


def _write_shard(shard: _Shard, records: Iterable[bytes], on_record: Callable[[], Any]) -> None:
    # TensorFlow takes seconds to import: the processes that convert import this module, and need it not.
    import tensorflow as tf

    with atomic_path(shard.path) as temporary:
        try:
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for record in records:
                    writer.write(record)
                    on_record()
        except tf.errors.OpError as error:
            raise UserError(f"{shard.path}: cannot be written ({' '.join(error.message.split())})") from None


def _map_in_order(
    function: Callable[[Any], bytes], items: Sequence[Any], num_processes: int
) -> Generator[bytes, None, None]:
    """Yields `function(item)` for each item in order; a generator, so that closing it stops the work."""
    if num_processes == 1:
        yield from map(function, items)
        return
    # Forked children would inherit TensorFlow's threads and locks in whatever state they are.
    executor = ProcessPoolExecutor(min(num_processes, len(items)), multiprocessing.get_context("spawn"))
    try:
        remaining = iter(items)
        first = itertools.islice(remaining, num_processes * _ITEMS_IN_FLIGHT_PER_PROCESS)
        running: collections.deque[Future[bytes]] = collections.deque(executor.submit(function, item) for item in first)
        while running:
            record = running.popleft().result()
            running.extend(executor.submit(function, item) for item in itertools.islice(remaining, 1))
            yield record
    except BrokenProcessPool:
        raise UserError(
            "a process of the conversion died, perhaps for want of memory (or in a script without "
            "`if __name__ == '__main__'`); run it again with a smaller num_processes and it goes on where it stopped"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
