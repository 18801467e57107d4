"""Inspecting a folder of records: what it holds, and what is wrong with it, record by record.

One damaged record or shard never hides the others: records are found by their lengths, read one by one
through the path of training, and what cannot be read is a finding.
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from deeplab2_lite.data.inspection.findings import Fault, Finding, record_place
from deeplab2_lite.data.inspection.manifest import check_manifest, check_splits
from deeplab2_lite.data.inspection.records import InspectedRecord, RecordInspector
from deeplab2_lite.data.inspection.shards import SplitShards, WalkedShard, find_splits, walk_shard
from deeplab2_lite.data.inspection.statistics import SplitStatistics, SplitSummary
from deeplab2_lite.data.inspection.suggestions import suggest
from deeplab2_lite.data.record_index import RecordIndex, record_reader
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError, nearest_name

# Enough work in flight that no thread waits, little enough to fit into memory.
_RECORDS_IN_FLIGHT_PER_THREAD = 2


class Readable(NamedTuple):
    """The records of a split that training can read.

    Attributes:
        index: Where all of the split lie.
        records: Numbers of those that were inspected and can be read, ascending.
    """

    index: RecordIndex
    records: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """What a folder of records holds, and what is wrong with it.

    Attributes:
        folder: The folder.
        info: The label space that its records were read by.
        splits: What each split holds.
        findings: All that is wrong: errors first, and by split, shard and record.
        suggestions: Settings that follow from the figures, a line each.
        readable: The records that can be read, by split.
    """

    folder: Path
    info: DatasetInfo
    splits: Mapping[str, SplitSummary]
    findings: tuple[Finding, ...]
    suggestions: tuple[str, ...]
    readable: Mapping[str, Readable]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(finding for finding in self.findings if finding.is_error)

    @property
    def hints(self) -> tuple[Finding, ...]:
        """The findings that are hints."""
        return tuple(finding for finding in self.findings if not finding.is_error)


def inspect_folder(
    folder: str | Path,
    info: DatasetInfo,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    num_threads: int = 1,
) -> Inspection:
    """Inspects a folder of records.

    Args:
        folder: The folder that a converter wrote, or one of DeepLab2's records.
        info: The label space to read them by.
        splits: Names of splits; None takes all that are found.
        limit: Look at no more records of each split, spread evenly over it, and leave checksums out; None looks
            at all.
        num_threads: Threads that decode; the result does not depend on it.

    Returns:
        What was found.

    Raises:
        UserError: The folder or a split is not there, or a number is out of its range.
    """
    for name, value in (("limit", limit), ("num_threads", num_threads)):
        if value is not None and value < 1:
            raise UserError(f"{name}: expected 1 or more, got {value}")
    folder = Path(folder)
    found = find_splits(folder)
    chosen = _choose(folder, found, splits, info)
    walked = {split: {path: walk_shard(path) for path in shards.paths} for split, shards in chosen.items()}
    inspector = _FolderInspector(info, limit, num_threads)
    if splits is None:
        inspector.findings += check_splits(info, found)
    inspector.findings += check_manifest(folder, info, walked, with_checksums=limit is None)
    for split, shards in chosen.items():
        inspector.inspect(split, shards, walked[split])
    order = {split: place for place, split in enumerate(chosen)}
    return Inspection(
        folder=folder,
        info=info,
        splits=inspector.summaries,
        findings=tuple(sorted(inspector.findings, key=lambda finding: _place(finding, order))),
        suggestions=tuple(suggest(inspector.summaries, info, complete=limit is None)),
        readable=inspector.readable,
    )


class _FolderInspector:
    """Inspects one split after another, and knows what the earlier ones hold."""

    def __init__(self, info: DatasetInfo, limit: int | None, num_threads: int) -> None:
        self.findings: list[Finding] = []
        self.summaries: dict[str, SplitSummary] = {}
        self.readable: dict[str, Readable] = {}
        self._info, self._limit, self._num_threads = info, limit, num_threads
        self._inspector = RecordInspector(info)
        self._images = _FirstPlaces("duplicate_image", "shared_image", "the image is the same as that of")
        self._names = _FirstPlaces("duplicate_name", "shared_name", "has the file name of")

    def inspect(self, split: str, shards: SplitShards, walked: Mapping[Path, WalkedShard]) -> None:
        self.findings += [Finding("shard", message, split, name) for name, message in shards.faults]
        self.findings += [
            Finding("shard", shard.damage, split, path.name) for path, shard in walked.items() if shard.damage
        ]
        counts = [len(shard.byte_offset) for shard in walked.values()]
        index = RecordIndex(
            tuple(walked),
            np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            np.concatenate([shard.byte_offset for shard in walked.values()]),
            np.concatenate([shard.byte_length for shard in walked.values()]),
        )
        statistics, readable = SplitStatistics(self._info), []
        records = _spread(len(index), self._limit)
        starts = np.cumsum([0, *counts])
        # disable=None: a bar on terminals alone.
        with tqdm(total=len(records), desc=split, unit="record", disable=None) as progress:
            inspect = functools.partial(self._inspector.inspect, record_reader(index))
            for number, record in zip(records, _map_in_order(inspect, records, self._num_threads), strict=True):
                shard = int(index.shard_index[number])
                self._note(split, index.shards[shard].name, number - int(starts[shard]), record)
                if record.content is not None:
                    statistics.add(record.filename, record.content)
                    readable.append(number)
                progress.update()
        self._fold_void(split, len(readable))
        size = sum(shard.bytes for shard in walked.values())
        self.summaries[split] = statistics.summary(len(walked), size, len(index), len(records))
        self.readable[split] = Readable(index, tuple(readable))

    def _note(self, split: str, shard: str, place: int, record: InspectedRecord) -> None:
        faults = list(record.faults)
        here = record_place(shard, place, record.filename)
        if record.content is not None:
            faults += self._images.check(record.content.image_digest, split, here)
        if record.filename:
            faults += self._names.check(record.filename, split, here)
        self.findings += [Finding(*fault, split, shard, place, record.filename) for fault in faults]

    def _fold_void(self, split: str, readable: int) -> None:
        """Makes one hint of void labels where a split has no others, as published test splits have."""
        others = [finding for finding in self.findings if (finding.kind, finding.split) != ("void", split)]
        if readable and len(self.findings) - len(others) == readable:
            message = "all labels are void: the split is good for predictions alone"
            self.findings = [*others, Finding("unlabelled", message, split, f"{split}-*")]


class _FirstPlaces:
    """Remembers where each value was seen first, in each split."""

    def __init__(self, kind_within: str, kind_across: str, text: str) -> None:
        self._kind_within, self._kind_across, self._text = kind_within, kind_across, text
        self._seen: dict[str, dict[Any, str]] = {}

    def check(self, value: Any, split: str, here: str) -> list[Fault]:
        faults = []
        for other, places in self._seen.items():
            if value not in places:
                continue
            if other == split:
                faults.append(Fault(self._kind_within, f"{self._text} {places[value]}"))
            else:
                faults.append(Fault(self._kind_across, f"{self._text} {places[value]}, which is in '{other}'"))
        self._seen.setdefault(split, {}).setdefault(value, here)
        return faults


def _choose(
    folder: Path, found: Mapping[str, SplitShards], splits: Sequence[str] | None, info: DatasetInfo
) -> dict[str, SplitShards]:
    """Returns the splits to inspect, those that the label space names first."""
    for split in splits or ():
        if split not in found:
            raise UserError(f"{folder}: no shards of split '{split}'{nearest_name(split, found)}")
    named = [split for split in info.splits if split in found]
    ordered = list(dict.fromkeys([*named, *found]))
    return {split: found[split] for split in ordered if splits is None or split in splits}


def _spread(count: int, limit: int | None) -> list[int]:
    if limit is None or limit >= count:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * limit) for i in range(limit)]


def _map_in_order(
    inspect: Callable[[int], InspectedRecord], records: Iterable[int], num_threads: int
) -> Iterator[InspectedRecord]:
    # Decoding is TensorFlow's, which runs beside other threads of Python.
    executor = ThreadPoolExecutor(num_threads)
    try:
        remaining = iter(records)
        first = itertools.islice(remaining, num_threads * _RECORDS_IN_FLIGHT_PER_THREAD)
        running = collections.deque(executor.submit(inspect, record) for record in first)
        while running:
            result = running.popleft().result()
            running.extend(executor.submit(inspect, record) for record in itertools.islice(remaining, 1))
            yield result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _place(finding: Finding, order: Mapping[str, int]) -> tuple[bool, int, str, int]:
    record = -1 if finding.record is None else finding.record
    return not finding.is_error, order.get(finding.split, -1), finding.file, record
