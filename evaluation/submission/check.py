"""The validator of submissions: every rule that a server or its script has, without a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from deeplab2_lite.evaluation.submission.archive import SubmissionFiles, open_submission
from deeplab2_lite.evaluation.submission.findings import Finding, Findings, check_names
from deeplab2_lite.evaluation.submission.formats import SubmissionFormat
from deeplab2_lite.evaluation.submission.images import ExpectedImage
from deeplab2_lite.evaluation.submission.lists import check_instances
from deeplab2_lite.evaluation.submission.maps import check_semantic
from deeplab2_lite.evaluation.submission.segments import check_panoptic


class SubmissionCheck(NamedTuple):
    """What a check found.

    Attributes:
        findings: What is wrong; empty of a good submission.
        images: How many images it holds.
        note: What else its sender should know; empty if nothing.
    """

    findings: tuple[Finding, ...]
    images: int
    note: str


def check_submission(
    path: str | Path, form: SubmissionFormat, expected: Mapping[str, ExpectedImage] | None = None
) -> SubmissionCheck:
    """Checks a submission that exists.

    Args:
        path: A zip, or a folder of what is to be in it.
        form: The format.
        expected: The images that it must hold, see `expected_images`; None takes any.

    Returns:
        What is wrong.

    Raises:
        UserError: Nothing is there, it is no zip, or the zip's name is not what the server takes.
    """
    with open_submission(Path(path)) as (files, stem):
        if stem is not None:
            form.check_zip_name(Path(path))
        return check_files(files, form, expected, stem)


def check_files(
    files: SubmissionFiles, form: SubmissionFormat, expected: Mapping[str, ExpectedImage] | None, stem: str | None
) -> SubmissionCheck:
    """Checks the files of a submission.

    Args:
        files: They.
        form: The format.
        expected: The images that they must be of; None takes any.
        stem: Name of the zip without its ending; None of a folder.

    Returns:
        What is wrong.
    """
    findings = Findings()
    names = check_names(files, findings)
    if form.kind == "semantic":
        images = check_semantic(files, names, form, expected, findings)
    elif form.kind == "instance":
        images = check_instances(files, names, form, expected, findings)
    else:
        images = check_panoptic(files, names, form, expected, findings, stem)
    return SubmissionCheck(tuple(findings), images, _note(form, images))


def _note(form: SubmissionFormat, images: int) -> str:
    splits = form.split_images or {}
    if images in splits.values():
        return ""
    known = ", ".join(f"{count:,} in {split}" for split, count in splits.items())
    return f"{images:,} images are no whole split ({known}): a server would refuse them"
