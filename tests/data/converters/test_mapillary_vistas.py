"""Mapillary Vistas becomes records that hold its segments, from either of its two kinds of labels."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.converters import mapillary_vistas as vistas
from deeplab2_lite.data.converters.mapillary_labels import (
    class_ids_by_label,
    dataset_info_from_labels,
    panoptic_from_instances,
    read_instances,
    read_labels,
)
from deeplab2_lite.data.records import list_shards, parse_record
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError

LABELS = [
    {"name": "animal--bird", "readable": "Bird", "instances": True, "evaluate": True, "color": [165, 42, 42]},
    {"name": "void--odd", "readable": "Odd", "instances": True, "evaluate": False, "color": [1, 2, 3]},
    {"name": "nature--sky", "readable": "Sky", "instances": False, "evaluate": True, "color": [70, 130, 180]},
    {"name": "void--unlabeled", "readable": "Unlabeled", "instances": False, "evaluate": False, "color": [0, 0, 0]},
    {"name": "object--car", "readable": "Car", "instances": True, "evaluate": True, "color": [0, 0, 142]},
]
# Three birds, an instance of a void label, sky, unlabelled, two cars: label * 256 + instance.
VALUES = np.array([[9, 0, 4, 256 + 7, 512, 768, 1024 + 255, 1024]] * 4, np.uint16)
EXPECTED = [3, 1, 2, 255000, 1000, 255000, 2002, 2001]
# The same in a panoptic PNG: numbered in the order of segment ids, and without segments in void.
SEGMENT_IDS = np.array([[70000, 300, 5, 0, 256, 0, 16777215, 65536]] * 4)
FROM_PANOPTIC = [3, 2, 1, 255000, 1000, 255000, 2002, 2001]
SUBFOLDERS = {"v1.1": "", "v1.2": "v1.2", "v2.0": "v2.0"}
CONFIGS = {"v1.1": "config.json", "v1.2": "config_v1.2.json", "v2.0": "config_v2.0.json"}
PANOPTIC = {"v1.1": "panoptic_2018.json", "v1.2": "panoptic_2018.json", "v2.0": "panoptic_2020.json"}


def to_channels(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def write_panoptic_json(path, names, segments):
    categories = [
        {"id": i + 1, "name": label["readable"], "supercategory": label["name"], "isthing": int(label["instances"])}
        for i, label in enumerate(LABELS)
    ]
    annotations = [{"image_id": n, "file_name": f"{n}.png", "segments_info": [*segments]} for n in names]
    path.write_text(json.dumps({"images": [], "annotations": annotations, "categories": categories}))


def write_tree(root, version="v1.2", splits=("training",), names=("a", "b")):
    root.mkdir(parents=True, exist_ok=True)
    (root / CONFIGS[version]).write_text(json.dumps({"labels": LABELS}))
    rows = [(70000, 1), (300, 1), (5, 1), (256, 3), (16777215, 5), (65536, 5)]
    segments = [{"id": id, "category_id": category, "iscrowd": 0} for id, category in rows]
    for split in splits:
        labels = root / split / SUBFOLDERS[version]
        for folder in (root / split / "images", labels / "instances", labels / "panoptic"):
            folder.mkdir(parents=True, exist_ok=True)
        for seed, name in enumerate(names):
            pixels = np.random.default_rng(seed).integers(0, 256, (*VALUES.shape, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / "images" / f"{name}.jpg")
            Image.fromarray(VALUES).save(labels / "instances" / f"{name}.png")
            Image.fromarray(to_channels(SEGMENT_IDS)).save(labels / "panoptic" / f"{name}.png")
        write_panoptic_json(labels / "panoptic" / PANOPTIC[version], names, segments)


def convert_train(root, output="out", **options):
    return convert(vistas.plan(root, splits=["train"], **options), root / output)


def parsed(folder, split):
    info = load_dataset_info(folder)
    dataset = tf.data.TFRecordDataset([str(path) for path in list_shards(folder, split)])
    return {r.filename.numpy().decode(): r for r in (parse_record(record, info) for record in dataset)}


@pytest.mark.parametrize("version", ["v1.1", "v1.2", "v2.0"])
def test_every_layout_and_both_kinds_of_labels(tmp_path, version):
    write_tree(tmp_path, version, splits=("training", "validation"))
    for labels, expected in (("instances", EXPECTED), ("panoptic", FROM_PANOPTIC)):
        convert(vistas.plan(tmp_path, version=version, labels=labels), tmp_path / labels)
        info = load_dataset_info(tmp_path / labels)
        assert info.name == ("mapillary_vistas_v2" if version == "v2.0" else "mapillary_vistas")
        assert [(c.name, c.isthing, c.color, c.original_id) for c in info.classes] == [
            ("Bird", True, (165, 42, 42), 0),
            ("Sky", False, (70, 130, 180), 2),
            ("Car", True, (0, 0, 142), 4),
        ]
        assert (info.stuff_area_limit, dict(info.splits)) == (4096, {"train": 2, "val": 2})
        for split, folder in (("train", "training"), ("val", "validation")):
            records = parsed(tmp_path / labels, split)
            assert list(records) == ["a.jpg", "b.jpg"]
            for name, record in records.items():
                assert record.panoptic.numpy().tolist() == [expected] * 4
                path = tmp_path / folder / "images" / name
                np.testing.assert_array_equal(record.image, np.asarray(Image.open(path)))
                assert any(path.read_bytes() in shard.read_bytes() for shard in list_shards(tmp_path / labels, split))


def test_crowds_and_void_categories_of_the_json(tmp_path):
    write_tree(tmp_path, names=("a",))
    path = tmp_path / "training/v1.2/panoptic/panoptic_2018.json"
    content = json.loads(path.read_text())
    segments = content["annotations"][0]["segments_info"]
    segments[0]["iscrowd"] = 1
    segments[4]["category_id"] = 2
    # The full name decides; a category may lack it.
    content["categories"][0]["name"] = "Birds"
    del content["categories"][2]["supercategory"]
    path.write_text(json.dumps(content))
    convert_train(tmp_path, labels="panoptic")
    expected = [0, 2, 1, 255000, 1000, 255000, 255000, 2001]
    assert parsed(tmp_path / "out", "train")["a.jpg"].panoptic.numpy()[0].tolist() == expected


def test_test_images_without_labels_are_void(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "testing/images").mkdir(parents=True)
    Image.new("RGB", (5, 3)).save(tmp_path / "testing/images/t.jpg")
    convert(vistas.plan(tmp_path, splits=["test"]), tmp_path / "out")
    panoptic = parsed(tmp_path / "out", "test")["t.jpg"].panoptic.numpy()
    assert panoptic.tolist() == [[255000] * 5] * 3
    # Whoever has labels of them gets them.
    write_tree(tmp_path, splits=("testing",), names=("t",))
    convert(vistas.plan(tmp_path, splits=["test"]), tmp_path / "out", overwrite=True)
    assert parsed(tmp_path / "out", "test")["t.jpg"].panoptic.numpy()[0].tolist() == EXPECTED


def test_longest_side_shrinks_the_splits_that_are_named(tmp_path):
    write_tree(tmp_path, splits=("training", "validation"))

    def sizes(output, **options):
        convert(vistas.plan(tmp_path, longest_side=4, **options), tmp_path / output)
        records = [parsed(tmp_path / output, split)["a.jpg"] for split in ("train", "val")]
        assert all(r.image.shape[:2] == r.panoptic.shape for r in records)
        return [tuple(r.panoptic.shape) for r in records]

    assert sizes("a") == [(2, 4), (4, 8)]
    assert sizes("b", resize_splits=["val"]) == [(4, 8), (2, 4)]
    assert sizes("c", resize_splits=["train", "val"]) == [(2, 4), (2, 4)]
    # Each new pixel takes the label under its middle.
    assert parsed(tmp_path / "a", "train")["a.jpg"].panoptic.numpy()[0].tolist() == EXPECTED[1::2]
    plans = [vistas.plan(tmp_path, longest_side=side) for side in (None, 4, 5)]
    assert len({repr(plan.splits["train"]) for plan in plans}) == 3
    assert len({repr(plan.splits["val"]) for plan in plans}) == 1


def save_instances(values, **options):
    return lambda root: Image.fromarray(values).save(root / "training/v1.2/instances/a.png", **options)


def edit_config(edit):
    def change(root):
        labels = [dict(label) for label in LABELS]
        edit(labels)
        (root / "config_v1.2.json").write_text(json.dumps({"labels": labels}))

    return change


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (save_instances(VALUES + 1024), r"instances/a\.png: value 1287 is of label 5, but the configuration has 5 la"),
        (
            save_instances(np.full((4, 8), 513, np.uint16)),
            r"instances/a\.png: value 513 is instance 1 of 'Sky', a class without instances",
        ),
        (save_instances(np.full((4, 8), 2, np.uint8)), r"instances/a\.png: expected 16 bits a pixel .*, got mode L"),
        (save_instances(VALUES[1:]), r"instances/a\.png: 3x8 pixels, but its image \S+a\.jpg has 4x8"),
        (
            lambda root: (root / "training/v1.2/instances/a.png").write_bytes(b"no PNG"),
            r"instances/a\.png: not an image",
        ),
        (
            lambda root: (root / "training/v1.2/instances/a.png").unlink(),
            r"images/a\.jpg: has no label in \S+/instances \(expected a\.png\); --only_pairs",
        ),
        (
            lambda root: (root / "training/images/b.jpg").unlink(),
            r"instances/b\.png: has no image in \S+/images \(expected b\.jpg\)",
        ),
        (
            lambda root: [path.unlink() for path in root.glob("training/images/*")],
            r"training/images: there is nothing in it to convert; expected files \*\.jpg",
        ),
        (
            lambda root: (root / "training/v1.2").rename(root / "training/v2.0"),
            r"training/v1\.2/instances: no such folder",
        ),
        (
            lambda root: (root / "config_v1.2.json").rename(root / "config_v2.0.json"),
            r"config_v1\.2\.json: no such file; it comes with the data set",
        ),
        (lambda root: (root / "config_v1.2.json").write_text("{"), r"config_v1\.2\.json: not valid JSON"),
        (lambda root: (root / "config_v1.2.json").write_text("[]"), r"config_v1\.2\.json: no list 'labels'"),
        (edit_config(lambda labels: labels.clear()), r"config_v1\.2\.json: no list 'labels'"),
        (edit_config(lambda labels: labels[1].pop("evaluate")), r"labels\[1\]: evaluate: expected true or false"),
        (edit_config(lambda labels: labels[1].update(instances=1)), r"labels\[1\]: instances: expected true or false"),
        (edit_config(lambda labels: labels[2].update(color=[1, 2, 300])), r"labels\[2\]: color: expected three integ"),
        (edit_config(lambda labels: labels[0].update(readable=None)), r"labels\[0\]: readable: expected text, got N"),
        (edit_config(lambda labels: labels.append("Sky")), r"labels\[5\]: expected an object with 'readable'"),
        (
            edit_config(lambda labels: [x.update(evaluate=False) for x in labels]),
            r"config_v1\.2\.json: no label has evaluate",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, break_it, message):
    write_tree(tmp_path)
    break_it(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        convert_train(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*.tfrecord"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c, s: s.pop(), r"panoptic/a\.png: segment 65536 is in the PNG but not in the JSON"),
        (lambda c, s: s.append({"id": 9, "category_id": 1}), r"a\.png: segment 9 is in the JSON but not in the PNG"),
        (lambda c, s: c["categories"][0].update(name="Dodo", supercategory="x"), r"category 1 \('Dodo'\) is none of"),
        (lambda c, s: c["annotations"].pop(), r"images/b\.jpg: has no label in \S+2018\.json \(expected b\.png\)"),
        (lambda c, s: c.pop("annotations"), r"panoptic_2018\.json: no list 'annotations'"),
    ],
)
def test_mistakes_in_the_panoptic_json_are_named(tmp_path, edit, message):
    write_tree(tmp_path)
    path = tmp_path / "training/v1.2/panoptic/panoptic_2018.json"
    content = json.loads(path.read_text())
    edit(content, content["annotations"][0]["segments_info"])
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        convert_train(tmp_path, labels="panoptic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "v2"}, r"version: unknown value 'v2'; did you mean 'v2\.0'"),
        ({"labels": "panoptics"}, r"labels: unknown value 'panoptics'; did you mean 'panoptic'"),
        ({"splits": ["training"]}, r"splits: unknown split 'training'; did you mean 'train'"),
        ({"longest_side": 0}, r"longest_side: expected 1 or more, got 0"),
        ({"resize_splits": ["val"]}, r"resize_splits: nothing to resize them to; expected --longest_side"),
        ({"resize_splits": ["test"], "longest_side": 5}, r"resize_splits: 'test' is not converted; .*: train, val"),
        ({"splits": ["val"], "longest_side": 5}, r"resize_splits: 'train' is not converted; expected some of: val"),
        ({"config": "elsewhere.json"}, r"elsewhere\.json: cannot be read"),
    ],
)
def test_settings_are_checked(tmp_path, options, message):
    write_tree(tmp_path, splits=("training", "validation"))
    with pytest.raises(UserError, match=message):
        vistas.plan(tmp_path, **options)


def test_too_many_instances_are_refused(tmp_path):
    write_tree(tmp_path)
    with pytest.raises(UserError, match=r"a\.png: 3 instances of 'Bird', but label_divisor 3 holds 2"):
        convert_train(tmp_path, label_divisor=3)


def test_command_line(tmp_path, capsys):
    write_tree(tmp_path, "v2.0")
    (tmp_path / CONFIGS["v2.0"]).rename(tmp_path / "labels.json")
    (tmp_path / "training/images/b.jpg").unlink()
    words = f"convert mapillary_vistas --input {tmp_path} --output {tmp_path}/out --num_processes 1 --splits train"
    options = f"--version v2.0 --config {tmp_path}/labels.json --labels panoptic --longest_side 4 --resize_splits train"
    assert cli.main([*words.split(), *options.split()]) == 2
    assert "panoptic/b.png: has no image" in capsys.readouterr().err
    assert cli.main([*words.split(), *options.split(), "--only_pairs", "--label_divisor", "50"]) == 0
    [record] = parsed(tmp_path / "out", "train").values()
    assert record.panoptic.numpy()[0].tolist() == [2, 12750, 12750, 101]


def test_preset_of_version_2():
    # 124 labels: 70 of things, 46 of stuff, 8 void or crowd, as its documentation counts them.
    info = load_dataset_info("mapillary_vistas_v2")
    assert (info.num_classes, len(info.thing_ids), info.stuff_area_limit) == (116, 70, 4096)
    assert set(range(124)) - {c.original_id for c in info.classes} == {2, 31, 38, 79, 86, 96, 115, 123}
    assert len(set(info.class_names)) == 116


def assert_same_partition(a, b):
    """Two label images show the same segments, by whatever ids."""
    pairs = np.unique(a.astype(np.int64).ravel() << 32 | b.ravel())
    assert len(pairs) == len(np.unique(pairs >> 32)) == len(np.unique(pairs & (2**32 - 1)))


def link_real(real_data, root):
    """The real images with a JSON of the one panoptic PNG, whose classes are read from `labels`."""
    source = real_data / "mapillary_vistas"
    (root / "training/v1.2").mkdir(parents=True)
    (root / "config_v1.1.json").symlink_to(source / "config_v1.1.json")
    (root / "training/images").symlink_to(source / "training/images")
    (root / "training/v1.2/instances").symlink_to(source / "training/v1.2/instances")
    (root / "training/v1.2/panoptic").mkdir()
    [png] = (source / "training/v1.2/panoptic").glob("*.png")
    (root / "training/v1.2/panoptic" / png.name).symlink_to(png)
    segment_ids = np.asarray(Image.open(png)).astype(int) @ np.array([1, 256, 65536])
    labels = np.asarray(Image.open(source / "training/v1.2/labels" / png.name)).astype(int)
    rows = [divmod(pair, 256) for pair in np.unique(segment_ids * 256 + labels).tolist() if pair >= 256]
    assert len({segment for segment, _ in rows}) == len(rows) > 40
    config = json.loads((source / "config_v1.1.json").read_text())["labels"]
    content = {
        "annotations": [
            {
                "image_id": png.stem,
                "file_name": png.name,
                "segments_info": [{"id": segment, "category_id": label + 1, "iscrowd": 0} for segment, label in rows],
            }
        ],
        "categories": [
            {"id": i + 1, "name": x["readable"], "supercategory": x["name"]}
            for i, x in enumerate(config)
            if x["evaluate"]
        ],
    }
    (root / "training/v1.2/panoptic/panoptic_2018.json").write_text(json.dumps(content))
    return png.stem, segment_ids


@pytest.mark.real_data
def test_the_official_panoptic_image_shows_what_instances_show(real_data, tmp_path):
    stem, segment_ids = link_real(real_data, tmp_path)
    conversion = vistas.plan(tmp_path, splits=["train"], labels="panoptic", only_pairs=True)
    [item] = conversion.splits["train"]
    assert item.image.stem == stem
    convert(conversion, tmp_path / "out")
    info = load_dataset_info(tmp_path / "out")
    assert info.classes == load_dataset_info("mapillary_vistas").classes
    from_panoptic = parsed(tmp_path / "out", "train")[f"{stem}.jpg"].panoptic.numpy()
    values = read_instances(tmp_path / "training/v1.2/instances" / f"{stem}.png")
    class_ids = class_ids_by_label(read_labels(tmp_path / "config_v1.1.json"), info)
    from_instances = panoptic_from_instances(values, class_ids, info, item.label)
    np.testing.assert_array_equal(from_panoptic // 1000, from_instances // 1000)
    assert_same_partition(from_panoptic, from_instances)
    assert_same_partition(segment_ids, from_instances)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("longest_side", [None, 2177])
def test_all_real_images_decode_to_their_sources(real_data, tmp_path, longest_side):
    source = real_data / "mapillary_vistas"
    conversion = vistas.plan(source, splits=["train"], longest_side=longest_side)
    convert(conversion, tmp_path)
    info = load_dataset_info(tmp_path)
    preset = load_dataset_info("mapillary_vistas")
    assert (info.name, info.classes) == (preset.name, preset.classes)
    assert dataset_info_from_labels("mapillary_vistas", read_labels(source / "config_v1.1.json")) == preset
    records = parsed(tmp_path, "train")
    assert len(records) == 2
    for name, record in records.items():
        panoptic = record.panoptic.numpy()
        image = np.asarray(Image.open(source / "training/images" / name))
        folder = source / "training/v1.2"
        labels, instances = (
            np.asarray(Image.open(folder / kind / name.replace(".jpg", ".png"))).astype(int)
            for kind in ("labels", "instances")
        )
        if longest_side is not None:
            scale = longest_side / max(image.shape)
            assert max(panoptic.shape) == 2177 and min(panoptic.shape) == round(min(image.shape[:2]) * scale)
            rows, columns = (
                np.floor((np.arange(new) + 0.5) * old / new).astype(int)
                for old, new in zip(labels.shape, panoptic.shape, strict=True)
            )
            labels, instances = labels[rows[:, None], columns], instances[rows[:, None], columns]
            averaged = Image.fromarray(image).resize(panoptic.shape[::-1], Image.Resampling.BOX)
            assert np.abs(record.image.numpy().astype(int) - np.asarray(averaged)).mean() < 4
        else:
            np.testing.assert_array_equal(record.image, image)
        # Label 65 is unlabelled; all others are classes, in their order.
        np.testing.assert_array_equal(np.where(labels < 65, labels, 255), panoptic // 1000)
        assert_same_partition(instances, panoptic)
