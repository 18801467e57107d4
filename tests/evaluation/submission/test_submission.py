"""COCO-panoptic files: what is written reads back as the same map, by our own converter and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.converters import coco_panoptic as coco
from deeplab2_lite.data.records import list_shards, parse_record
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, load_dataset_info
from deeplab2_lite.evaluation.submission.coco_panoptic import CocoPanopticWriter

# Class 0 is stuff: without instance its panoptic id is 0, which is void in the format.
INFO = DatasetInfo(
    "street",
    (
        ClassInfo("road", False, (10, 20, 30), 7),
        ClassInfo("person", True, (40, 50, 60), 24),
        ClassInfo("sky", False, (70, 80, 90), 23),
        ClassInfo("car", True, (1, 2, 3), 26),
    ),
)
VOID = 255000
PANOPTIC = np.array(
    [
        [0, 0, 1001, 1001, VOID, 2000],
        [0, 3002, 1001, 1002, VOID, 0],
        [3001, 3002, 3002, 1002, 2000, 0],
    ],
    np.int32,
)
IDS = st.sampled_from([0, 1001, 1002, 2000, 3001, 3002, 3003, VOID])


def write(folder, *maps, info=INFO):
    writer = CocoPanopticWriter(info, folder / "panoptic.json", folder / "panoptic")
    for i, panoptic in enumerate(maps):
        writer.add(f"image_{i}.jpg", panoptic)
    return json.loads(writer.finish().read_text())


def decoded(path):
    """Segment ids of a PNG, R + 256 G + 65536 B."""
    with Image.open(path) as image:
        assert (image.mode, image.format) == ("RGB", "PNG")
        channels = np.asarray(image).astype(np.int64)
    return channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]


def slow_segments(panoptic, ids):
    """What the format says of each segment, by one pass over the map for each."""
    segments = {}
    for panoptic_id in sorted(set(panoptic.ravel().tolist()) - {VOID}):
        mask = panoptic == panoptic_id
        [segment_id] = set(ids[mask].tolist())
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        segments[segment_id] = {
            "id": segment_id,
            "category_id": INFO.classes[panoptic_id // 1000].original_id,
            "area": int(mask.sum()),
            "bbox": [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1],
            "iscrowd": int(panoptic_id in (1000, 3000)),
        }
    return segments


def assert_describes(folder, annotation, panoptic):
    ids = decoded(folder / "panoptic" / annotation["file_name"])
    assert ids.shape == panoptic.shape
    np.testing.assert_array_equal(ids == 0, panoptic == VOID)
    expected = slow_segments(panoptic, ids)
    # Different segments have different ids.
    assert len(expected) == len(set(panoptic.ravel().tolist()) - {VOID})
    assert {segment["id"]: segment for segment in annotation["segments_info"]} == expected
    assert len(annotation["segments_info"]) == len(expected)


def test_files_and_json(tmp_path):
    content = write(tmp_path, PANOPTIC, PANOPTIC[:2, :3])
    assert list(content) == ["images", "annotations", "categories"]
    assert content["images"] == [
        {"id": "image_0", "file_name": "image_0.jpg", "height": 3, "width": 6},
        {"id": "image_1", "file_name": "image_1.jpg", "height": 2, "width": 3},
    ]
    assert content["categories"] == [
        {"id": 7, "name": "road", "isthing": 0, "color": [10, 20, 30]},
        {"id": 24, "name": "person", "isthing": 1, "color": [40, 50, 60]},
        {"id": 23, "name": "sky", "isthing": 0, "color": [70, 80, 90]},
        {"id": 26, "name": "car", "isthing": 1, "color": [1, 2, 3]},
    ]
    assert [(a["image_id"], a["file_name"]) for a in content["annotations"]] == [
        ("image_0", "image_0.png"),
        ("image_1", "image_1.png"),
    ]
    for annotation, panoptic in zip(content["annotations"], (PANOPTIC, PANOPTIC[:2, :3]), strict=True):
        assert_describes(tmp_path, annotation, panoptic)
    by_category = {s["category_id"]: s for s in content["annotations"][1]["segments_info"]}
    assert by_category[26]["bbox"] == [1, 1, 1, 1] and by_category[7]["bbox"] == [0, 0, 2, 2]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["image_0.png", "image_1.png", "panoptic", "panoptic.json"]


@given(panoptic=hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=IDS, fill=IDS))
def test_segments_are_those_of_a_plain_reading(panoptic, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "submission"
    content = write(folder, panoptic)
    assert_describes(folder, content["annotations"][0], panoptic)


def test_images_keep_their_ids(tmp_path):
    writer = CocoPanopticWriter(INFO, tmp_path / "a.json", tmp_path / "deep" / "a")
    writer.add("000000000139.jpg", PANOPTIC, image_id=139)
    content = json.loads(writer.finish().read_text())
    assert content["images"][0]["id"] == content["annotations"][0]["image_id"] == 139
    assert (tmp_path / "deep" / "a" / "000000000139.png").is_file()


def test_an_all_void_map_has_no_segments(tmp_path):
    content = write(tmp_path, np.full((2, 3), VOID, np.int32))
    assert content["annotations"][0]["segments_info"] == []
    assert not decoded(tmp_path / "panoptic" / "image_0.png").any()


def test_things_without_a_number_are_a_crowd(tmp_path):
    panoptic = np.array([[0, 1000, 1001, 2000]], np.int32)
    segments = write(tmp_path, panoptic)["annotations"][0]["segments_info"]
    assert [(s["category_id"], s["iscrowd"]) for s in segments] == [(7, 0), (24, 1), (24, 0), (23, 0)]


def test_the_largest_ids_fit(tmp_path):
    classes = tuple(ClassInfo(str(i), True, (0, 0, 0), i) for i in range(255))
    info = DatasetInfo("large", classes, ignore_label=255, label_divisor=65535)
    panoptic = np.array([[254 * 65535 + 65534, info.void_id, 0, 65534]], np.int32)
    content = write(tmp_path, panoptic, info=info)
    ids = decoded(tmp_path / "panoptic" / "image_0.png")
    assert ids[0, 1] == 0 and len(set(ids.ravel().tolist())) == 4
    segments = {s["id"]: s["category_id"] for s in content["annotations"][0]["segments_info"]}
    assert segments == {ids[0, 0]: 254, ids[0, 2]: 0, ids[0, 3]: 0}


# The PNGs and the JSON are what the converter of data sets reads.


def test_our_converter_gives_the_same_maps(tmp_path):
    random = np.random.default_rng(0)
    crowded = np.where(random.uniform(size=(3, 6)) < 0.3, 1000, PANOPTIC)
    maps = [PANOPTIC, crowded.astype(np.int32)]
    for i, panoptic in enumerate(maps):
        # As a merge numbers them: from 1 within each class.
        for class_id in INFO.thing_ids:
            present = sorted(set(panoptic[panoptic // 1000 == class_id].tolist()) - {class_id * 1000})
            assert present == [class_id * 1000 + 1 + n for n in range(len(present))]
        (tmp_path / "images").mkdir(exist_ok=True)
        image = random.integers(0, 256, (*panoptic.shape, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"image_{i}.jpg")
    write(tmp_path, *maps)
    source = coco.SplitSource(tmp_path / "images", tmp_path / "panoptic.json", tmp_path / "panoptic")
    convert(coco.plan({"val": source}, dataset_info=INFO), tmp_path / "records")
    info = load_dataset_info(tmp_path / "records")
    assert info.classes == INFO.classes
    records = tf.data.TFRecordDataset([str(p) for p in list_shards(tmp_path / "records", "val")])
    parsed = [parse_record(record, info) for record in records]
    assert [p.filename.numpy() for p in parsed] == [b"image_0.jpg", b"image_1.jpg"]
    for record, panoptic in zip(parsed, maps, strict=True):
        np.testing.assert_array_equal(record.panoptic, panoptic)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_categories_alone_are_a_label_space(tmp_path, order):
    write(tmp_path, *[(PANOPTIC, PANOPTIC[:1])[i] for i in order])
    info = load_dataset_info(tmp_path / "panoptic.json")
    assert [(c.name, c.isthing, c.color, c.original_id) for c in info.classes] == [
        (c.name, c.isthing, c.color, c.original_id) for c in sorted(INFO.classes, key=lambda c: c.original_id)
    ]
