"""Checks of semantic submissions: a PNG of label ids for each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deeplab2_lite.evaluation.submission.archive import SubmissionFiles
from deeplab2_lite.evaluation.submission.findings import (
    Findings,
    count_values,
    expected_size,
    match_images,
    read_png,
)
from deeplab2_lite.evaluation.submission.formats import SubmissionFormat
from deeplab2_lite.evaluation.submission.images import ExpectedImage
from deeplab2_lite.evaluation.submission.progress import progress


def check_semantic(
    files: SubmissionFiles,
    names: Iterable[str],
    form: SubmissionFormat,
    expected: Mapping[str, ExpectedImage] | None,
    findings: Findings,
) -> int:
    """Checks the maps of label ids.

    Sources: cityscapesScripts' evalPixelLevelSemanticLabeling.py (`getPrediction`, `evaluatePair`), and
    mapillary_vistas' README and evaluation.py.

    Args:
        files: The submission.
        names: Its files that can be checked.
        form: The format.
        expected: The images that must be there; None takes any.
        findings: Gets what is wrong.

    Returns:
        How many images have a map.
    """
    names = list(names)
    for name in names:
        if not name.endswith(".png"):
            findings.add("extra", name, "expected PNGs alone")
    maps = match_images((n for n in names if n.endswith(".png")), form, expected, findings, ".png")
    shown: set[int] = set()
    for key, name in progress(maps.items(), "check"):
        labels = read_png(files, name, form.map_modes, expected_size(form, expected, key), findings, key)
        if labels is None:
            continue
        ids = count_values(labels)
        shown.update(ids)
        unknown = [value for value in ids if value >= form.label_count]
        if unknown:
            findings.add(
                "ids", name, f"has {unknown[0]} in {ids[unknown[0]]} pixels; expected 0..{form.label_count - 1}", key
            )
    _check_train_ids(form, shown, findings)
    return len(maps)


def _check_train_ids(form: SubmissionFormat, shown: set[int], findings: Findings) -> None:
    """Finds the ids that training counts in the place of the data set's: the server cannot know, and scores them."""
    originals = {c.original_id for c in form.info.classes}
    contiguous = range(len(originals))
    foreign = sorted(value for value in shown if value not in originals)
    if foreign and originals - set(contiguous) and all(value in contiguous for value in shown):
        findings.add(
            "train_ids",
            "*.png",
            f"have only ids of 0..{len(originals) - 1}, some of which are not evaluated ({foreign[0]}): train ids; "
            f"expected label ids, such as {max(originals)} for '{form.info.classes[-1].name}'",
        )
