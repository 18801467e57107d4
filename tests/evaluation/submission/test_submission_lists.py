"""The validator of instance submissions: each rule, broken alone, is named with the file."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from .submission_doubles import SIZE, check, cut, keys_of, save, write_submission

A = keys_of("cityscapes_instance")[0]
LIST = f"{A}_pred.txt"
MASK = f"{A}_pred/000.png"
LABELS = "24, 25, 26, 27, 28, 31, 32, 33"


def line(text, number=0):
    """Replaces a line of the first list."""

    def break_it(folder):
        lines = (folder / LIST).read_text().splitlines()
        lines[number] = text(*lines[number].split(" "))
        (folder / LIST).write_text("\n".join(lines) + "\n")

    return break_it


LIST_FAULTS = {
    "missing": (
        lambda f: ((f / LIST).unlink(), shutil.rmtree(f / f"{A}_pred")),
        "missing",
        f"{A}: no file of this image; expected {A}*.txt",
    ),
    "extra": (lambda f: (f / "ulm_000003_000019.txt").write_text(""), "extra", "ulm_000003_000019.txt: is of no image"),
    "double": (lambda f: (f / f"{A}.txt").write_text(""), "double", f"{LIST}: is of the same image as '{A}.txt'"),
    "unlisted mask": (
        lambda f: shutil.copy(f / MASK, f / f"{A}_pred" / "9.png"),
        "extra",
        f"{A}_pred/9.png: is in no list",
    ),
    "no mask": (lambda f: (f / MASK).unlink(), "mask", f"{MASK}: no such file; expected a mask, as {LIST} says"),
    "mask twice": (
        lambda f: (f / LIST).write_text((f / LIST).read_text() + f"{MASK} 24 0.5\n"),
        "mask",
        f"{MASK}: is listed twice, the second time in {LIST}",
    ),
    "empty mask": (lambda f: save(f / MASK, np.zeros(SIZE, np.uint8)), "mask", f"{MASK}: is empty"),
    "size": (
        lambda f: save(f / MASK, np.ones((6, 10), np.uint8)),
        "size",
        f"{MASK}: is 6x10 pixels; expected 12x20",
    ),
    "mode": (lambda f: save(f / MASK, np.ones((*SIZE, 3), np.uint8)), "mode", f"{MASK}: has mode RGB"),
    "truncated": (lambda f: cut(f / MASK), "png", f"{MASK}: is damaged or cut off"),
    "four fields": (
        line(lambda mask, label, score: f"{mask} {label} {score} x"),
        "list",
        f"{LIST}: line 1 is '{MASK} 25 1.0 x'; expected 'MASK LABEL_ID SCORE'",
    ),
    "stuff label": (
        line(lambda mask, label, score: f"{mask} 7 {score}"),
        "label",
        f"{LIST}: line 1 has the label '7'; expected the id of a class with instances: {LABELS}",
    ),
    "name for label": (
        line(lambda mask, label, score: f"{mask} car {score}"),
        "label",
        f"{LIST}: line 1 has the label 'car'",
    ),
    "NaN": (
        line(lambda mask, label, score: f"{mask} {label} nan", 1),
        "score",
        f"{LIST}: line 2 has the score 'nan'; expected a number of 0..1",
    ),
    "percent": (line(lambda mask, label, score: f"{mask} {label} 97"), "score", f"{LIST}: line 1 has the score '97'"),
    "negative": (
        line(lambda mask, label, score: f"{mask} {label} -0.1"),
        "score",
        f"{LIST}: line 1 has the score '-0.1'",
    ),
    "no number": (line(lambda mask, label, score: f"{mask} {label} ?"), "score", f"{LIST}: line 1 has the score '?'"),
}


@pytest.mark.parametrize("fault", LIST_FAULTS)
def test_faults_of_lists(tmp_path, fault):
    form, expected = write_submission(tmp_path / "files", "cityscapes_instance")
    break_it, check_name, text = LIST_FAULTS[fault]
    break_it(tmp_path / "files")
    findings = check(tmp_path / "files", form, expected)
    assert findings[0].check == check_name and str(findings[0]).startswith(text), findings
    # What the list does not name any more is too much.
    assert all(f.check in ("extra", "mask") for f in findings[1:])


@pytest.mark.parametrize("path", ["../../else.png", "/etc/else.png", "deep\\else.png"])
def test_masks_must_lie_inside(tmp_path, path):
    form, expected = write_submission(tmp_path / "files", "cityscapes_instance")
    line(lambda mask, label, score: f"{path} {label} {score}")(tmp_path / "files")
    findings = check(tmp_path / "files", form, expected)
    assert [f.check for f in findings] == ["list", "extra"]
    assert findings[0].message.startswith(f"line 1 names the mask '{path}'")


def test_masks_are_found_from_their_list(tmp_path):
    form, expected = write_submission(tmp_path / "files", "cityscapes_instance")
    shutil.copytree(tmp_path / "files", tmp_path / "zip" / "results" / "deep")
    assert not check(tmp_path / "zip", form, expected)
