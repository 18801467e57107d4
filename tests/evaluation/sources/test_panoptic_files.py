"""Panoptic maps read from PNG and JSON: every id where it belongs, every contradiction named."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.metrics.overlaps import count_overlaps
from deeplab2_lite.evaluation.sources.panoptic_files import (
    PanopticFolder,
    check_same_images,
    load_overlaps,
    load_pair,
    read_panoptic_png,
)

INFO = DatasetInfo(
    "three",
    (
        ClassInfo("sky", False, (1, 1, 1), 40),
        ClassInfo("car", True, (2, 2, 2), 7),
        ClassInfo("dog", True, (3, 3, 3), 9),
    ),
    label_divisor=10,
)
VOID = INFO.void_id
IDS = np.array([[0, 5, 5, 70000], [256, 256, 3, 0], [9, 9, 9, 1]], np.int64)


def segment(segment_id, category, **more):
    return {"id": segment_id, "category_id": category, **more}


SEGMENTS = [
    segment(70000, 7),
    segment(5, 40),
    segment(256, 7, iscrowd=1),
    segment(3, 40, iscrowd=0),
    segment(9, 7, iscrowd=0),
    segment(1, 9),
]


def write_png(path, ids=IDS):
    channels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(channels).save(path)
    return path


def write_json(path, annotations, **more):
    path.write_text(json.dumps({"annotations": annotations, **more}))
    return path


def annotation(name, file_name=None, segments=SEGMENTS):
    return {"image_id": name, "file_name": file_name or f"{name}.png", "segments_info": segments}


def write_folder(folder, names, ids=IDS, segments=SEGMENTS):
    (folder / "png").mkdir(parents=True)
    for name in names:
        write_png(folder / "png" / f"{name}.png", ids)
    return write_json(folder / "maps.json", [annotation(name, segments=segments) for name in names])


def opened(folder, names, **arguments):
    return PanopticFolder(write_folder(folder, names, **arguments), folder / "png", INFO)


def test_ids_of_a_truth(tmp_path):
    panoptic = read_panoptic_png(write_png(tmp_path / "a.png"), SEGMENTS, INFO)
    # Cars count in the order of the JSON, the crowd is 0, a second segment of sky stays one of its own.
    np.testing.assert_array_equal(panoptic, [[VOID, 0, 0, 11], [10, 10, 1, VOID], [12, 12, 12, 21]])
    assert panoptic.dtype == np.int32


def test_nothing_is_a_crowd_in_a_prediction(tmp_path):
    panoptic = read_panoptic_png(write_png(tmp_path / "a.png"), SEGMENTS, INFO, is_prediction=True)
    np.testing.assert_array_equal(panoptic, [[VOID, 0, 0, 11], [12, 12, 1, VOID], [13, 13, 13, 21]])


def test_maps_without_void_and_maps_of_void(tmp_path):
    ids = np.full((3, 4), 77)
    path = write_png(tmp_path / "a.png", ids)
    np.testing.assert_array_equal(read_panoptic_png(path, [segment(77, 9)], INFO), np.full((3, 4), 21))
    path = write_png(tmp_path / "b.png", 0 * ids)
    np.testing.assert_array_equal(read_panoptic_png(path, [], INFO), np.full((3, 4), VOID))


@pytest.mark.parametrize("seed", range(5))
def test_random_maps_come_back(tmp_path, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice(2**24 - 1, 12, replace=False) + 1
    ids = rng.choice([0, *values], size=(40, 33))
    ids.flat[:12] = values
    classes = rng.integers(0, 3, size=12)
    segments = [segment(int(v), INFO.classes[c].original_id) for v, c in zip(values, classes, strict=True)]
    panoptic = read_panoptic_png(write_png(tmp_path / "a.png", ids), segments, INFO)
    np.testing.assert_array_equal(panoptic == VOID, ids == 0)
    for value, class_id in zip(values, classes, strict=True):
        found = np.unique(panoptic[ids == value])
        assert found.size == 1 and found[0] // 10 == class_id
        np.testing.assert_array_equal(panoptic == found[0], ids == value)


def test_folders(tmp_path):
    path = write_folder(tmp_path / "a", ["x", "2", "y"])
    content = json.loads(path.read_text())
    content["annotations"][1]["image_id"] = 2
    path.write_text(json.dumps({**content, "images": [{"id": 2, "file_name": "2.jpg"}, {"id": "z"}]}))
    folder = PanopticFolder(path, tmp_path / "a" / "png", INFO)
    assert folder.names == ("x", "2", "y")
    assert folder.png_path("2") == tmp_path / "a/png/2.png"
    assert (folder.image_file("2"), folder.image_file("x")) == ("2.jpg", None)
    np.testing.assert_array_equal(folder.load("2"), read_panoptic_png(tmp_path / "a/png/2.png", SEGMENTS, INFO))
    other = opened(tmp_path / "b", ["2", "y", "x"])
    check_same_images(folder, other)
    for one in load_pair(folder, other, "y"):
        np.testing.assert_array_equal(one, folder.load("y"))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (SEGMENTS[1:], "a.png: segment 70000 is in the PNG but not in the JSON"),
        ([*SEGMENTS, segment(8, 7)], "a.png: segment 8 is in the JSON but not in the PNG"),
        (
            [*SEGMENTS[1:], segment(70000, 8)],
            "a.png: segment 70000 has the category 8; expected a category id of 'three'",
        ),
        ([*SEGMENTS[1:], segment(70000, [7])], r"a.png: segment 70000 has the category \[7\]"),
        ([*SEGMENTS, segment(5, 7)], "a.png: two segments in the JSON have the id 5"),
        ([*SEGMENTS, segment(0, 7)], r"a.png: a segment in the JSON has id 0; expected 1..16777215"),
        ([*SEGMENTS, segment("6", 7)], "a.png: a segment in the JSON has id '6'"),
        (
            [*SEGMENTS, {"id": 6}],
            r"a.png: a segment in the JSON is \{'id': 6\}; expected the keys 'id' and 'category_id'",
        ),
        ([*SEGMENTS, 6], r"a.png: a segment in the JSON is 6; expected"),
        (
            [*SEGMENTS, *(segment(100 + i, 7) for i in range(9))],
            "a.png: more than 9 segments of 'car'; expected a label space with a label_divisor above 10",
        ),
    ],
)
def test_contradictions_are_named(tmp_path, segments, message):
    with pytest.raises(UserError, match=message):
        read_panoptic_png(write_png(tmp_path / "a.png"), segments, INFO)


def damaged(path):
    path.write_bytes(write_png(path).read_bytes()[:60])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: Image.fromarray(IDS.astype(np.uint8)).save(p), "expected an 8-bit RGB PNG .*got PNG of mode L"),
        (lambda p: Image.new("RGBA", (4, 3)).save(p), "expected an 8-bit RGB PNG .*got PNG of mode RGBA"),
        (lambda p: Image.new("RGB", (4, 3)).save(p, "JPEG"), "expected an 8-bit RGB PNG .*got JPEG"),
        (damaged, "damaged or cut off"),
        (lambda p: p.write_text("no image"), "not an image"),
        (lambda p: None, "cannot be read"),
    ],
)
def test_pngs_of_another_kind_are_named(tmp_path, write, message):
    write(tmp_path / "a.png")
    with pytest.raises(UserError, match=message) as error:
        read_panoptic_png(tmp_path / "a.png", SEGMENTS, INFO)
    assert str(error.value).startswith(f"{tmp_path / 'a.png'}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "maps.json: not valid JSON"),
        ("[]", "maps.json: no list 'annotations'"),
        ({"annotations": {}}, "maps.json: no list 'annotations'"),
        ({"annotations": [3]}, r"maps.json: annotations\[0\]: expected an object, got 3"),
        ({"annotations": [{"image_id": 1.5}]}, r"annotations\[0\]: image_id: expected int or str, got 1.5"),
        ({"annotations": [{"image_id": 1}]}, r"annotations\[0\]: file_name: expected str, got None"),
        (
            {"annotations": [{"image_id": 1, "file_name": "a.png"}]},
            r"annotations\[0\]: segments_info: expected list, got None",
        ),
        (
            {"annotations": [annotation("x"), annotation("x")]},
            r"maps.json: annotations\[1\]: a second annotation of image 'x'",
        ),
        ({"annotations": [annotation(n) for n in "xyz"]}, r"y.png: no such file \(nor of 1 more\).*image 'y'"),
    ],
)
def test_jsons_of_another_kind_are_named(tmp_path, content, message):
    write_folder(tmp_path, ["x"])
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "maps.json").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        PanopticFolder(tmp_path / "maps.json", tmp_path / "png", INFO)
    assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_named(tmp_path):
    path = write_folder(tmp_path, ["x"])
    with pytest.raises(UserError, match=r"nowhere: no such folder; expected the PNGs of .*maps.json"):
        PanopticFolder(path, tmp_path / "nowhere", INFO)
    with pytest.raises(UserError, match=r"none.json: cannot be read"):
        PanopticFolder(tmp_path / "none.json", tmp_path / "png", INFO)


def test_missing_extra_and_mis_sized_predictions_are_named(tmp_path):
    truth = opened(tmp_path / "truth", ["x", "y", "z"])
    for names, message in (
        (["x"], r"maps.json: no prediction of image 'y' \(nor of 1 more\); expected one for each image of .*truth"),
        (["x", "y", "z", "w"], r"truth.maps.json: no truth of image 'w'; expected one for each image of .*maps.json"),
    ):
        with pytest.raises(UserError, match=message):
            check_same_images(truth, opened(tmp_path / f"{len(names)}", names))
    small = opened(tmp_path / "small", ["x", "y", "z"], ids=IDS.reshape(4, 3))
    with pytest.raises(UserError, match=r"small/png/y.png: 4x3 pixels; expected 3x4, the size of .*truth/png/y.png"):
        load_pair(truth, small, "y")


def test_overlaps_are_those_of_the_maps(tmp_path):
    rng = np.random.default_rng(0)
    values = [s["id"] for s in SEGMENTS]
    maps = [rng.choice([0, *values], size=(30, 20)) for _ in range(2)]
    folders = []
    for part, ids in enumerate(maps):
        # A second crowd of cars: the two become one.
        segments = [*SEGMENTS[:-1], segment(1, 7, iscrowd=1)]
        path = write_folder(tmp_path / f"{part}", ["x"], ids, segments)
        folders.append(PanopticFolder(path, tmp_path / f"{part}/png", INFO, is_prediction=part == 1))
    truth, prediction = load_pair(*folders, "x")
    expected = count_overlaps(truth, prediction)
    found = load_overlaps(*folders, "x")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.int64
    assert 10 in found.truth and 10 not in found.prediction
    evaluation = Evaluation(INFO)
    from_maps = evaluation.count(truth, ImagePrediction(None, prediction), "x")
    assert evaluation.count_overlaps(found, "x").to_json() == from_maps.to_json()


def test_overlaps_name_the_same_mistakes(tmp_path):
    truth = opened(tmp_path / "truth", ["x"])
    for part, (arguments, message) in enumerate(
        (
            ({"segments": SEGMENTS[1:]}, "x.png: segment 70000 is in the PNG but not in the JSON"),
            ({"segments": [*SEGMENTS, segment(8, 7)]}, "x.png: segment 8 is in the JSON but not in the PNG"),
            ({"ids": IDS.reshape(4, 3)}, "x.png: 4x3 pixels; expected 3x4"),
        )
    ):
        with pytest.raises(UserError, match=message):
            load_overlaps(truth, opened(tmp_path / f"{part}", ["x"], **arguments), "x")


def test_reading_needs_no_tensorflow():
    command = "import sys, deeplab2_lite.evaluation.sources.panoptic_files; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, text=True).stdout == "False\n"


def test_json_that_is_nested_without_end_is_one_line(tmp_path):
    (tmp_path / "pred.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"pred\.json: not valid JSON"):
        PanopticFolder(tmp_path / "pred.json", tmp_path, INFO)
