"""A conversion as an Apache Beam pipeline, for data that outgrows one machine.

Each shard is one element. The worker that gets it writes it where all machines see it, whole or not at
all, by the steps that a conversion on one machine takes too (`conversion_output.py`), and reports there
(`shard_reports.py`): so the folder comes out the same, byte by byte, and whatever became of the pipeline,
what is finished is kept.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from absl import logging

from deeplab2_lite.data.conversion.manifest import Manifest, ShardEntry
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
from deeplab2_lite.data.conversion.shard_reports import collect_reports, save_report
from deeplab2_lite.errors import UserError

if TYPE_CHECKING:
    import apache_beam


def convert_with_beam(
    conversion: Conversion, output: str | Path, *, options: Sequence[str] = (), overwrite: bool = False
) -> Path:
    """Writes what `conversion.convert` writes, as an Apache Beam pipeline.

    Args:
        conversion: What to convert. Every worker must find its files under their paths.
        output: Folder to write into, which every worker must find under this path too; made if need be.
            A conversion of the same settings is resumed there, whichever way it was begun.
        options: Beam's own, such as `["--runner=FlinkRunner"]`; without any, Beam's defaults.
        overwrite: Remove all records from `output` first, this conversion's or another's.

    Returns:
        The path of `dataset_info.yaml`, which is written last.

    Raises:
        UserError: Apache Beam is not installed, an option will not do, a source is at fault (the other
            shards are finished nevertheless), the folder holds other records or cannot be written.
    """
    folder = local_folder(output).absolute()
    with _pipeline(options) as pipeline:
        shards = plan_shards(conversion)
        settings = conversion_digest(conversion, shards)
        with _output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            manifest = open_output(folder, settings, overwrite)
            pending = pending_shards(folder, shards, manifest)
        if pending:
            _write_shards(pipeline, pending, conversion.converter, folder, manifest)
        with _output_errors(folder):
            return finish(folder, conversion, shards, manifest)


def _write_shards(
    pipeline: apache_beam.Pipeline,
    shards: Sequence[PlannedShard],
    converter: Converter,
    folder: Path,
    manifest: Manifest,
) -> None:
    beam = _import_beam()
    errors: dict[str, str] = {}
    try:
        with pipeline:
            # Create deals its elements out anew, so that the workers share them.
            planned = pipeline | "Shards" >> beam.Create(shards)
            planned | "WriteShards" >> beam.Map(_write_and_report, converter, folder, manifest.settings)
    finally:
        with _output_errors(folder):
            errors = collect_reports(folder, manifest)
    failed = [shard.name for shard in shards if shard.name in errors]
    if failed:
        others = len(failed) - 1
        more = f" (and {others} more shard{'s' * (others > 1)} could not be written)" if others else ""
        raise UserError(f"{errors[failed[0]]}{more}")
    missing = [shard.name for shard in shards if shard.name not in manifest.shards]
    if missing:
        raise UserError(
            f"{folder / missing[0]}: not written, as {len(missing)} of {len(shards)} shards, when the pipeline ended; "
            "expected a folder that all workers can write (their logs say more); the same command goes on from here"
        )


def _write_and_report(shard: PlannedShard, converter: Converter, folder: Path, settings: str) -> None:
    """Writes a shard; runs in a worker.

    A user's mistake is reported, not raised: an exception would make Beam try the shard again and again,
    and then give up the others.
    """
    path = folder / shard.name
    try:
        save_report(path, settings, _write_or_say_why(shard, converter, path))
    except OSError as error:
        # Without a report the shard counts as not written.
        logging.error("%s: cannot be written (%s)", path, error.strerror or error)


def _write_or_say_why(shard: PlannedShard, converter: Converter, path: Path) -> ShardEntry | str:
    try:
        entry = write_shard(path, shard.fingerprint, map(converter, shard.items), converter.info.num_classes)
    except UserError as error:
        return str(error)
    logging.info("%s: %d records", path, len(shard.items))
    return entry


@contextlib.contextmanager
def _pipeline(options: Sequence[str]) -> Iterator[apache_beam.Pipeline]:
    """Yields a pipeline of these options; they are checked before anything is written."""
    beam = _import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            parsed = PipelineOptions(list(options))
            parsed.get_all_options()
        pipeline = beam.Pipeline(options=parsed)
    except SystemExit as stop:
        if not stop.code:
            # It was asked for help.
            raise
        # Beam's parser prints its usage, then the error on a line of its own.
        _, _, problem = usage.getvalue().strip().rpartition("error: ")
        raise UserError(f"beam_options: {problem}") from None
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"beam_options: {' '.join(str(error).split())}") from None
    try:
        yield pipeline
    finally:
        # Beam removes it only when the pipeline is run.
        shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)


def _import_beam() -> ModuleType:
    try:
        import apache_beam
    except ImportError as error:
        raise UserError(
            f"beam_options: Apache Beam cannot be imported ({error}); pip install 'deeplab2_lite[beam]'"
        ) from None
    return apache_beam


@contextlib.contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
