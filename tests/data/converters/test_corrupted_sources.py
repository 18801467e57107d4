"""Damaged sources of every layout end in one line that names the culprit, and leave no record behind."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from deeplab2_lite import cli
from deeplab2_lite.data.records import list_shards

from . import corrupted
from .corrupted import ANY_FILE, COLOUR_MAPS, ID_MAPS, IMAGES, LAYOUTS, doubled, in_first, json_faults, with_value

_CITY, _GT = "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png", "gtFine/train/ulm/ulm_000001_000019"
_PHOTO = {**ANY_FILE, **IMAGES}
_WITHOUT_SIZE = {name: spoil for name, spoil in _PHOTO.items() if name != "other_size"}
_SEGMENTS = [{"id": 7, "category_id": 3}, {"id": 265, "category_id": 5}]

# What is spoilt: the second file of its kind where there are two, so that a record was made before.
CORPUS = {
    "instance_masks": {
        "train/images/b.png": _PHOTO,
        "train/masks/b.png": {k: v for k, v in {**ANY_FILE, **ID_MAPS}.items() if k != "wrong_id"},
    },
    "semantic_maps": {"train/images/b.jpg": _PHOTO, "train/labels/b.png": {**ANY_FILE, **ID_MAPS}},
    # A class that has lost its image still is one.
    "image_folders": {"train/bee/a.jpg": {k: v for k, v in _WITHOUT_SIZE.items() if k not in ("deleted", "folder")}},
    "coco_panoptic": {
        "train2017/b.jpg": _PHOTO,
        "annotations/panoptic_train2017/b.png": {**ANY_FILE, **COLOUR_MAPS},
        "annotations/panoptic_train2017.json": {
            **ANY_FILE,
            **json_faults(["images", "annotations", "categories"], ["images", "annotations", "categories"]),
            "unlisted_category": in_first("annotations", "segments_info", [{"id": 7, "category_id": 99}]),
            "segment_not_in_png": in_first("annotations", "segments_info", [*_SEGMENTS, {"id": 12, "category_id": 5}]),
            "segment_not_in_json": in_first("annotations", "segments_info", _SEGMENTS[:1]),
            "segment_twice": in_first("annotations", "segments_info", [*_SEGMENTS, _SEGMENTS[0]]),
            "segment_zero": in_first("annotations", "segments_info", [*_SEGMENTS, {"id": 0, "category_id": 5}]),
            "segments_text": in_first("annotations", "segments_info", "text"),
            "segment_id_text": in_first("annotations", "segments_info", [{"id": "x", "category_id": 3}]),
            "no_segments": in_first("annotations", "segments_info", ...),
            "unlisted_image": in_first("annotations", "image_id", "c"),
            "no_image_id": in_first("annotations", "image_id", ...),
            "no_file_name": in_first("images", "file_name", ...),
            "file_name_number": in_first("images", "file_name", 7),
            "annotation_twice": doubled("annotations"),
            "category_twice": doubled("categories"),
            "category_without_name": in_first("categories", "name", ...),
            "no_isthing": in_first("categories", "isthing", ...),
        },
    },
    "coco_instances": {
        "train2017/b.jpg": _PHOTO,
        "annotations/instances_train2017.json": {
            **ANY_FILE,
            **json_faults(["images", "annotations", "categories"], ["images", "annotations", "categories"]),
            "unlisted_category": in_first("annotations", "category_id", 99),
            "unlisted_image": in_first("annotations", "image_id", 99),
            "no_segmentation": in_first("annotations", "segmentation", ...),
            "segmentation_text": in_first("annotations", "segmentation", "text"),
            "two_points": in_first("annotations", "segmentation", [[1, 1, 2, 2]]),
            "odd_coordinates": in_first("annotations", "segmentation", [[1, 1, 2, 2, 3, 3, 4]]),
            "coordinate_text": in_first("annotations", "segmentation", [["a", 1, 2, 2, 3, 3]]),
            "coordinate_nan": in_first("annotations", "segmentation", [[float("nan"), 1, 2, 2, 3, 3]]),
            "mask_of_other_size": in_first("annotations", "segmentation", {"size": [3, 3], "counts": [9]}),
            "runs_too_short": in_first("annotations", "segmentation", {"size": [6, 8], "counts": [9]}),
            "runs_negative": in_first("annotations", "segmentation", {"size": [6, 8], "counts": [-1, 49]}),
            "runs_text": in_first("annotations", "segmentation", {"size": [6, 8], "counts": "\x01"}),
            "height_text": in_first("images", "height", "x"),
            "height_wrong": in_first("images", "height", 7),
            "category_twice": doubled("categories"),
            "image_twice": doubled("images"),
        },
    },
    "labelme": {
        "train/b.png": _PHOTO,
        "train/b.json": {
            # Images without labels, or labels without the image's size, are usual.
            **{k: v for k, v in ANY_FILE.items() if k != "deleted"},
            **json_faults(["shapes"], ["shapes"]),
            "height_text": with_value("imageHeight", "text"),
            "height_wrong": with_value("imageHeight", 7),
            "no_points": in_first("shapes", "points", ...),
            "points_text": in_first("shapes", "points", "text"),
            "point_of_three": in_first("shapes", "points", [[1, 2, 3], [3, 4, 5]]),
            "point_nan": in_first("shapes", "points", [[float("nan"), 2], [3, 4]]),
            "one_point": in_first("shapes", "points", [[1, 2]]),
            "no_label": in_first("shapes", "label", ...),
            "label_number": in_first("shapes", "label", 3),
            "unknown_kind": in_first("shapes", "shape_type", "heart"),
        },
    },
    "cityscapes": {_CITY: _PHOTO, f"{_GT}_gtFine_instanceIds.png": {**ANY_FILE, **ID_MAPS}},
    "mapillary_vistas": {
        "training/images/b.jpg": _PHOTO,
        "training/v1.2/instances/b.png": {**ANY_FILE, **ID_MAPS},
        "config_v1.2.json": {
            **ANY_FILE,
            **json_faults(["labels"], ["labels"]),
            "no_color": in_first("labels", "color", ...),
            "color_of_two": in_first("labels", "color", [1, 2]),
            "evaluate_text": in_first("labels", "evaluate", "yes"),
        },
    },
}
PARTNERS = {
    ("coco_panoptic", "segment_not_in_png"): "a.png: segment 12 is in the JSON but not in the PNG",
    ("coco_panoptic", "segment_not_in_json"): "a.png: segment 265 is in the PNG but not in the JSON",
    ("coco_instances", "height_wrong"): "a.jpg: 6x8 pixels, but its annotations are of 7x8",
    ("labelme", "other_size"): "b.json: imageHeight and imageWidth are 6 and 8, but the image has 7x8 pixels",
}
CASES = [
    (layout, file, fault) for layout, files in CORPUS.items() for file, faults in files.items() for fault in faults
]


def converted(words: list[str], out: Path, capsys) -> tuple[int, list[str]]:
    status = cli.main(["convert", *words, "--output", str(out), "--num_processes", "1"])
    return status, [line for line in capsys.readouterr().err.splitlines() if line.strip()]


def assert_nothing_written(out: Path) -> None:
    left = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    assert left in ([], ["conversion.json"])


def test_the_corpus_is_large():
    assert len(CASES) >= 200


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_sound_data_sets_convert(layout, tmp_path, capsys):
    status, lines = converted(LAYOUTS[layout](tmp_path / "in"), tmp_path / "out", capsys)
    assert (status, lines) == (0, [])
    shards = [str(path) for path in list_shards(tmp_path / "out", "train")]
    assert sum(1 for _ in tf.data.TFRecordDataset(shards)) == 2


@pytest.mark.parametrize(("layout", "file", "fault"), CASES)
def test_a_damaged_file_is_named_in_one_line(layout, file, fault, tmp_path, capsys):
    words = LAYOUTS[layout](tmp_path / "in")
    path = tmp_path / "in" / file
    CORPUS[layout][file][fault](path)
    status, lines = converted(words, tmp_path / "out", capsys)
    assert status == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
    # The file, or where it is gone the one that needs it, or the other one of two that disagree.
    named = [path.name, PARTNERS.get((layout, fault), path.name)]
    if fault in ("deleted", "folder", "dangling", "circular"):
        named.append(path.stem)
    assert any(name in lines[0] for name in named), lines
    assert_nothing_written(tmp_path / "out")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_may_not_be_read_is_named(layout, tmp_path, capsys, monkeypatch):
    words = LAYOUTS[layout](tmp_path / "in")
    file = next(iter(CORPUS[layout]))
    read_bytes = Path.read_bytes

    def refuse(path):
        # Permissions do not stop the user that tests may run as.
        if path == tmp_path / "in" / file:
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    status, lines = converted(words, tmp_path / "out", capsys)
    assert (status, lines) == (2, [f"error: {tmp_path / 'in' / file}: cannot be read (Permission denied)"])
    assert_nothing_written(tmp_path / "out")


def limit_file_size() -> None:
    """As on a full disk, writing fails beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))


def test_a_full_disk_leaves_no_half_shard(tmp_path):
    words = corrupted.instance_masks(tmp_path / "in")
    for i in range(30):
        corrupted.photograph(tmp_path / "in" / "train" / "images" / f"c{i}.png")
        corrupted.label(tmp_path / "in" / "train" / "masks" / f"c{i}.png", corrupted.blocks(0, 1))
    command = [sys.executable, "-m", "deeplab2_lite.cli", "convert", *words, "--output", str(tmp_path / "out")]
    root = Path(cli.__file__).resolve().parent.parent
    done = subprocess.run(
        [*command, "--num_processes", "1"], cwd=root, capture_output=True, text=True, preexec_fn=limit_file_size
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and "train-00000-of-00001.tfrecord: cannot be written" in lines[0], lines
    assert_nothing_written(tmp_path / "out")
    # With room again, the same command goes on.
    assert cli.main(["convert", *words, "--output", str(tmp_path / "out"), "--num_processes", "1"]) == 0
