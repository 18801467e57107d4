"""What all converters share: many processes, whole shards or none, and resuming.

A conversion writes shard after shard under a temporary name and notes each finished one in its manifest
(`manifest.py`). Run again, it keeps the shards whose sources and settings are still the same. Records
come out in the order of the items, so the files do not depend on the number of processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from absl import logging
from tqdm import tqdm

from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord
from deeplab2_lite.data.conversion.manifest import Manifest
from deeplab2_lite.data.conversion.output import (
    Conversion,
    Converter,
    PlannedShard,
    conversion_digest,
    finish,
    local_folder,
    open_output,
    pending_shards,
    plan_shards,
    write_shard,
)
from deeplab2_lite.errors import UserError
from deeplab2_lite.processes import map_in_order


def convert(conversion: Conversion, output: str | Path, *, num_processes: int = 1, overwrite: bool = False) -> Path:
    """Writes TFRecord shards, their manifest and their `dataset_info.yaml`.

    Args:
        conversion: What to convert.
        output: Folder to write into; made if need be. An unfinished conversion of the same settings is
            resumed there, a finished one is brought up to date.
        num_processes: Processes that convert; 1 works in this one. A script that asks for more must
            guard its entry with `if __name__ == "__main__"`.
        overwrite: Remove all records from `output` first, this conversion's or another's.

    Returns:
        The path of `dataset_info.yaml`, which is written last.

    Raises:
        UserError: A source is at fault, the folder holds other records, or it cannot be written.
    """
    if num_processes < 1:
        raise UserError(f"num_processes: expected 1 or more, got {num_processes}")
    output = local_folder(output)
    shards = plan_shards(conversion)
    try:
        output.mkdir(parents=True, exist_ok=True)
        manifest = open_output(output, conversion_digest(conversion, shards), overwrite)
        pending = pending_shards(output, shards, manifest)
        if pending:
            _write_shards(conversion.converter, pending, num_processes, output, manifest)
        return finish(output, conversion, shards, manifest)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error})") from None


def _write_shards(
    converter: Converter, shards: Sequence[PlannedShard], num_processes: int, output: Path, manifest: Manifest
) -> None:
    items = [item for shard in shards for item in shard.items]
    # disable=None: a bar on terminals alone; log files get a line for each shard.
    with tqdm(total=len(items), desc=output.name, unit="image", disable=None) as progress:
        records = map_in_order(converter, items, num_processes, "conversion")
        try:
            for shard in shards:
                own = _counted(itertools.islice(records, len(shard.items)), progress)
                entry = write_shard(output / shard.name, shard.fingerprint, own, converter.info.num_classes)
                manifest.shards[shard.name] = entry
                manifest.save(output)
                logging.info("%s: %d records", output / shard.name, len(shard.items))
        finally:
            records.close()


def _counted(records: Iterable[ConvertedRecord], progress: tqdm) -> Iterator[ConvertedRecord]:
    for record in records:
        yield record
        progress.update()
