"""The validator of panoptic submissions: each rule, broken alone, is named with the file."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from .submission_doubles import STEMS, array_of, check, cut, keys_of, save, write_submission

A = keys_of("cityscapes_panoptic")[0]
STEM = STEMS["coco_panoptic"]
C, D = keys_of("coco_panoptic")
PNG = f"{STEM}/{C}.png"


def edit(change):
    """Changes the JSON of a panoptic submission."""

    def break_it(folder):
        [path] = folder.glob("*.json")
        content = json.loads(path.read_text())
        change(content["annotations"])
        path.write_text(json.dumps(content))

    return break_it


def segment(**values):
    return edit(lambda annotations: annotations[0]["segments_info"][0].update(values))


def paint(folder):
    image = array_of(folder / PNG)
    image[0, 0] = (1, 2, 3)
    save(folder / PNG, image)


def erase(folder):
    image = array_of(folder / PNG)
    image[(image == image[-1, -1]).all(-1)] = 0
    save(folder / PNG, image)


def twice(rows):
    rows.append(dict(rows[0]))


def two_of_one_id(rows):
    segments = rows[0]["segments_info"]
    segments.append(dict(segments[0]))


def stuff_twice(rows):
    segments = rows[0]["segments_info"]
    segments[0]["category_id"] = segments[-1]["category_id"] = 200


PANOPTIC_FAULTS = {
    "missing annotation": (
        lambda f: (edit(lambda rows: rows.pop(0))(f), (f / PNG).unlink()),
        "missing",
        f"{C}: no annotation of image 139 in {STEM}.json",
    ),
    "missing png": (lambda f: (f / PNG).unlink(), "missing", f"{PNG}: no such PNG; expected one, as {STEM}.json says"),
    "unlisted png": (
        lambda f: shutil.copy(f / PNG, f / STEM / "000000000001.png"),
        "extra",
        f"{STEM}/000000000001.png: is in no annotation",
    ),
    "unknown image": (
        edit(lambda rows: rows.append({"image_id": 1, "file_name": "1.png", "segments_info": []})),
        "extra",
        f"{STEM}.json: annotation of image 1: no image that coco_panoptic asks for",
    ),
    "image twice": (edit(twice), "double", f"{STEM}.json: annotation of image 139: is there twice"),
    "id as text": (
        edit(lambda rows: rows[0].update(image_id="139")),
        "json",
        f"{STEM}.json: annotations[0]: image_id: expected an integer, got '139'",
    ),
    "no segments": (
        edit(lambda rows: rows[0].pop("segments_info")),
        "json",
        f"{STEM}.json: annotations[0]: segments_info: expected a list",
    ),
    "half an id": (
        segment(category_id=1.0),
        "json",
        f"{STEM}.json: annotations[0]: segments_info: category_id: expected an integer, got 1.0",
    ),
    "bad json": (lambda f: cut(f / f"{STEM}.json"), "json", f"{STEM}.json: not valid JSON"),
    "list alone": (
        lambda f: (f / f"{STEM}.json").write_text("[]"),
        "json",
        f"{STEM}.json: no list 'annotations'",
    ),
    "no json": (lambda f: (f / f"{STEM}.json").unlink(), "missing", "*.json: no JSON; expected one at the root"),
    "other name": (
        lambda f: ((f / f"{STEM}.json").rename(f / "results.json"), (f / STEM).rename(f / "results")),
        "json",
        "results.json: is not named as the zip must be; expected a name such as panoptic_test-dev2017_NAME_results",
    ),
    "second json": (
        lambda f: shutil.copy(f / f"{STEM}.json", f / "z.json"),
        "extra",
        f"z.json: is a second JSON beside {STEM}.json",
    ),
    "other file": (lambda f: (f / "README").write_text(""), "extra", f"README: expected {STEM}.json and PNGs alone"),
    "pngs at the root": (
        lambda f: (f / PNG).rename(f / f"{C}.png"),
        "depth",
        f"{C}.png: expected in the folder '{STEM}/' at the root",
    ),
    "nested": (
        lambda f: (shutil.copytree(f, f.parent / "x"), shutil.rmtree(f), shutil.copytree(f.parent / "x", f / "deep")),
        "depth",
        f"deep/{STEM}.json: is in a folder; expected '{STEM}.json' at the root",
    ),
    "size": (lambda f: save(f / PNG, array_of(f / PNG)[:-1]), "size", f"{PNG}: is 11x20 pixels; expected 12x20"),
    "grey": (
        lambda f: save(f / PNG, array_of(f / PNG)[..., 0]),
        "mode",
        f"{PNG}: has mode L with 8 bits; expected 8-bit RGB",
    ),
    "alpha": (
        lambda f: Image.open(f / PNG).convert("RGBA").save(f / PNG),
        "mode",
        f"{PNG}: has mode RGBA with 8 bits",
    ),
    "truncated": (lambda f: cut(f / PNG), "png", f"{PNG}: is damaged or cut off"),
    "not in the json": (paint, "segments", f"{PNG}: segment 197121 is in the PNG but not in {STEM}.json"),
    "not in the png": (erase, "segments", f"{PNG}: segment"),
    "wrong area": (segment(area=7), "area", f"{STEM}.json: segment"),
    "two of one id": (edit(two_of_one_id), "ids", f"{STEM}.json: segment"),
    "unknown category": (segment(category_id=12), "category", f"{STEM}.json: segment"),
    "crowd": (segment(iscrowd=1), "iscrowd", f"{STEM}.json: segment"),
    "stuff twice": (edit(stuff_twice), "stuff", f"{STEM}.json: segment"),
    "void as a segment": (
        edit(lambda rows: rows[0]["segments_info"].append({"id": 0, "category_id": 1})),
        "void",
        f"{STEM}.json: segment 0 of {PNG}: 0 stands for void",
    ),
}


@pytest.mark.parametrize("fault", PANOPTIC_FAULTS)
def test_faults_of_segments(tmp_path, fault):
    form, expected = write_submission(tmp_path / "files", "coco_panoptic")
    break_it, check_name, text = PANOPTIC_FAULTS[fault]
    break_it(tmp_path / "files")
    findings = check(tmp_path / "files", form, expected)
    assert [f.check for f in findings if str(f).startswith(text)] == [check_name], findings
    # Some faults make a file superfluous, or another one missing, but nothing else.
    assert {f.check for f in findings} - {check_name} <= {"extra", "missing"}, findings


def test_areas_and_more_may_be_left_out(tmp_path):
    form, expected = write_submission(tmp_path / "files", "cityscapes_panoptic")

    def strip(rows):
        for row in rows:
            row["segments_info"] = [{k: s[k] for k in ("id", "category_id")} for s in row["segments_info"]]

    edit(strip)(tmp_path / "files")
    assert not check(tmp_path / "files", form, expected)


def test_image_ids_of_cityscapes_are_the_names_beginnings(tmp_path):
    form, _ = write_submission(tmp_path / "files", "cityscapes_panoptic")
    edit(lambda rows: rows[0].update(image_id=f"{A}_leftImg8bit"))(tmp_path / "files")
    [finding] = check(tmp_path / "files", form, None)
    assert finding.check == "extra" and f"'{A}_leftImg8bit'" in finding.message


def test_vistas_counts_categories_from_one(tmp_path):
    form, expected = write_submission(tmp_path / "files", "mapillary_panoptic")
    [path] = (tmp_path / "files").glob("*.json")
    used = {s["category_id"] for a in json.loads(path.read_text())["annotations"] for s in a["segments_info"]}
    info = form.info
    shown = (info.stuff_ids[0], info.stuff_ids[-1], info.thing_ids[1], info.thing_ids[-1])
    assert used == {info.classes[i].original_id + 1 for i in shown}
    segment(category_id=0)(tmp_path / "files")
    assert [f.check for f in check(tmp_path / "files", form, expected)] == ["category"]
