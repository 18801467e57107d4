"""Checks of instance submissions: for each image a list of masks with label ids and scores."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from deeplab2_lite.evaluation.submission.archive import DamagedFile, SubmissionFiles
from deeplab2_lite.evaluation.submission.findings import Findings, expected_size, match_images, read_png
from deeplab2_lite.evaluation.submission.formats import SubmissionFormat
from deeplab2_lite.evaluation.submission.images import ExpectedImage
from deeplab2_lite.evaluation.submission.progress import progress

# Any value but 0 is in the instance.
_MASK_MODES = ("L", "1")


def check_instances(
    files: SubmissionFiles,
    names: Iterable[str],
    form: SubmissionFormat,
    expected: Mapping[str, ExpectedImage] | None,
    findings: Findings,
) -> int:
    """Checks lists and masks.

    Sources: cityscapesScripts' evalInstanceLevelSemanticLabeling.py (`getPrediction`, `readPredInfo`,
    `assignGt2Preds`), and mapillary_vistas' README and instance_specific_instance_level.py. Masks may overlap there.
    Stricter than both: empty masks, labels without instances and scores outside 0..1 would count for nothing or are
    a slip.

    Args:
        files: The submission.
        names: Its files that can be checked.
        form: The format.
        expected: The images that must be there; None takes any.
        findings: Gets what is wrong.

    Returns:
        How many images have a list.
    """
    names = list(names)
    lists = match_images((n for n in names if n.endswith(".txt")), form, expected, findings, "*.txt")
    unread = {name for name in names if not name.endswith(".txt")}
    listed: set[str] = set()
    labels = {c.original_id for c in form.info.classes if c.isthing}
    for key, name in progress(lists.items(), "check"):
        for mask in _masks_of(files, name, labels, findings, key):
            if mask in listed:
                findings.add("mask", mask, f"is listed twice, the second time in {name}; expected once", key)
            elif mask not in unread:
                findings.add("mask", mask, f"no such file; expected a mask, as {name} says", key)
            else:
                pixels = read_png(files, mask, _MASK_MODES, expected_size(form, expected, key), findings, key)
                if pixels is not None and not pixels.any():
                    findings.add("mask", mask, "is empty; expected values above 0 in the instance", key)
            listed.add(mask)
    for name in sorted(unread - listed):
        findings.add("extra", name, "is in no list; expected lists and their masks alone")
    return len(lists)


def _masks_of(files: SubmissionFiles, name: str, labels: set[int], findings: Findings, key: str) -> list[str]:
    """Returns the masks that a list names, from the root of the submission."""
    try:
        text = files.read(name).decode("utf-8")
    except DamagedFile as error:
        findings.add("archive", name, str(error), key)
        return []
    except UnicodeDecodeError:
        findings.add("list", name, "is no text in UTF-8", key)
        return []
    masks = []
    for number, line in enumerate(text.splitlines(), 1):
        where = f"line {number}"
        fields = line.split(" ")
        if len(fields) != 3 or not all(fields):
            findings.add("list", name, f"{where} is {line!r}; expected 'MASK LABEL_ID SCORE', parted by spaces", key)
            continue
        path, label, score = fields
        mask = posixpath.normpath(posixpath.join(str(PurePosixPath(name).parent), path))
        if posixpath.isabs(path) or "\\" in path or mask.startswith(".."):
            findings.add("list", name, f"{where} names the mask '{path}'; expected a relative path inside", key)
        else:
            masks.append(mask)
        _check_label(name, f"{where} has the label '{label}'", label, labels, findings, key)
        _check_score(name, f"{where} has the score '{score}'", score, findings, key)
    return masks


def _check_label(name: str, where: str, label: str, labels: set[int], findings: Findings, key: str) -> None:
    if not label.isascii() or not label.isdigit() or int(label) not in labels:
        valid = ", ".join(str(value) for value in sorted(labels))
        findings.add("label", name, f"{where}; expected the id of a class with instances: {valid}", key)


def _check_score(name: str, where: str, score: str, findings: Findings, key: str) -> None:
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    # Not a number is in no range.
    if not 0 <= value <= 1:
        findings.add("score", name, f"{where}; expected a number of 0..1", key)
