"""The command that makes and checks submissions to benchmark servers: `deeplab2-lite submit`."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deeplab2_lite import __version__
from deeplab2_lite.data.images import read_rgb
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.journal import Journal, file_stamp
from deeplab2_lite.evaluation.model_arguments import (
    VIEW_FLAGS,
    add_model_argument,
    add_view_arguments,
    describe_models,
    overrides_of,
)
from deeplab2_lite.evaluation.submission.archive import FolderFiles, write_zip
from deeplab2_lite.evaluation.submission.check import SubmissionCheck, check_files, check_submission
from deeplab2_lite.evaluation.submission.formats import FORMATS, SubmissionFormat
from deeplab2_lite.evaluation.submission.images import ExpectedImage, expected_images
from deeplab2_lite.evaluation.submission.progress import progress
from deeplab2_lite.files import writing_to

# What of the findings goes to the terminal.
_SHOWN = 20
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
    add_model_argument(parser)
    parser.add_argument("--input", metavar="DIR", help="folder of the images, in it or in folders below")
    parser.add_argument("--output", metavar="FILE", help="the zip")
    parser.add_argument(
        "--image_info",
        metavar="FILE",
        help="JSON with a list 'images', such as image_info_test-dev2017.json: these of --input are submitted",
    )
    add_view_arguments(parser)
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
        for flag in ("model", "output", *VIEW_FLAGS):
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
        from deeplab2_lite.evaluation.submission.models import load_predictor
        from deeplab2_lite.evaluation.submission.writers import submission_writer

        self._form, self._expected, self._output = form, expected, output
        self._work = output.with_name(f"{output.name}.unfinished")
        self._files = self._work / _FILES
        # Before the model is loaded: that may take long.
        with writing_to(self._work):
            self._open_work_folder()
        self._predictor = load_predictor(arguments.model, form.kind, overrides_of(arguments))
        form.check_label_space(self._predictor.info, f"--model: {arguments.model[0]}")
        with writing_to(self._work):
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
            stamp = file_stamp(image.path)
            result = self._predictor(read_rgb(image.path))
            with writing_to(self._work):
                entry = {"image": stamp, **self._writer.write(image, result, self._predictor.instance_scores)}
                self._journal.append(key, entry)
            done[key] = entry
        entries = [done[key] for key in self._expected]
        with writing_to(self._work):
            names = self._writer.finish(entries) + [name for entry in entries for name in entry["files"]]
            self._remove_all_but(set(names))
        checked = check_files(FolderFiles(self._files), self._form, self._expected, self._output.stem)
        for finding in checked.findings:
            if finding.image is not None:
                # The next run does them again.
                self._journal.append(finding.image, None)
        _report(checked, f"{self._output}: not written")
        with writing_to(self._output):
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
        if entry is None or entry["image"] != file_stamp(image.path):
            return None
        return entry if all((self._files / name).is_file() for name in entry["files"]) else None

    def _remove_all_but(self, names: set[str]) -> None:
        """Removes what is left of images that have gone or were done again."""
        for name in FolderFiles(self._files).names:
            if name not in names:
                (self._files / name).unlink()


def _command(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the files of an image depend on, beside the image."""
    image_info = Path(arguments.image_info) if arguments.image_info else None
    return {
        "version": __version__,
        **describe_models(arguments.model),
        "format": arguments.format,
        "input": str(Path(arguments.input).resolve()),
        "image_info": None if image_info is None else file_stamp(image_info.resolve()),
        "settings": overrides_of(arguments),
    }
