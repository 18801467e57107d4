"""COCO instance annotations become records that show what lies in front."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from deeplab2_lite import cli
from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.converters import coco_instances as instances
from deeplab2_lite.data.converters import coco_panoptic as panoptic_coco
from deeplab2_lite.data.records import list_shards, parse_record
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 32, "name": "tie"}]
PERSON, DOG, TIE = range(3)


def box(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(number, category, segmentation, iscrowd=0, image_id=5):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": iscrowd,
    }


def ring():
    """A mask with a hole, as a list of run lengths."""
    mask = np.zeros((6, 8), np.uint8)
    mask[3:6, 0:3] = 1
    mask[4, 1] = 0
    edges = np.flatnonzero(np.diff(mask.T.ravel(), prepend=0))
    return {"size": [6, 8], "counts": np.diff([0, *edges, mask.size]).tolist()}


ANNOTATIONS = [
    annotation(11, 32, box(2, 1, 3, 3)),  # a tie on the person that comes after it
    annotation(12, 1, box(1, 0, 5, 4)),
    annotation(
        13, 1, {"size": [6, 8], "counts": coco_mask.encode(np.ones((6, 8), np.uint8, "F"))["counts"].decode()}, 1
    ),
    annotation(14, 18, box(6, 4, 8, 6)),  # hidden beneath the next two
    annotation(15, 18, box(6, 4, 7, 6)),
    annotation(16, 18, box(7, 4, 8, 6)),
    annotation(17, 18, ring()),
]
# c: the crowd of persons, p: the person, t: its tie, 1, 2: dogs in two halves, 3: the dog with a hole.
PICTURE = ["cppppccc", "cptppccc", "cptppccc", "333ppccc", "3c3ccc12", "333ccc12"]
IDS = {"c": 0, "p": 1, "t": 2001, "1": 1001, "2": 1002, "3": 1003}
EXPECTED = [[IDS[letter] for letter in row] for row in PICTURE]


def write_official(folder, edit=lambda content: None, split="val", annotations=ANNOTATIONS):
    source = instances.official_layout(folder, [split])[split]
    source.images.mkdir(parents=True, exist_ok=True)
    source.annotations.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(source.images / f"{name}.jpg")
    content = {
        "images": [
            {"id": 5, "file_name": "a.jpg", "height": 6, "width": 8},
            {"id": 4, "file_name": "b.jpg", "height": 6, "width": 8},
        ],
        "annotations": json.loads(json.dumps(annotations)),
        "categories": [dict(category) for category in CATEGORIES],
    }
    edit(content)
    source.annotations.write_text(json.dumps(content))
    return source


def parsed(folder, split="val"):
    info = load_dataset_info(folder)
    dataset = tf.data.TFRecordDataset([str(path) for path in list_shards(folder, split)])
    return [parse_record(record, info) for record in dataset]


def convert_val(tmp_path, overwrite=False, **options):
    conversion = instances.plan(instances.official_layout(tmp_path, ["val"]), **options)
    return convert(conversion, tmp_path / "out", overwrite=overwrite)


def test_the_command_converts_the_official_layout(tmp_path):
    source = write_official(tmp_path)
    words = f"convert coco_instances --input {tmp_path} --splits val --output {tmp_path}/out --num_processes 1"
    assert cli.main(words.split()) == 0
    info = load_dataset_info(tmp_path / "out")
    assert (info.name, info.class_names, info.thing_ids) == ("instances", ("person", "dog", "tie"), (0, 1, 2))
    first, second = parsed(tmp_path / "out")
    assert (first.filename.numpy(), second.filename.numpy()) == (b"a.jpg", b"b.jpg")
    np.testing.assert_array_equal(first.panoptic, EXPECTED)
    np.testing.assert_array_equal(first.image, np.asarray(Image.open(source.images / "a.jpg")))
    # An image without annotations is kept, and void.
    assert (second.panoptic.numpy() == info.void_id).all()


def test_any_layout_and_background(tmp_path):
    source = write_official(tmp_path, annotations=ANNOTATIONS[:2])
    words = f"convert coco_instances --split train {source.images} {source.annotations} --output {tmp_path}/out"
    words += " --background nothing --name zoo --label_divisor 10 --num_processes 1"
    assert cli.main(words.split()) == 0
    info = load_dataset_info(tmp_path / "out")
    assert (info.name, info.class_names, info.thing_ids) == ("zoo", ("person", "dog", "tie", "nothing"), (0, 1, 2))
    assert info.classes[3].original_id == 0
    first, second = parsed(tmp_path / "out", "train")
    ids = {"p": 1, "t": 21}
    expected = [[ids.get(letter, 30) for letter in row] for row in PICTURE]
    expected[3] = [30, 1, 1, 1, 1, 30, 30, 30]
    np.testing.assert_array_equal(first.panoptic, expected)
    assert (second.panoptic.numpy() == 30).all()


def test_a_given_label_space_names_classes_and_their_divisor(tmp_path):
    write_official(tmp_path)
    convert_val(tmp_path, dataset_info="coco")
    info = load_dataset_info(tmp_path / "out")
    assert (info.name, info.num_classes) == ("coco", 133)
    by_name = {c.name: i for i, c in enumerate(info.classes)}
    panoptic = parsed(tmp_path / "out")[0].panoptic.numpy()
    assert set(np.unique(panoptic // 1000)) == {by_name[name] for name in ("person", "dog", "tie")}

    space = tmp_path / "space.yaml"
    space.write_text(
        "name: pets\nlabel_divisor: 50\nclasses:\n- {name: dog, isthing: false, original_id: 18}\n"
        "- {name: person, isthing: true, original_id: 1}\n- {name: tie, isthing: true, original_id: 32}\n"
    )
    # As stuff, dogs lie behind the crowd, which is everywhere; the class of what is not covered exists.
    convert_val(tmp_path, dataset_info=space, background="dog", overwrite=True)
    panoptic = parsed(tmp_path / "out")[0].panoptic.numpy()
    expected = [[{"p": 51, "t": 101}.get(letter, 50) for letter in row] for row in PICTURE]
    expected[3][1:3] = [51, 51]
    np.testing.assert_array_equal(panoptic, expected)
    assert (parsed(tmp_path / "out")[1].panoptic.numpy() == 0).all()


def edit_annotation(index, **values):
    return lambda content: content["annotations"][index].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edit_annotation(0, image_id=6), r"val2017\.json: annotation 11 is of image 6, which is not listed"),
        (edit_annotation(0, category_id=2), r"annotation 11 of 'a\.jpg': category 2 is not listed"),
        (
            edit_annotation(0, segmentation=[[1, 2, 3, 4]]),
            r"annotation 11 of 'a\.jpg': segmentation: expected polygons",
        ),
        (edit_annotation(6, segmentation={"size": [8, 6], "counts": [48]}), r"annotation 17 .*its size is \[8, 6\]"),
        (edit_annotation(6, category_id=[1]), "an image or annotation is malformed"),
        (lambda c: c["annotations"][0].pop("segmentation"), "lacks the key 'segmentation'"),
        (lambda c: c["images"][0].pop("file_name"), "lacks the key 'file_name'"),
        (lambda c: c["images"][0].update(id=4), "two images have the same id"),
        (lambda c: c["images"][0].update(height=None), r"image 'a\.jpg': expected its height and width"),
        (lambda c: c["images"][1].update(height=7), r"b\.jpg: 6x8 pixels, but its annotations are of 7x8"),
        (lambda c: c["images"][0].update(file_name="c.jpg"), r"c\.jpg: cannot be read"),
        (lambda c: c.pop("annotations"), "no list 'annotations' of objects"),
        (lambda c: c.update(images=[1]), "no list 'images' of objects"),
        (lambda c: c.update(categories=[]), "categories: expected at least one"),
        (lambda c: (c["images"].clear(), c["annotations"].clear()), "split 'val': there is nothing to convert"),
    ],
)
def test_contradictions_are_named(tmp_path, edit, message):
    write_official(tmp_path, edit)
    with pytest.raises(UserError, match=message) as caught:
        convert_val(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*.tfrecord"))


def test_missing_files_and_wrong_options_are_named(tmp_path):
    source = write_official(tmp_path)
    with pytest.raises(UserError, match="--background=dog: is a thing"):
        convert_val(tmp_path, background="dog")
    with pytest.raises(UserError, match=r"a\.jpg: 3 instances of 'dog', but label_divisor 3 holds 2"):
        convert_val(tmp_path, label_divisor=3)
    write_official(tmp_path, lambda c: c["categories"].pop(), "train", [])
    with pytest.raises(UserError, match=r"val2017\.json: other categories than .*train2017\.json"):
        instances.plan(instances.official_layout(tmp_path))
    source.annotations.write_text("{")
    with pytest.raises(UserError, match=r"instances_val2017\.json: not valid JSON"):
        convert_val(tmp_path)
    source.annotations.unlink()
    with pytest.raises(UserError, match=r"instances_val2017\.json: cannot be read"):
        convert_val(tmp_path)
    with pytest.raises(UserError, match=r"^/nowhere/train2017: no such folder"):
        instances.plan(instances.official_layout("/nowhere"))


@pytest.mark.real_data
def test_instances_made_of_real_panoptic_labels_come_back(real_data, tmp_path):
    """The things of COCO's panoptic PNGs, as instance annotations, give the same ids pixel by pixel."""
    [source] = panoptic_coco.official_layout(real_data / "coco", ["val"]).values()
    conversion = panoptic_coco.plan({"val": source})
    items = conversion.splits["val"]
    content = json.loads(source.annotations.read_bytes())
    info = conversion.converter.info
    made = {"images": [], "annotations": [], "categories": [c for c in content["categories"] if c["isthing"]]}
    for image_id, item in enumerate(items):
        channels = np.asarray(Image.open(item.panoptic)).astype(int)
        segment_ids = channels @ np.array([1, 256, 65536])
        height, width = segment_ids.shape
        made["images"].append({"id": image_id, "file_name": item.image.name, "height": height, "width": width})
        for segment in item.segments:
            if info.classes[segment.class_id].isthing:
                runs = coco_mask.encode(np.asfortranarray(segment_ids == segment.id).astype(np.uint8, order="F"))
                mask = {"size": [height, width], "counts": runs["counts"].decode()}
                category = info.classes[segment.class_id].original_id
                number = len(made["annotations"]) + 1
                made["annotations"].append(annotation(number, category, mask, int(segment.iscrowd), image_id))
    (tmp_path / "things.json").write_text(json.dumps(made))
    things = instances.plan(
        {"val": instances.SplitSource(source.images, tmp_path / "things.json")}, dataset_info="coco"
    )
    official = COCO(tmp_path / "things.json")
    areas = {a["id"]: int(official.annToMask(a).sum()) for a in official.dataset["annotations"]}
    for item, twin in zip(items, things.splits["val"], strict=True):
        expected = parse_record(conversion.converter(item).serialized, info).panoptic.numpy()
        expected[~np.isin(expected // 1000, info.thing_ids)] = info.void_id
        record = things.converter(twin)
        panoptic = parse_record(record.serialized, info).panoptic.numpy()
        np.testing.assert_array_equal(panoptic, expected)
        # No mask overlaps another, so that all pixels of all are there.
        assert sum(record.statistics.pixels) == sum(areas[segment.id] for segment in twin.segments)
