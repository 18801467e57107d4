"""What workers that share nothing but the output folder tell of their shards: a hidden file beside each.

A report is renamed into place after its shard, so it never speaks of one that is not there. Whoever opens
the folder next takes the reports into the manifest.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from deeplab2_lite.data.conversion.manifest import Manifest, ShardEntry
from deeplab2_lite.files import write_text_atomically

_SUFFIX = ".report.json"
_PATTERN = f".*.tfrecord{_SUFFIX}"


def save_report(shard: Path, settings: str, outcome: ShardEntry | str) -> None:
    """Writes the report of a shard.

    Args:
        shard: The file that was to be written.
        settings: Digest of the conversion, as in its manifest.
        outcome: The shard's entry, or in one line what kept it from being written.

    Raises:
        OSError: The folder cannot be written.
    """
    is_written = isinstance(outcome, ShardEntry)
    content = {"entry": outcome.to_dict()} if is_written else {"error": outcome}
    write_text_atomically(
        shard.with_name(f".{shard.name}{_SUFFIX}"), json.dumps({"settings": settings, **content}) + "\n"
    )


def collect_reports(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Takes the reports of this conversion into the manifest, and removes them and those of any other.

    Args:
        folder: Where the workers wrote.
        manifest: Of the conversion; saved if a shard is added.

    Returns:
        What kept shards from being written, by their names.
    """
    errors: dict[str, str] = {}
    entries: dict[str, ShardEntry] = {}
    reports = sorted(folder.glob(_PATTERN))
    for report in reports:
        # What is damaged, or of another version, counts as not written.
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            content = json.loads(report.read_text(encoding="utf-8"))
            name = report.name[1 : -len(_SUFFIX)]
            if content["settings"] != manifest.settings:
                continue
            if "error" in content:
                errors[name] = content["error"]
            else:
                entries[name] = ShardEntry.from_dict(content["entry"])
    if entries:
        manifest.shards.update(entries)
        manifest.save(folder)
    discard_reports(folder)
    return errors


def discard_reports(folder: Path) -> None:
    """Removes all reports."""
    for report in folder.glob(_PATTERN):
        report.unlink(missing_ok=True)
