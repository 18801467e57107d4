"""COCO panoptic annotations become records that say the same, pixel by pixel."""

import argparse
import collections
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.converters import coco_panoptic as coco
from deeplab2_lite.data.record_format import LABEL_KEY, decode_panoptic
from deeplab2_lite.data.records import list_shards, parse_record
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError

CATEGORIES = [
    {"id": 12, "name": "floor", "isthing": 0},
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 5, "name": "dog", "isthing": 1},
]
# Columns of segments: unlabelled, two cats, a crowd of cats, a dog, floor in two parts.
SEGMENT_IDS = np.array([[0, 70000, 300, 7, 16777215, 256, 513]] * 4)
SEGMENTS = [
    {"id": 70000, "category_id": 3, "iscrowd": 0},
    {"id": 7, "category_id": 3, "iscrowd": 1},
    {"id": 300, "category_id": 3, "iscrowd": 0},
    {"id": 16777215, "category_id": 5, "iscrowd": 0},
    {"id": 256, "category_id": 12, "iscrowd": 0},
    {"id": 513, "category_id": 12, "iscrowd": 0},
]
EXPECTED = [255000, 1, 2, 0, 1001, 2000, 2000]


def write_official(folder, split="val", edit=lambda content: None, segment_ids=SEGMENT_IDS):
    """One annotated image in the official layout."""
    source = coco.official_layout(folder, [split])[split]
    source.images.mkdir(parents=True, exist_ok=True)
    source.panoptic.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (4, 7, 3), dtype=np.uint8)
    Image.fromarray(image).save(source.images / "a.jpg")
    channels = np.stack([segment_ids % 256, segment_ids // 256 % 256, segment_ids // 65536], axis=-1)
    Image.fromarray(channels.astype(np.uint8)).save(source.panoptic / "a.png")
    content = {
        "images": [{"id": 9, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 9, "file_name": "a.png", "segments_info": [dict(s) for s in SEGMENTS]}],
        "categories": [dict(c) for c in CATEGORIES],
    }
    edit(content)
    source.annotations.write_text(json.dumps(content))
    return source


def parsed(folder, split):
    info = load_dataset_info(folder)
    dataset = tf.data.TFRecordDataset([str(path) for path in list_shards(folder, split)])
    return [parse_record(record, info) for record in dataset]


def convert_val(tmp_path, overwrite=False, **options):
    conversion = coco.plan(coco.official_layout(tmp_path, ["val"]), **options)
    return convert(conversion, tmp_path / "out", overwrite=overwrite)


def test_segments_become_panoptic_ids(tmp_path):
    source = write_official(tmp_path)
    convert_val(tmp_path)
    info = load_dataset_info(tmp_path / "out")
    assert (info.class_names, info.thing_ids) == (("cat", "dog", "floor"), (0, 1))
    [record] = parsed(tmp_path / "out", "val")
    assert record.panoptic.numpy().tolist() == [EXPECTED] * 4
    assert record.filename.numpy() == b"a.jpg"
    np.testing.assert_array_equal(record.image, np.asarray(Image.open(source.images / "a.jpg")))
    [shard] = list_shards(tmp_path / "out", "val")
    assert (source.images / "a.jpg").read_bytes() in shard.read_bytes()


def test_label_divisor_and_label_space_can_be_given(tmp_path):
    write_official(tmp_path)
    convert_val(tmp_path, label_divisor=3)
    assert parsed(tmp_path / "out", "val")[0].panoptic.numpy()[0].tolist() == [765, 1, 2, 0, 4, 6, 6]
    space = tmp_path / "space.yaml"
    space.write_text(
        "name: pets\nclasses:\n- {name: floor, isthing: false, original_id: 12}\n"
        "- {name: dog, isthing: true, original_id: 5}\n- {name: cat, isthing: true, original_id: 3}\n"
    )
    convert_val(tmp_path, dataset_info=space, overwrite=True)
    assert load_dataset_info(tmp_path / "out").name == "pets"
    expected = [255000, 2001, 2002, 2000, 1001, 0, 0]
    assert parsed(tmp_path / "out", "val")[0].panoptic.numpy()[0].tolist() == expected


def edit_segment(index, **values):
    return lambda content: content["annotations"][0]["segments_info"][index].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edit_segment(0, id=5), r"a\.png: segment 70000 is in the PNG but not in the JSON"),
        (edit_segment(5, id=7), r"annotation 'a\.png': two segments have the id 7"),
        (edit_segment(5, id=0), r"annotation 'a\.png': a segment has id 0"),
        (edit_segment(0, category_id=4), r"segment 70000 has category 4, which is not listed"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("category_id"), r"val2017\.json: .*'category_id'"),
        (
            lambda c: c["annotations"][0]["segments_info"].append({"id": 99, "category_id": 3}),
            "segment 99 is in the JSON",
        ),
        (lambda c: c["images"][0].update(file_name="b.jpg"), r"b\.jpg: cannot be read"),
        (lambda c: c["annotations"][0].update(file_name="b.png"), r"b\.png: cannot be read"),
        (lambda c: c["annotations"][0].update(image_id=8), r"image 'a\.jpg' \(id 9\) has no annotation"),
        (lambda c: c["images"].clear(), r"annotation 'a\.png' is of image 9, which is not listed"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "two annotations of the same image"),
        (lambda c: c.pop("categories"), "no list 'categories'"),
        (lambda c: (c["images"].clear(), c["annotations"].clear()), "split 'val': there is nothing to convert"),
    ],
)
def test_contradictions_are_named(tmp_path, edit, message):
    write_official(tmp_path, edit=edit)
    with pytest.raises(UserError, match=message) as caught:
        convert_val(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*.tfrecord"))


def test_damaged_files_are_named(tmp_path):
    source = write_official(tmp_path)
    whole = (source.images / "a.jpg").read_bytes()
    (source.images / "a.jpg").write_bytes(whole[: len(whole) - 20])
    with pytest.raises(UserError, match=r"a\.jpg: damaged or cut off"):
        convert_val(tmp_path)
    Image.new("RGB", (8, 4)).save(source.images / "a.jpg")
    with pytest.raises(UserError, match=r"a\.png: 4x7 pixels, but its image .*a\.jpg has 4x8"):
        convert_val(tmp_path)
    Image.new("L", (7, 4)).save(source.panoptic / "a.png")
    with pytest.raises(UserError, match=r"a\.png: expected an 8-bit RGB PNG"):
        convert_val(tmp_path)
    source.annotations.write_text("{")
    with pytest.raises(UserError, match=r"panoptic_val2017\.json: not valid JSON"):
        convert_val(tmp_path)
    source.annotations.unlink()
    with pytest.raises(UserError, match=r"panoptic_val2017\.json: cannot be read"):
        convert_val(tmp_path)


def test_too_many_instances_are_refused(tmp_path):
    write_official(tmp_path)
    with pytest.raises(
        UserError, match=r"a\.png: 2 instances of 'cat', but label_divisor 2 holds 1; expected --label_divisor=3"
    ):
        convert_val(tmp_path, label_divisor=2)


def test_splits_must_share_their_categories(tmp_path):
    write_official(tmp_path)
    write_official(tmp_path, "train", edit=lambda c: c["categories"].append({"id": 1, "name": "x", "isthing": 0}))
    with pytest.raises(UserError, match=r"val2017\.json: other categories than .*train2017\.json"):
        convert(coco.plan(coco.official_layout(tmp_path)), tmp_path / "out")


def test_command_line_takes_the_official_and_any_layout(tmp_path):
    source = write_official(tmp_path)
    parser = argparse.ArgumentParser()
    coco.add_arguments(parser)
    official = f"--input {tmp_path} --splits val --output {tmp_path}/a --num_processes 1"
    coco.run(parser.parse_args(official.split()))
    explicit = (
        f"--split val {source.images} {source.annotations} {source.panoptic} --output {tmp_path}/b --num_processes 1"
    )
    coco.run(parser.parse_args(explicit.split()))
    [a], [b] = list_shards(tmp_path / "a", "val"), list_shards(tmp_path / "b", "val")
    assert a.read_bytes() == b.read_bytes()
    twice = explicit.replace("--output", f"--split val {source.images} {source.annotations} {source.panoptic} --output")
    with pytest.raises(UserError, match="two splits have the same name"):
        coco.run(parser.parse_args(twice.split()))


@pytest.mark.real_data
@pytest.mark.parametrize(("split", "count"), [("val", 50), pytest.param("train", 100, marks=pytest.mark.slow)])
def test_real_coco_equals_its_annotations(real_data, tmp_path, split, count):
    [source] = coco.official_layout(real_data / "coco", [split]).values()
    convert(coco.plan({split: source}), tmp_path)
    info = load_dataset_info(tmp_path)
    assert (info.name, info.num_classes, dict(info.splits)) == ("coco", 133, {split: count})
    content = json.loads(source.annotations.read_bytes())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    annotations = {names[a["image_id"]]: a for a in content["annotations"]}
    contiguous = {c.original_id: i for i, c in enumerate(info.classes)}
    records = parsed(tmp_path, split)
    assert len(records) == count
    for record in records:
        name, panoptic = record.filename.numpy().decode(), record.panoptic.numpy()
        with Image.open(source.images / name) as image:
            np.testing.assert_array_equal(record.image, np.asarray(image.convert("RGB")))
        channels = np.asarray(Image.open(source.panoptic / annotations[name]["file_name"])).astype(int)
        segment_ids = channels @ np.array([1, 256, 65536])
        expected, instances = np.full(segment_ids.shape, info.void_id), collections.Counter()
        areas = collections.Counter()
        for segment in annotations[name]["segments_info"]:
            class_id = contiguous[segment["category_id"]]
            panoptic_id = class_id * 1000
            if info.classes[class_id].isthing and not segment["iscrowd"]:
                instances[class_id] += 1
                panoptic_id += instances[class_id]
            expected[segment_ids == segment["id"]] = panoptic_id
            areas[panoptic_id] += segment["area"]
        np.testing.assert_array_equal(panoptic, expected)
        ids, counts = np.unique(panoptic[panoptic != info.void_id], return_counts=True)
        assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == areas


@pytest.mark.real_data
def test_areas_of_all_real_segments_equal_those_of_the_json(real_data):
    sources = coco.official_layout(real_data / "coco")
    conversion = coco.plan(sources)
    info = conversion.converter.info
    images = segments = 0
    for split, items in conversion.splits.items():
        content = json.loads(sources[split].annotations.read_bytes())
        annotations = {annotation["file_name"]: annotation["segments_info"] for annotation in content["annotations"]}
        for item in items:
            example = tf.train.Example.FromString(conversion.converter(item).serialized)
            panoptic = decode_panoptic(example.features.feature[LABEL_KEY].bytes_list.value[0])
            expected, instances = collections.Counter(), collections.Counter()
            for segment, official in zip(item.segments, annotations[item.panoptic.name], strict=True):
                is_instance = info.classes[segment.class_id].isthing and not official["iscrowd"]
                instances[segment.class_id] += is_instance
                instance = instances[segment.class_id] if is_instance else 0
                expected[segment.class_id * info.label_divisor + instance] += official["area"]
            areas = np.bincount(panoptic[panoptic != info.void_id])
            assert {i: areas[i] for i in np.flatnonzero(areas)} == expected, item.image.name
            images, segments = images + 1, segments + len(item.segments)
    assert (images, segments) == (150, 1650)
