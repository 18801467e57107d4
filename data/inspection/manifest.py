"""Whether a folder holds what its manifest and its `dataset_info.yaml` say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from deeplab2_lite.data.conversion.manifest import MANIFEST_NAME, Manifest, ShardEntry, file_sha256, load_manifest
from deeplab2_lite.data.inspection.findings import Finding
from deeplab2_lite.data.inspection.shards import WalkedShard
from deeplab2_lite.dataset_info import FILE_NAME, DatasetInfo
from deeplab2_lite.errors import UserError


def check_splits(info: DatasetInfo, found: Collection[str]) -> list[Finding]:
    """Tells which splits are in `dataset_info.yaml` but not in the folder.

    Args:
        info: The label space of the folder.
        found: Splits that have shards there.

    Returns:
        A finding for each.
    """
    absent = [split for split in info.splits if split not in found]
    return [Finding("shard", f"names split '{split}', which has no shards", split, FILE_NAME) for split in absent]


def check_manifest(
    folder: Path, info: DatasetInfo, splits: Mapping[str, Mapping[Path, WalkedShard]], with_checksums: bool
) -> list[Finding]:
    """Holds a folder against what is said of it.

    Args:
        folder: The folder of records.
        info: Its label space.
        splits: The shards that are there, by split.
        with_checksums: Also compare the SHA-256 of each shard.

    Returns:
        What does not fit.
    """
    findings = [] if not info.splits else _check_counts(info, splits)
    try:
        manifest = load_manifest(folder)
    except UserError as error:
        return [*findings, Finding("shard", str(error).removeprefix(f"{folder / MANIFEST_NAME}: "), "", MANIFEST_NAME)]
    if manifest is None:
        return findings
    if not manifest.splits:
        text = "the conversion has not come to its end; the same command goes on with it"
        findings.append(Finding("unfinished", text, "", MANIFEST_NAME))
    for split, shards in splits.items():
        findings += _check_shards(split, shards, manifest, with_checksums)
    return findings


def _check_counts(info: DatasetInfo, splits: Mapping[str, Mapping[Path, WalkedShard]]) -> list[Finding]:
    findings = []
    for split, shards in splits.items():
        found, said = sum(len(shard.byte_offset) for shard in shards.values()), info.splits.get(split)
        if said is None:
            findings.append(Finding("shard", f"does not name split '{split}'", split, FILE_NAME))
        elif found != said:
            findings.append(
                Finding("shard", f"says {said} records of '{split}', the shards hold {found}", split, FILE_NAME)
            )
    return findings


def _check_shards(
    split: str, shards: Mapping[Path, WalkedShard], manifest: Manifest, with_checksums: bool
) -> list[Finding]:
    findings = []
    for path, shard in shards.items():
        entry = manifest.shards.get(path.name)
        if entry is None:
            message = f"is none of the shards in {MANIFEST_NAME}"
        else:
            message = _difference(path, shard, entry, with_checksums)
        if message:
            findings.append(Finding("shard", message, split, path.name))
    return findings


def _difference(path: Path, shard: WalkedShard, entry: ShardEntry, with_checksums: bool) -> str | None:
    records = len(shard.byte_offset)
    if (shard.bytes, records) != (entry.bytes, entry.statistics.records):
        said = f"{MANIFEST_NAME} says {entry.bytes} and {entry.statistics.records}"
        return f"has {shard.bytes} bytes and {records} records, {said}"
    try:
        if with_checksums and file_sha256(path) != entry.sha256:
            return f"its SHA-256 is not that in {MANIFEST_NAME}: it was changed after the conversion"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None
