"""Cityscapes becomes records that hold what cityscapesScripts makes of the same labels."""

import json
import shutil
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.conversion.output import Conversion
from deeplab2_lite.data.converters import cityscapes
from deeplab2_lite.data.records import list_shards, parse_record
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError

INFO = load_dataset_info("cityscapes")
# Unlabelled, road, sky, a crowd of cars, three cars, a person, a caravan, out of roi, a crowd of bicycles, a plate.
VALUES = np.array([[0, 7, 23, 26, 26004, 26000, 26001, 24001, 29000, 3, 33, 65535]] * 3, np.uint16)
EXPECTED = [255000, 0, 10000, 13000, 13003, 13001, 13002, 11001, 255000, 255000, 18000, 255000]


def write_image(root, stem, split="train", size=VALUES.shape, seed=0):
    path = root / "leftImg8bit" / split / stem.split("_")[0] / f"{stem}_leftImg8bit.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_label(root, stem, split="train", values=VALUES, kind="gtFine"):
    path = root / kind / split / stem.split("_")[0] / f"{stem}_{kind}_instanceIds.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def write_tree(root, stems=("aachen_000000_000019", "bochum_000000_000313")):
    for seed, stem in enumerate(stems):
        write_image(root, stem, seed=seed)
        write_label(root, stem, values=np.roll(VALUES, seed))


def make_official(root, split="train"):
    """Runs the official script: PNGs and JSON in gtFine/."""
    official = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs")
    official.convert2panoptic(str(root / "gtFine"), setNames=[split])
    return root / "gtFine" / f"cityscapes_panoptic_{split}.json"


def convert_train(root, output="out", **options):
    return convert(cityscapes.plan(root, splits=["train"], **options), root / output)


def parsed(folder, split):
    info = load_dataset_info(folder)
    dataset = tf.data.TFRecordDataset([str(path) for path in list_shards(folder, split)])
    return {r.filename.numpy().decode(): r for r in (parse_record(record, info) for record in dataset)}


def shard_bytes(folder):
    return [path.read_bytes() for path in sorted(folder.glob("*.tfrecord"))]


def assert_equals_official(panoptic, annotation, png):
    """The segments of the official script, with instances numbered in the order of their ids."""
    ids = np.asarray(Image.open(png)).astype(int) @ [1, 256, 65536]
    expected, counts = np.full(ids.shape, INFO.void_id), {}
    for segment in sorted(annotation["segments_info"], key=lambda s: s["id"]):
        [class_id] = [i for i, c in enumerate(INFO.classes) if c.original_id == segment["category_id"]]
        instance = 0
        if INFO.classes[class_id].isthing and not segment["iscrowd"]:
            instance = counts[class_id] = counts.get(class_id, 0) + 1
        mask = ids == segment["id"]
        assert mask.sum() == segment["area"]
        expected[mask] = class_id * 1000 + instance
    np.testing.assert_array_equal(panoptic, expected)


def test_values_become_panoptic_ids(tmp_path):
    write_tree(tmp_path)
    convert_train(tmp_path)
    info = load_dataset_info(tmp_path / "out")
    assert (info.name, info.classes, dict(info.splits)) == ("cityscapes", INFO.classes, {"train": 2})
    records = parsed(tmp_path / "out", "train")
    assert list(records) == ["aachen_000000_000019_leftImg8bit.png", "bochum_000000_000313_leftImg8bit.png"]
    first, second = records.values()
    assert first.panoptic.numpy().tolist() == [EXPECTED] * 3
    np.testing.assert_array_equal(second.panoptic, np.roll([EXPECTED] * 3, 1))
    [path] = tmp_path.glob("leftImg8bit/train/bochum/*.png")
    np.testing.assert_array_equal(second.image, np.asarray(Image.open(path)))


def test_void_labels_are_those_that_are_not_evaluated():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    void = {label.id for label in labels if label.ignoreInEval}
    assert set(cityscapes.VOID_LABELS) == void - {-1}
    assert [c.original_id for c in INFO.classes] == [label.id for label in labels if not label.ignoreInEval]


@given(st.lists(st.tuples(st.integers(0, 33), st.integers(-1, 4)), min_size=1, max_size=24))
def test_any_values_as_the_official_rules_read_them(pairs):
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").id2label
    values = [
        label * 1000 + instance
        if instance >= 0 and (labels[label].hasInstances or labels[label].ignoreInEval)
        else label
        for label, instance in pairs
    ]
    ranks = {
        label: sorted({v for v in values if v >= 1000 and v // 1000 == label}) for label in {v // 1000 for v in values}
    }
    expected = []
    for value in values:
        label = labels[value if value < 1000 else value // 1000]
        if label.ignoreInEval:
            expected.append(INFO.void_id)
        elif value < 1000:
            expected.append(label.trainId * 1000)
        else:
            expected.append(label.trainId * 1000 + 1 + ranks[label.id].index(value))
    panoptic = cityscapes.panoptic_from_instance_ids(np.array([values]), INFO, "label")
    assert panoptic.tolist() == [expected]


@pytest.mark.parametrize("folder", ["gtFine", "gtFine_panoptic"])
def test_official_panoptic_images_give_the_same_records(tmp_path, folder):
    # The official script does not know the value of a license plate.
    write_image(tmp_path, "aachen_000000_000019", size=(3, 11))
    write_label(tmp_path, "aachen_000000_000019", values=VALUES[:, :-1])
    json_path = make_official(tmp_path)
    if folder != "gtFine":
        (tmp_path / folder).mkdir()
        shutil.move(json_path, tmp_path / folder)
        shutil.move(json_path.with_suffix(""), tmp_path / folder)
    convert_train(tmp_path, "a")
    convert_train(tmp_path, "b", labels="panoptic")
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")
    content = json.loads((tmp_path / folder / json_path.name).read_text())
    [annotation] = content["annotations"]
    [record] = parsed(tmp_path / "b", "train").values()
    assert_equals_official(record.panoptic, annotation, tmp_path / folder / json_path.stem / annotation["file_name"])


def test_instances_of_a_panoptic_json_are_numbered_by_id_whatever_its_order(tmp_path):
    write_image(tmp_path, "aachen_0_0", size=(3, 11))
    write_label(tmp_path, "aachen_0_0", values=VALUES[:, :-1])
    json_path = make_official(tmp_path)
    content = json.loads(json_path.read_text())
    content["annotations"][0]["segments_info"].reverse()
    json_path.write_text(json.dumps(content))
    convert_train(tmp_path, labels="panoptic")
    [record] = parsed(tmp_path / "out", "train").values()
    assert record.panoptic.numpy()[0].tolist() == EXPECTED[:-1]


def test_coarse_labels_and_their_extra_split(tmp_path):
    for split, stem in (("train", "aachen_0_0"), ("train_extra", "bonn_0_0")):
        write_image(tmp_path, stem, split)
        write_label(tmp_path, stem, split, kind="gtCoarse")
    plan = cityscapes.plan(tmp_path, splits=["train", "train_extra"], labels="coarse_instance_ids")
    convert(plan, tmp_path / "out")
    assert dict(load_dataset_info(tmp_path / "out").splits) == {"train": 1, "train_extra": 1}
    [record] = parsed(tmp_path / "out", "train_extra").values()
    assert record.panoptic.numpy()[0].tolist() == EXPECTED
    with pytest.raises(UserError, match=r"gtFine/train_extra: no such folder"):
        cityscapes.plan(tmp_path, splits=["train_extra"])


def test_labels_of_the_test_split_are_dummies(tmp_path):
    write_image(tmp_path, "berlin_0_0", "test")
    write_label(tmp_path, "berlin_0_0", "test", values=np.full(VALUES.shape, 3, np.uint8))
    convert(cityscapes.plan(tmp_path, splits=["test"]), tmp_path / "out")
    [record] = parsed(tmp_path / "out", "test").values()
    assert (record.panoptic.numpy() == INFO.void_id).all()


def with_value(value):
    return lambda root: write_label(root, "aachen_000000_000019", values=np.full(VALUES.shape, value, np.uint16))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (with_value(34), r"aachen\S+_instanceIds\.png: value 34 is of label 34, which Cityscapes does not have"),
        (with_value(34001), r"value 34001 is of label 34, which Cityscapes"),
        (with_value(7001), r"value 7001 is an instance of 'road', a class without instances"),
        (
            lambda root: write_label(root, "aachen_000000_000019", values=VALUES[:, 1:]),
            r"aachen\S+_instanceIds\.png: 3x11 pixels, but its image \S+_leftImg8bit\.png has 3x12",
        ),
        (
            lambda root: Image.fromarray(VALUES.astype(np.int32) + 70000).save(
                next(root.glob("gtFine/*/aachen/*")), format="TIFF"
            ),
            r"aachen\S+_instanceIds\.png: expected ids of 16 bits, got 135535",
        ),
        (
            lambda root: next(root.glob("gtFine/*/aachen/*")).unlink(),
            r"leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit\.png: has no label in \S+gtFine/train "
            r"\(expected aachen_000000_000019_gtFine_instanceIds\.png\); --only_pairs",
        ),
        (
            lambda root: next(root.glob("leftImg8bit/*/bochum/*")).unlink(),
            r"bochum_000000_000313_gtFine_instanceIds\.png: has no image in \S+leftImg8bit/train "
            r"\(expected bochum_000000_000313_leftImg8bit\.png\)",
        ),
        (lambda root: shutil.rmtree(root / "leftImg8bit"), r"leftImg8bit/train: no such folder"),
        (lambda root: shutil.rmtree(root / "gtFine"), r"gtFine/train: no such folder"),
        (lambda root: [p.unlink() for p in root.glob("leftImg8bit/*/*/*")], r"leftImg8bit/train: there is nothing"),
        (
            lambda root: shutil.copytree(root / "leftImg8bit/train/aachen", root / "leftImg8bit/train/zurich"),
            r"zurich/aachen_000000_000019_leftImg8bit\.png: has the same name as \S+aachen/aachen_000000_000019",
        ),
        (
            lambda root: next(root.glob("gtFine/*/aachen/*")).write_bytes(b"not a PNG"),
            r"aachen_000000_000019_gtFine_instanceIds\.png: not an image",
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


def edit_json(edit):
    def change(root):
        path = root / "gtFine/cityscapes_panoptic_train.json"
        content = json.loads(path.read_text())
        edit(content, content["annotations"][0]["segments_info"])
        path.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda root: (root / "gtFine/cityscapes_panoptic_train.json").unlink(),
            r"gtFine_panoptic/cityscapes_panoptic_train\.json: no such file; .*createPanopticImgs",
        ),
        (
            lambda root: (root / "gtFine/cityscapes_panoptic_train.json").write_text("{"),
            r"cityscapes_panoptic_train\.json: not valid JSON",
        ),
        (edit_json(lambda c, s: c.pop("categories")), r"train\.json: no list 'categories'"),
        (edit_json(lambda c, s: s.pop()), r"aachen\S+_panoptic\.png: segment \d+ is in the PNG but not in the JSON"),
        (
            edit_json(lambda c, s: s.append({"id": 26999, "category_id": 26})),
            r"aachen\S+_panoptic\.png: segment 26999 is in the JSON but not in the PNG",
        ),
        (edit_json(lambda c, s: s[0].update(category_id=9)), r"segment \d+ has category 9, which is not listed"),
        (edit_json(lambda c, s: s[0].update(id=0)), r"'aachen\S+': a segment has id 0"),
        (edit_json(lambda c, s: s.append(s[0])), r"two segments have the id \d+"),
        (edit_json(lambda c, s: s[0].pop("category_id")), r"train\.json: .* lacks the key 'category_id'"),
        (edit_json(lambda c, s: s.append(None)), r"train\.json: not as COCO's panoptic annotations are"),
        (edit_json(lambda c, s: c["annotations"].append(c["annotations"][0])), r"two annotations of image 'aachen"),
        # What createPanopticImgs --use-train-id writes.
        (edit_json(lambda c, s: c["categories"][0].update(id=0)), r"category 0 \('road'\) is none of the data set's"),
        (
            edit_json(lambda c, s: c["annotations"].pop()),
            r"bochum_000000_000313_leftImg8bit\.png: has no label in \S+train\.json \(expected bochum_000000_000313_gt",
        ),
        (
            lambda root: next(root.glob("leftImg8bit/*/aachen/*")).unlink(),
            r"cityscapes_panoptic_train/aachen_000000_000019_gtFine_panoptic\.png: has no image",
        ),
        (lambda root: next(root.glob("gtFine/*/*_panoptic.png")).unlink(), r"_panoptic\.png: cannot be read"),
    ],
)
def test_mistakes_in_panoptic_annotations_are_named(tmp_path, break_it, message):
    for stem in ("aachen_000000_000019", "bochum_000000_000313"):
        write_image(tmp_path, stem, size=(3, 11))
        write_label(tmp_path, stem, values=VALUES[:, :-1])
    make_official(tmp_path)
    break_it(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        convert_train(tmp_path, labels="panoptic")
    assert "\n" not in str(caught.value)


def test_settings_that_do_not_exist_are_named(tmp_path):
    write_tree(tmp_path)
    with pytest.raises(UserError, match="labels: unknown source 'instances'; did you mean 'instance_ids'"):
        cityscapes.plan(tmp_path, labels="instances")
    with pytest.raises(UserError, match=r"3 instances of 'car', but label_divisor 3 holds 2"):
        convert_train(tmp_path, label_divisor=3)


def test_command_line_converts_a_partial_copy_and_names_a_mistake(tmp_path, capsys):
    write_tree(tmp_path)
    write_image(tmp_path, "ulm_000000_000019")
    write_label(tmp_path, "weimar_000000_000019")
    (tmp_path / "leftImg8bit/train/ulm/._ulm_000000_000019_leftImg8bit.png").write_bytes(b"of a Mac")
    words = f"convert cityscapes --input {tmp_path} --output {tmp_path}/out --num_processes 1 --splits train".split()
    assert cli.main(words) == 2
    assert "ulm_000000_000019_leftImg8bit.png: has no label" in capsys.readouterr().err
    assert cli.main([*words, "--only_pairs", "--label_divisor", "100"]) == 0
    info = load_dataset_info(tmp_path / "out")
    assert (info.label_divisor, dict(info.splits)) == (100, {"train": 2})
    assert parsed(tmp_path / "out", "train")["aachen_000000_000019_leftImg8bit.png"].panoptic[0, 4] == 1303


def test_processes_of_a_conversion_need_no_tensorflow():
    modules = "deeplab2_lite.data.converters.cityscapes", "deeplab2_lite.data.converters.mapillary_vistas"
    code = f"import sys, {', '.join(modules)}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def check_real(root, split, output):
    """Every record equals its image, both its labels, and what the official script makes of them."""
    annotations = json.loads((root / f"gtFine/cityscapes_panoptic_{split}.json").read_text())["annotations"]
    records = parsed(output, split)
    assert len(records) == len(annotations) > 0
    for annotation in annotations:
        stem = annotation["image_id"]
        record = records[f"{stem}_leftImg8bit.png"]
        panoptic = record.panoptic.numpy()
        assert_equals_official(
            panoptic, annotation, root / f"gtFine/cityscapes_panoptic_{split}/{annotation['file_name']}"
        )
        city = root / "gtFine" / split / stem.split("_")[0]
        image = root / "leftImg8bit" / split / stem.split("_")[0] / f"{stem}_leftImg8bit.png"
        np.testing.assert_array_equal(record.image, np.asarray(Image.open(image)))
        label_ids = np.asarray(Image.open(city / f"{stem}_gtFine_labelIds.png")).astype(int)
        original = np.full(256, -1)
        original[:19] = [c.original_id for c in INFO.classes]
        evaluated = np.isin(label_ids, original[:19])
        np.testing.assert_array_equal(original[panoptic // 1000], np.where(evaluated, label_ids, -1))
        # Instances of the source and of the record are the same sets of pixels.
        instance_ids = np.asarray(Image.open(city / f"{stem}_gtFine_instanceIds.png")).astype(int)
        pairs = set(zip(instance_ids[evaluated].tolist(), panoptic[evaluated].tolist(), strict=True))
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)


def link_real(real_data, root, split, count):
    labels = sorted((real_data / "cityscapes/gtFine" / split).glob("*/*_instanceIds.png"))[:count]
    for label in labels:
        city, stem = label.parent.name, label.name.removesuffix("_gtFine_instanceIds.png")
        for kind in ("gtFine", "leftImg8bit"):
            (root / kind / split / city).mkdir(parents=True, exist_ok=True)
        for name in (label.name, f"{stem}_gtFine_labelIds.png"):
            (root / "gtFine" / split / city / name).symlink_to(label.parent / name)
        image = real_data / "cityscapes/leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
        if image.exists():
            (root / "leftImg8bit" / split / city / image.name).symlink_to(image)
        else:
            Image.new("RGB", (2048, 1024)).save(root / "leftImg8bit" / split / city / image.name)


@pytest.mark.real_data
def test_a_real_image_equals_the_official_conversion(real_data, tmp_path):
    link_real(real_data, tmp_path, "train", 1)
    make_official(tmp_path)
    convert_train(tmp_path)
    check_real(tmp_path, "train", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.real_data
def test_all_real_labels_equal_the_official_conversion(real_data, tmp_path):
    for split, count in (("train", 8), ("val", 15)):
        link_real(real_data, tmp_path, split, count)
        make_official(tmp_path, split)
    for labels in ("instance_ids", "panoptic"):
        convert(cityscapes.plan(tmp_path, labels=labels), tmp_path / labels)
    assert shard_bytes(tmp_path / "instance_ids") == shard_bytes(tmp_path / "panoptic")
    for split in ("train", "val"):
        check_real(tmp_path, split, tmp_path / "instance_ids")


@pytest.mark.real_data
def test_labels_without_images_are_named(real_data):
    conversion = cityscapes.plan(real_data / "cityscapes", splits=["train"])
    assert isinstance(conversion, Conversion) and len(conversion.splits["train"]) == 8
    with pytest.raises(UserError, match=r"leftImg8bit/val: no such folder"):
        cityscapes.plan(real_data / "cityscapes")
