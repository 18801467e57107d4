"""The validator: a good submission passes; each rule of maps and zips, broken alone, is named with the file."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.submission.archive import write_zip
from deeplab2_lite.evaluation.submission.check import check_submission
from deeplab2_lite.evaluation.submission.findings import count_values
from deeplab2_lite.evaluation.submission.formats import FORMATS

from .submission_doubles import SIZE, STEMS, array_of, check, cut, keys_of, save, write_submission


@pytest.mark.parametrize("name", FORMATS)
def test_a_good_submission_passes(tmp_path, name):
    form, expected = write_submission(tmp_path / "files", name)
    for images in (expected, None):
        checked = check_submission(tmp_path / "files", form, images)
        assert checked.findings == () and checked.images == 2
        assert checked.note.startswith("2 images are no whole split (")
    names = [path.relative_to(tmp_path / "files").as_posix() for path in (tmp_path / "files").rglob("*.*")]
    zipped = tmp_path / f"{STEMS.get(name, name)}.zip"
    write_zip(tmp_path / "files", [n for n in names if (tmp_path / "files" / n).is_file()], zipped)
    assert check_submission(zipped, form, expected).findings == ()


def test_a_whole_split_needs_no_note(tmp_path):
    form, expected = write_submission(tmp_path / "files", "mapillary_semantic")
    assert check_submission(tmp_path / "files", replace(form, split_images={"val": 2}), expected).note == ""


def palette(path):
    image = Image.fromarray(array_of(path))
    image.convert("P").save(path)


A, B = keys_of("cityscapes_semantic")
MAP_FAULTS = {
    "missing": (lambda f: (f / f"{A}.png").unlink(), "missing", f"{A}: no file of this image; expected {A}.png"),
    "extra image": (
        lambda f: shutil.copy(f / f"{A}.png", f / "ulm_000003_000019.png"),
        "extra",
        "ulm_000003_000019.png: is of no image",
    ),
    "extra file": (lambda f: (f / "notes.txt").write_text(""), "extra", "notes.txt: expected PNGs alone"),
    "double": (
        lambda f: shutil.copy(f / f"{A}.png", f / f"{A}_b.png"),
        "double",
        f"{A}_b.png: is of the same image as '{A}.png'",
    ),
    "size": (
        lambda f: save(f / f"{A}.png", array_of(f / f"{A}.png")[:, :-1]),
        "size",
        f"{A}.png: is 12x19 pixels; expected 12x20",
    ),
    "rgb": (
        lambda f: save(f / f"{A}.png", np.zeros((*SIZE, 3), np.uint8)),
        "mode",
        f"{A}.png: has mode RGB with 8 bits; expected 8-bit grey or 8-bit palette",
    ),
    "16 bits": (
        lambda f: save(f / f"{A}.png", np.full(SIZE, 7, np.uint16)),
        "mode",
        f"{A}.png: has mode I;16 with 16 bits",
    ),
    "unknown id": (
        lambda f: save(f / f"{A}.png", np.where(np.arange(20) < 3, 255, array_of(f / f"{A}.png")).astype(np.uint8)),
        "ids",
        f"{A}.png: has 255 in 36 pixels; expected 0..33",
    ),
    "jpeg": (
        lambda f: Image.fromarray(array_of(f / f"{A}.png")).save(f / f"{A}.png", format="JPEG"),
        "png",
        f"{A}.png: is no PNG",
    ),
    "truncated": (lambda f: cut(f / f"{A}.png"), "png", f"{A}.png: is damaged or cut off"),
    "no end": (lambda f: cut(f / f"{A}.png", -12), "png", f"{A}.png: is cut off; expected an IEND chunk"),
    "empty": (lambda f: cut(f / f"{A}.png", 0), "png", f"{A}.png: is no PNG"),
}


@pytest.mark.parametrize("fault", MAP_FAULTS)
def test_faults_of_maps(tmp_path, fault):
    form, expected = write_submission(tmp_path / "files", "cityscapes_semantic")
    break_it, check_name, text = MAP_FAULTS[fault]
    break_it(tmp_path / "files")
    [finding] = check(tmp_path / "files", form, expected)
    assert finding.check == check_name and str(finding).startswith(text), finding


def test_train_ids_are_told_from_label_ids(tmp_path):
    form, expected = write_submission(tmp_path / "files", "cityscapes_semantic")
    for key, ids in ((A, (0, 10)), (B, (2, 18))):
        save(tmp_path / "files" / f"{key}.png", np.resize(np.array(ids, np.uint8), SIZE))
    [finding] = check(tmp_path / "files", form, expected)
    assert finding.check == "train_ids" and "expected label ids, such as 33 for 'bicycle'" in finding.message
    # Ids that are not evaluated are no fault beside those that only label ids have.
    save(tmp_path / "files" / f"{A}.png", np.resize(np.array([0, 33], np.uint8), SIZE))
    assert not check(tmp_path / "files", form, expected)


def test_what_each_server_takes_of_maps(tmp_path):
    form, expected = write_submission(tmp_path / "c", "cityscapes_semantic")
    palette(tmp_path / "c" / f"{A}.png")
    (tmp_path / "c" / "deep" / "er").mkdir(parents=True)
    shutil.move(tmp_path / "c" / f"{A}.png", tmp_path / "c" / "deep" / "er" / f"{A}_leftImg8bit.png")
    assert not [f for f in check(tmp_path / "c", form, expected) if f.check != "ids"]
    form, expected = write_submission(tmp_path / "m", "mapillary_semantic")
    (tmp_path / "m" / "deep").mkdir()
    shutil.move(tmp_path / "m" / "-A_1.png", tmp_path / "m" / "deep" / "-A_1.png")
    palette(tmp_path / "m" / "q.z.png")
    assert [(f.check, f.file) for f in check(tmp_path / "m", form, expected)] == [
        ("depth", "deep/-A_1.png"),
        ("mode", "q.z.png"),
    ]


# ---- zips


def packed(folder, path, names=None):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
        for name, data in (names or {}).items():
            archive.writestr(name, data)
    return path


def test_faults_of_zips(tmp_path):
    form, expected = write_submission(tmp_path / "files", "cityscapes_semantic")
    good = (tmp_path / "files" / f"{A}.png").read_bytes()
    outside = packed(tmp_path / "files", tmp_path / "a.zip", {"../else.png": good})
    assert [str(f) for f in check(outside, form, expected)] == [
        "../else.png: leads out of the zip; expected a relative path with slashes [archive]"
    ]
    with pytest.warns(UserWarning, match="Duplicate name"):
        double = packed(tmp_path / "files", tmp_path / "b.zip", {f"{A}.png": good})
    assert [str(f) for f in check(double, form, expected)] == [f"{A}.png: is twice in the zip; expected once [archive]"]
    damaged = packed(tmp_path / "files", tmp_path / "c.zip")
    data = damaged.read_bytes()
    position = data.index(good) + 40
    damaged.write_bytes(data[:position] + bytes([data[position] ^ 255]) + data[position + 1 :])
    [finding] = check(damaged, form, expected)
    assert finding.check == "archive" and f"{A}.png: cannot be read from the zip (Bad CRC-32" in str(finding)
    cut(damaged)
    with pytest.raises(UserError, match=r"c\.zip: not a zip file, or cut off"):
        check(damaged, form, expected)
    with pytest.raises(UserError, match=r"d\.zip: no such file or folder"):
        check(tmp_path / "d.zip", form, expected)


def test_zips_of_coco_have_its_names(tmp_path):
    form, expected = write_submission(tmp_path / "files", "coco_panoptic")
    path = packed(tmp_path / "files", tmp_path / "results.zip")
    with pytest.raises(
        UserError, match=r"results\.zip: expected a name such as panoptic_test-dev2017_NAME_results\.zip"
    ):
        check(path, form, expected)
    path = path.rename(tmp_path / "panoptic_val2017_other_results.zip")
    [finding] = check(path, form, expected)
    assert finding.check == "json" and str(finding).startswith(
        f"{STEMS['coco_panoptic']}.json: is not named as the zip must be"
    )
    assert not check(path.rename(tmp_path / f"{STEMS['coco_panoptic']}.zip"), form, expected)


@given(hnp.arrays(st.sampled_from([np.uint8, np.int32]), hnp.array_shapes(max_dims=2), elements=st.integers(0, 5)))
def test_counts_of_values(array):
    assert count_values(array) == {v: int((array == v).sum()) for v in sorted(set(array.ravel().tolist()))}
