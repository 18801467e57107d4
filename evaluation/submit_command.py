"""The command that makes and checks submissions to benchmark servers: `deeplab2-lite submit`."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deeplab2_lite import __version__
from deeplab2_lite.data.images import read_rgb
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.journal import Journal
from deeplab2_lite.evaluation.submission_archive import FolderFiles, write_zip
from deeplab2_lite.evaluation.submission_check import SubmissionCheck, check_files, check_submission
from deeplab2_lite.evaluation.submission_formats import FORMATS, SubmissionFormat
from deeplab2_lite.evaluation.submission_images import ExpectedImage, expected_images
from deeplab2_lite.evaluation.submission_progress import progress

# What of the findings goes to the terminal.
_SHOWN = 20
# Flags, and what of `InferenceConfig` they set.
_VIEWS = {
    "flip": "flip_left_right",
    "scales": "scales",
    "tile_size": "tile_size",
    "tile_overlap": "tile_overlap",
}
_JOURNAL = "unfinished.jsonl"
_FILES = "files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    parser.add_argument(
        "--format", required=True, choices=tuple(FORMATS), help="which server's, and which of its benchmarks"
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="DIR",
        help="model folder or exported SavedModel; several model folders (repeat the flag) are averaged",
    )
    parser.add_argument("--input", metavar="DIR", help="folder of the images, in it or in folders below")
    parser.add_argument("--output", metavar="FILE", help="the zip")
    parser.add_argument(
        "--image_info",
        metavar="FILE",
        help="JSON with a list 'images', such as image_info_test-dev2017.json: these of --input are submitted",
    )
    # None tells what was not given, and stays as the model has it.
    parser.add_argument("--flip", action="store_true", default=None, help="average over the mirror image, too")
    parser.add_argument("--scales", nargs="+", type=float, metavar="S", help="average over scales, such as 0.5 1 1.5 2")
    parser.add_argument(
        "--tile_size", nargs=2, type=int, metavar=("H", "W"), help="predict by overlapping tiles, for large images"
    )
    parser.add_argument("--tile_overlap", type=int, metavar="N", help="least pixels that tiles share (default: 128)")
    parser.add_argument(
        "--params_override",
        metavar="A.B=C,...",
        help="settings that win over the model's, such as model.backbone.output_stride=8: the same weights at another "
        "output stride",
    )
    parser.add_argument(
        "--check",
        metavar="PATH",
        help="check this zip, or folder of what is to be in it, and write nothing; --input or --image_info say which "
        "images it must hold",
    )
    parser.epilog = (
        "A submission at fault is not written. After an error or Ctrl-C the same command goes on with the rest: what "
        "is done lies in FILE.unfinished/ until the zip is written."
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: Flags are missing or contradict each other, model or images are not the server's, or the
            submission is at fault.
    """
    form = FORMATS[arguments.format]
    _check_flags(arguments)
    folder = Path(arguments.input) if arguments.input else None
    expected = expected_images(form, folder, Path(arguments.image_info) if arguments.image_info else None)
    if arguments.check:
        path = Path(arguments.check)
        checked = check_submission(path, form, expected)
        _report(checked, str(path))
        print(f"{path}: {checked.images:,} images, nothing wrong as {form.name}")
        return
    output = Path(arguments.output)
    form.check_zip_name(output)
    checked = _Submission(arguments, form, expected, output).run()
    print(f"{output}: {checked.images:,} images, {output.stat().st_size / 1e6:.1f} MB, nothing wrong as {form.name}")


def _check_flags(arguments: argparse.Namespace) -> None:
    if arguments.check:
        for flag in ("model", "output", "params_override", *_VIEWS):
            if getattr(arguments, flag) is not None:
                raise UserError(f"--{flag}: has no meaning with --check, which runs no model and writes nothing")
    else:
        for flag in ("model", "input", "output"):
            if not getattr(arguments, flag):
                raise UserError(f"--{flag}: missing; expected --model, --input and --output, or --check")


def _report(checked: SubmissionCheck, where: str) -> None:
    """Says what was found.

    Raises:
        UserError: Something is wrong.
    """
    if checked.note:
        print(f"note: {checked.note}", file=sys.stderr)
    if not checked.findings:
        return
    for finding in checked.findings[:_SHOWN]:
        print(finding, file=sys.stderr)
    if len(checked.findings) > _SHOWN:
        print(f"... and {len(checked.findings) - _SHOWN:,} more", file=sys.stderr)
    count = "1 fault" if len(checked.findings) == 1 else f"{len(checked.findings):,} faults"
    raise UserError(f"{where}: {count}, the first: {checked.findings[0]}")


class _Submission:
    """One run: its files lie in a folder beside the zip until that is written."""

    def __init__(
        self, arguments: argparse.Namespace, form: SubmissionFormat, expected: Mapping[str, ExpectedImage], output: Path
    ) -> None:
        from deeplab2_lite.evaluation.submission_models import load_predictor
        from deeplab2_lite.evaluation.submission_writers import submission_writer

        self._form, self._expected, self._output = form, expected, output
        self._work = output.with_name(f"{output.name}.unfinished")
        self._files = self._work / _FILES
        # Before the model is loaded: that may take long.
        with _writing_to(self._work):
            self._open_work_folder()
        self._predictor = load_predictor(
            arguments.model, form.kind, arguments.params_override or "", _inference(arguments)
        )
        form.check_label_space(self._predictor.info, f"--model: {arguments.model[0]}")
        with _writing_to(self._work):
            self._journal = Journal(self._work / _JOURNAL, _command(arguments))
            if not self._journal.entries:
                # What another command left.
                shutil.rmtree(self._files, ignore_errors=True)
            self._files.mkdir(exist_ok=True)
            self._writer = submission_writer(form, self._predictor.info, self._files, output.stem)

    def run(self) -> SubmissionCheck:
        """Predicts, checks and writes."""
        done = {key: entry for key, image in self._expected.items() if (entry := self._done(image)) is not None}
        for key, image in progress([(k, i) for k, i in self._expected.items() if k not in done], "submit"):
            stamp = _stamp(image.path)
            result = self._predictor(read_rgb(image.path))
            with _writing_to(self._work):
                entry = {"image": stamp, **self._writer.write(image, result, self._predictor.instance_scores)}
                self._journal.append(key, entry)
            done[key] = entry
        entries = [done[key] for key in self._expected]
        with _writing_to(self._work):
            names = self._writer.finish(entries) + [name for entry in entries for name in entry["files"]]
            self._remove_all_but(set(names))
        checked = check_files(FolderFiles(self._files), self._form, self._expected, self._output.stem)
        for finding in checked.findings:
            if finding.image is not None:
                # The next run does them again.
                self._journal.append(finding.image, None)
        _report(checked, f"{self._output}: not written")
        with _writing_to(self._output):
            write_zip(self._files, names, self._output)
            shutil.rmtree(self._work)
        return checked

    def _open_work_folder(self) -> None:
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._work.mkdir(exist_ok=True)
        names = sorted(path.name for path in self._work.iterdir() if not path.name.startswith("."))
        foreign = [name for name in names if name not in (_JOURNAL, _FILES)]
        if foreign:
            raise UserError(f"{self._work}: holds '{foreign[0]}', which is not this command's; move it elsewhere")

    def _done(self, image: ExpectedImage) -> dict[str, Any] | None:
        """What an earlier run noted of an image, if that and its files are still true."""
        entry = self._journal.entries.get(image.key)
        if entry is None or entry["image"] != _stamp(image.path):
            return None
        return entry if all((self._files / name).is_file() for name in entry["files"]) else None

    def _remove_all_but(self, names: set[str]) -> None:
        """Removes what is left of images that have gone or were done again."""
        for name in FolderFiles(self._files).names:
            if name not in names:
                (self._files / name).unlink()


def _inference(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of `InferenceConfig` that were given."""
    given = {name: getattr(arguments, flag) for flag, name in _VIEWS.items()}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }


def _command(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the files of an image depend on, beside the image."""
    # What tells one model from another, and a model folder before from one after further training.
    patterns = ("saved_model.pb", "variables/*", "assets/*", "config.yaml", "dataset_info.yaml", "checkpoints/*")
    models = [Path(model) for model in arguments.model]
    files = [path for model in models for pattern in patterns for path in sorted(model.glob(pattern))]
    image_info = Path(arguments.image_info) if arguments.image_info else None
    return {
        "version": __version__,
        "models": [str(model.resolve()) for model in models],
        "model_files": [[str(path), *_stamp(path)] for path in files],
        "format": arguments.format,
        "input": str(Path(arguments.input).resolve()),
        "image_info": None if image_info is None else [str(image_info.resolve()), *_stamp(image_info)],
        "settings": arguments.params_override,
        "views": _inference(arguments),
    }


def _stamp(path: Path) -> list[int]:
    """Size and time of a file: what changes with its content; of a file that has gone, nothing."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def _writing_to(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--output: {error.filename or path}: cannot be written ({error.strerror or error})") from None
