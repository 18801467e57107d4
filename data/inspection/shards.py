"""Finding the shards and records of a folder that may be damaged: what is wrong is told, and the rest is found."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab2_lite.data.shards import SHARD_NAME, shard_name
from deeplab2_lite.errors import UserError

# A record is its length (uint64), a CRC of the length (4 bytes), the data, and a CRC of the data (4 bytes).
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
_GZIP_START = b"\x1f\x8b"


class SplitShards(NamedTuple):
    """The shards of a split.

    Attributes:
        paths: Those that are there, in order.
        faults: What is wrong with them as a set: the name of a shard, and a clause about it.
    """

    paths: tuple[Path, ...]
    faults: tuple[tuple[str, str], ...]


class WalkedShard(NamedTuple):
    """Where the records of a shard begin.

    Attributes:
        byte_offset: Of each record that can be found, int64 [records].
        byte_length: What each takes, with its length and checksums, int64 [records].
        bytes: Size of the file.
        damage: Why no more records can be found; None where all are.
    """

    byte_offset: np.ndarray
    byte_length: np.ndarray
    bytes: int
    damage: str | None


def find_splits(folder: str | Path) -> dict[str, SplitShards]:
    """Finds all shards of a folder.

    Args:
        folder: Holds files `{split}-%05d-of-%05d.tfrecord`, or without suffix.

    Returns:
        The shards by split, in order of the splits' names.

    Raises:
        UserError: The folder is not there, or holds no shards at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected TFRecord shards, as 'deeplab2-lite convert' writes them")
    found: dict[str, list[re.Match[str]]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (match := SHARD_NAME.fullmatch(path.name)):
            found.setdefault(match["split"], []).append(match)
    if not found:
        raise UserError(f"{folder}: no shards; expected files such as {shard_name('train', 0, 1)}")
    return {split: _split_shards(folder, split, matches) for split, matches in sorted(found.items())}


def _split_shards(folder: Path, split: str, matches: Sequence[re.Match[str]]) -> SplitShards:
    paths = tuple(folder / match.string for match in matches)
    kinds = sorted({(int(match["count"]), match["suffix"]) for match in matches})
    if len(kinds) > 1:
        names = " and ".join(f"{split}-*-of-{count:05d}{suffix}" for count, suffix in kinds)
        return SplitShards(paths, ((paths[0].name, f"shards of two conversions are mixed: {names}"),))
    count, suffix = kinds[0]
    present = {path.name for path in paths}
    expected = [shard_name(split, i, count, suffix) for i in range(count)]
    faults = [
        (name, f"is missing; expected all {count} shards of '{split}'") for name in expected if name not in present
    ]
    faults += [(name, f"is none of the {count} shards of '{split}'") for name in sorted(present - set(expected))]
    return SplitShards(paths, tuple(faults))


def walk_shard(path: Path) -> WalkedShard:
    """Finds where records begin by walking their lengths, as far as these can be trusted.

    Args:
        path: A TFRecord file. Its data is not read.

    Returns:
        The records found, and what stopped the walk.
    """
    boundaries = [0]

    def stopped(damage: str | None, size: int) -> WalkedShard:
        begins = np.array(boundaries, np.int64)
        return WalkedShard(begins[:-1], np.diff(begins), size, damage)

    size = 0
    try:
        with path.open("rb", buffering=0) as file:
            size = file.seek(0, 2)
            while boundaries[-1] < size:
                position = boundaries[-1]
                file.seek(position)
                header = file.read(_HEADER.size)
                if position == 0 and header.startswith(_GZIP_START):
                    return stopped("compressed by gzip; expected plain TFRecords", size)
                place = f"record {len(boundaries) - 1} (at byte {position})"
                if len(header) < _HEADER.size:
                    return stopped(f"cut off in the middle of {place}", size)
                length, checksum = _HEADER.unpack(header)
                if _masked_crc32c(header[:8]) != checksum:
                    return stopped(f"the length of {place} is damaged: what follows cannot be found", size)
                end = position + _HEADER.size + length + _FOOTER_BYTES
                if end > size:
                    return stopped(f"cut off in the middle of {place}, which ends at byte {end} of {size}", size)
                boundaries.append(end)
    except OSError as error:
        return stopped(f"cannot be read ({error.strerror})", size)
    return stopped(None, size)


def _masked_crc32c(data: bytes) -> int:
    """Returns the checksum of TFRecord files: CRC-32C, rotated and offset, so that no data holds its own."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _crc32c_table()[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)
