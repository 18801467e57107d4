"""The command that shows what a folder of records holds, and what is wrong with it: `deeplab2-lite inspect`."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deeplab2_lite.dataset_info import FILE_NAME, DatasetInfo, load_dataset_info
from deeplab2_lite.errors import UserError

if TYPE_CHECKING:
    from deeplab2_lite.data.inspection.contact_sheet import Sample
    from deeplab2_lite.data.inspection.folder import Inspection
    from deeplab2_lite.data.records import ParsedRecord

EXIT_ERRORS_FOUND = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `deeplab2-lite inspect`."""
    parser.add_argument("folder", metavar="DIR", help="folder of TFRecords, as 'deeplab2-lite convert' writes it")
    parser.add_argument(
        "--dataset_info",
        metavar="NAME",
        help="label space: a preset, or a file (default: the dataset_info.yaml in DIR); DeepLab2's records need one",
    )
    parser.add_argument(
        "--split", action="append", metavar="NAME", help="split to inspect; repeatable (default: all that are found)"
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="look at N records of each split, spread evenly over it, and at no checksums (default: at all)",
    )
    parser.add_argument(
        "--samples", type=int, default=16, metavar="N", help="images of each contact sheet; 0 draws none (default: 16)"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder to write inspection.json and contact_sheet_{split}.png into (default: inspection/{name of DIR} "
        "in the current folder)",
    )
    parser.add_argument(
        "--num_threads",
        type=int,
        default=min(os.cpu_count() or 1, 16),
        metavar="N",
        help="threads that decode; the result does not depend on it (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs `deeplab2-lite inspect` with parsed options.

    Raises:
        UserError: There is nothing to inspect, or the output cannot be written.
        SystemExit: Of status 1: errors were found.
    """
    if arguments.samples < 0:
        raise UserError(f"--samples: expected 0 or more, got {arguments.samples}")
    folder = Path(arguments.folder)
    info = _label_space(folder, arguments.dataset_info)
    output = Path(arguments.output or Path("inspection") / (folder.resolve().name or "records"))
    # TensorFlow takes seconds to import, which --help and mistyped options need not wait for.
    import tensorflow as tf

    from deeplab2_lite.data.inspection.folder import inspect_folder
    from deeplab2_lite.data.inspection.report import format_inspection, write_report

    with contextlib.suppress(RuntimeError):
        # Nothing is computed there, and a training may need all of its memory.
        tf.config.set_visible_devices([], "GPU")
    with _writing(output):
        # Before the work, so that a folder that cannot be written is told at once.
        output.mkdir(parents=True, exist_ok=True)
    inspection = inspect_folder(folder, info, arguments.split, limit=arguments.limit, num_threads=arguments.num_threads)
    with _writing(output):
        written = [write_report(inspection, output), *_write_contact_sheets(inspection, arguments.samples, output)]
    print(format_inspection(inspection))
    print(f"\nwritten to {output}: {', '.join(path.name for path in written)}", flush=True)
    if inspection.errors:
        raise SystemExit(EXIT_ERRORS_FOUND)


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--output: {output}: cannot be written ({error.strerror or error})") from None


def _label_space(folder: Path, name: str | None) -> DatasetInfo:
    if name is not None:
        return load_dataset_info(name)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected TFRecords, as 'deeplab2-lite convert' writes them")
    if not (folder / FILE_NAME).is_file():
        raise UserError(f"{folder}: no {FILE_NAME}; expected one, or --dataset_info=NAME of a preset or file")
    return load_dataset_info(folder)


def _write_contact_sheets(inspection: Inspection, samples: int, output: Path) -> list[Path]:
    from deeplab2_lite.data.inspection.contact_sheet import choose_samples, draw_contact_sheet
    from deeplab2_lite.data.inspection.records import RecordInspector
    from deeplab2_lite.data.record_index import record_reader
    from deeplab2_lite.visualize import save_image

    paths = []
    inspector = RecordInspector(inspection.info)
    for split, (index, records) in inspection.readable.items():
        chosen = choose_samples(records, samples)
        if not chosen:
            continue
        read = record_reader(index)
        drawn = (_sample(inspector.load(read, record)) for record in chosen)
        title = f"{inspection.info.name} {split}: {len(chosen)} of {inspection.splits[split].records:,} records"
        sheet = draw_contact_sheet(drawn, inspection.info, title)
        paths.append(save_image(output / f"contact_sheet_{split}.png", sheet))
    return paths


def _sample(record: ParsedRecord) -> Sample:
    from deeplab2_lite.data.inspection.contact_sheet import Sample

    panoptic = record.panoptic.numpy()
    filename = record.filename.numpy().decode(errors="replace")
    caption = f"{filename}  {panoptic.shape[0]}x{panoptic.shape[1]}"
    return Sample(record.image.numpy(), panoptic, caption)
