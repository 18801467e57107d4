"""The manifest of a conversion, `conversion.json`: what it wrote, and what lies therein.

It says for each shard what it was made of, how many bytes it has and their SHA-256, and what its labels
hold; and when all are written, the sums by split and class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deeplab2_lite.data.conversion.label_statistics import LabelStatistics, sum_statistics
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import write_text_atomically

MANIFEST_NAME = "conversion.json"


@dataclass(frozen=True)
class ShardEntry:
    """A shard that is written.

    Attributes:
        fingerprint: Digest of its sources' names, sizes and times.
        bytes: Size of the file.
        sha256: Of the file, in hexadecimal.
        statistics: What its labels hold.
    """

    fingerprint: str
    bytes: int
    sha256: str
    statistics: LabelStatistics

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, as written to JSON."""
        return {
            "fingerprint": self.fingerprint,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "statistics": self.statistics.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ShardEntry:
        """Reads what `to_dict` returned."""
        statistics = LabelStatistics.from_dict(content["statistics"])
        return cls(content["fingerprint"], content["bytes"], content["sha256"], statistics)


@dataclass
class Manifest:
    """What a folder of records is known to hold.

    Attributes:
        settings: Digest of the converter, its settings, and the names of all items.
        shards: The finished shards by file name.
        splits: For each split of a finished conversion, records and, by class, pixels, segments and images.
    """

    settings: str
    shards: dict[str, ShardEntry] = field(default_factory=dict)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes `conversion.json`, one line for each shard and each class."""
        lines = [
            f' "settings": {json.dumps(self.settings)}',
            _block("splits", {split: _split_text(content) for split, content in self.splits.items()}),
            _block("shards", {name: json.dumps(entry.to_dict()) for name, entry in self.shards.items()}),
        ]
        write_text_atomically(folder / MANIFEST_NAME, "{\n" + ",\n".join(lines) + "\n}\n")

    def summarize(self, shards_by_split: Mapping[str, Sequence[str]], info: DatasetInfo) -> None:
        """Sums up the shards of each split by class, into `splits`."""
        self.splits = {
            split: describe_split(
                sum_statistics([self.shards[name].statistics for name in names], info.num_classes), info
            )
            for split, names in shards_by_split.items()
        }


def load_manifest(folder: str | Path) -> Manifest | None:
    """Reads the manifest of a folder of records.

    Args:
        folder: Where a converter wrote.

    Returns:
        The manifest; None if there is none.

    Raises:
        UserError: It is damaged, or was written by another version.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        shards = {name: ShardEntry.from_dict(entry) for name, entry in content["shards"].items()}
        return Manifest(content["settings"], shards, content["splits"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise UserError(f"{path}: not a manifest of this version; convert anew with --overwrite") from None


def describe_split(statistics: LabelStatistics, info: DatasetInfo) -> dict[str, Any]:
    """Names counts by class.

    Args:
        statistics: Counts of a split.
        info: The label space.

    Returns:
        `records`, `void_pixels`, and `classes`: pixels, segments and images by class name.
    """
    columns = zip(info.class_names, statistics.pixels, statistics.segments, statistics.images, strict=True)
    classes = {name: {"pixels": p, "segments": s, "images": i} for name, p, s, i in columns}
    return {"records": statistics.records, "void_pixels": statistics.void_pixels, "classes": classes}


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split_text(content: Mapping[str, Any]) -> str:
    classes = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in content["classes"].items())
    counts = f'"records": {content["records"]}, "void_pixels": {content["void_pixels"]}'
    return f'{{{counts}, "classes": {{\n{classes}\n  }}}}'


def _block(name: str, entries: Mapping[str, str]) -> str:
    text = ",\n".join(f"  {json.dumps(key)}: {value}" for key, value in entries.items())
    return f' "{name}": {{\n{text}\n }}' if entries else f' "{name}": {{}}'
