"""Finding the TFRecord shards of a split, and where each record begins."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab2_lite.errors import UserError, nearest_name

# A record is its length (uint64), a CRC of the length (4 bytes), the data, and a CRC of the data (4 bytes).
_HEADER_BYTES = 12
_FOOTER_BYTES = 4
SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<index>\d{5,})-of-(?P<count>\d{5,})(?P<suffix>|\.tfrecord)")


class RecordOffsets(NamedTuple):
    """Where records begin.

    Attributes:
        shard_index: Position of each record's shard in the list scanned, int32 [records].
        byte_offset: Where it begins in that shard, int64 [records], in bytes.
        byte_length: What it takes there, with its length and checksums, int64 [records].
    """

    shard_index: np.ndarray
    byte_offset: np.ndarray
    byte_length: np.ndarray


def shard_name(split: str, index: int, count: int, suffix: str = ".tfrecord") -> str:
    """Returns the file name of a shard, such as `train-00003-of-00008.tfrecord`."""
    return f"{split}-{index:05d}-of-{count:05d}{suffix}"


def list_shards(folder: str | Path, split: str) -> list[Path]:
    """Lists the shards of a split in order.

    Args:
        folder: The folder that a converter wrote.
        split: Name of the split, such as "train".

    Returns:
        All paths `{split}-%05d-of-%05d.tfrecord`, or without suffix, as TF-slim names its own.

    Raises:
        UserError: The folder or the split is not there, a shard is missing, or two conversions are mixed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected TFRecord shards, as 'deeplab2-lite convert' writes them")
    found: dict[str, set[tuple[int, str]]] = {}
    for path in folder.iterdir():
        match = SHARD_NAME.fullmatch(path.name)
        if match:
            found.setdefault(match["split"], set()).add((int(match["count"]), match["suffix"]))
    if split not in found:
        hint = nearest_name(split, found) if found else "; the folder holds no shards at all"
        raise UserError(f"{folder}: no shards of split '{split}', such as {shard_name(split, 0, 1)}{hint}")
    if len(found[split]) > 1:
        names = " and ".join(f"{split}-*-of-{count:05d}{suffix}" for count, suffix in sorted(found[split]))
        raise UserError(f"{folder}: shards of two conversions are mixed: {names}")
    count, suffix = next(iter(found[split]))
    paths = [folder / shard_name(split, i, count, suffix) for i in range(count)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{folder}: {missing[0]}{more} missing; expected all {count} shards of '{split}'")
    return paths


def scan_offsets(shards: Sequence[str | Path]) -> RecordOffsets:
    """Finds where each record begins by walking the lengths, without reading the data.

    Args:
        shards: TFRecord files, not compressed.

    Returns:
        The records in order of the files and their place therein.

    Raises:
        UserError: A file is cut off or no TFRecord file, or there is no record in any.
    """
    per_shard = [_scan_shard(Path(path)) for path in shards]
    # The last boundary is the end of the file.
    counts = [len(boundaries) - 1 for boundaries in per_shard]
    if not sum(counts):
        where = f"{shards[0]}: " if len(shards) else ""
        raise UserError(f"{where}no records in {len(shards)} shard(s); expected at least one")
    shard_index = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    byte_offset = np.concatenate([boundaries[:-1] for boundaries in per_shard])
    return RecordOffsets(shard_index, byte_offset, np.concatenate([np.diff(boundaries) for boundaries in per_shard]))


def _scan_shard(path: Path) -> np.ndarray:
    boundaries = [0]
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            while boundaries[-1] < size:
                position = boundaries[-1]
                file.seek(position)
                header = file.read(8)
                end = position + _HEADER_BYTES + _FOOTER_BYTES
                if len(header) == 8:
                    end += struct.unpack("<Q", header)[0]
                if end > size:
                    raise UserError(
                        f"{path}: record {len(boundaries) - 1} (at byte {position}) goes beyond the end of the file at "
                        f"{size}; the file is cut off or no TFRecord file"
                    )
                boundaries.append(end)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return np.array(boundaries, np.int64)
