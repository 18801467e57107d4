"""Whatever is wrong with a record is said of that record, and the others are counted all the same."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite.data import record_format
from deeplab2_lite.data.inspection.findings import ERRORS, HINTS
from deeplab2_lite.data.inspection.folder import inspect_folder
from deeplab2_lite.data.record_format import encode_panoptic, encode_png
from deeplab2_lite.data.shards import shard_name
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo

# Void is 255000.
INFO = DatasetInfo("pets", (ClassInfo("floor", False, (0, 0, 0), 0), ClassInfo("cat", True, (9, 9, 9), 1)))
PANOPTIC = np.array([[0, 0, 1001, 1001, 1002, 1002]] * 4, np.int32)
SHARD = "train-00000-of-00001.tfrecord"


def image_bytes(seed, kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def record(seed=0, panoptic=PANOPTIC, without=(), **changes):
    """Returns a sound record, but for the changes by short name."""
    features = {
        "image/encoded": image_bytes(seed),
        "image/format": b"png",
        "image/filename": b"%d.png" % seed,
        "image/height": 4,
        "image/width": 6,
        "image/segmentation/class/encoded": encode_panoptic(np.asarray(panoptic)),
        "image/segmentation/class/format": b"panoptic_png",
    }
    names = {
        "image": "image/encoded",
        "label": "image/segmentation/class/encoded",
        "label_format": "image/segmentation/class/format",
        **{key: f"image/{key}" for key in ("format", "filename", "height", "width")},
    }
    features.update({names[key]: value for key, value in changes.items()})
    return record_format.serialize_example({k: v for k, v in features.items() if k not in map(names.get, without)})


def write(folder, records, split="train", shard=0, count=1):
    path = folder / shard_name(split, shard, count)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in records:
            writer.write(content)
    return path


def found(folder, info=INFO, **options):
    """Returns the inspection, and its findings as (kind, where, message)."""
    inspection = inspect_folder(folder, info, **options)
    return inspection, [(f.kind, f.where, f.message) for f in inspection.findings]


def stuffed(value, **places):
    label = PANOPTIC.copy()
    label[0, 0] = value
    return label


deep = io.BytesIO()
Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 900).save(deep, "PNG")

# What is planted, its kind, and what is said of it.
PLANTED = {
    "no image": (record(1, without=["image"]), "refused", "image/encoded: expected a PNG or JPEG image"),
    "no label": (record(1, without=["label"]), "refused", "encoded: the record holds no label"),
    "neither PNG nor JPEG": (record(1, image=b"GIF89a..."), "refused", "expected a PNG or JPEG image"),
    "image cut off": (record(1, image=image_bytes(1)[:60]), "refused", "image/encoded: cannot be decoded (Invalid PNG"),
    "JPEG cut off": (record(1, image=image_bytes(1, "JPEG")[:200]), "refused", "image/encoded: cannot be decoded ("),
    "label cut off": (
        record(1, label=encode_panoptic(PANOPTIC)[:50]),
        "refused",
        "class/encoded: cannot be decoded (Invalid PNG",
    ),
    "label of one channel": (record(1, label=encode_png(np.zeros((4, 6), np.uint8))), "refused", "expected an RGB PNG"),
    "label of another size": (
        record(1, PANOPTIC[:, :5]),
        "refused",
        "the label has 4x5 pixels, its image 4x6",
    ),
    "unknown class": (record(1, stuffed(7003)), "refused", "the label holds panoptic id 7003, whose class is none of"),
    "unknown format": (record(1, label_format=b"bmp"), "refused", "one of panoptic_png, raw, png, got 'bmp'"),
    "text for a number": (record(1, height=b"4"), "refused", "Key: image/height. Data types don't match"),
    "other height": (record(1, height=5), "size", "image/height and image/width say 5x6, the image has 4x6"),
    "no height": (record(1, without=["height"]), "size", "say 0x6, the image has 4x6"),
    "no example": (b"\xff" * 50, "unreadable", "is no tf.train.Example with features"),
    "empty example": (b"", "unreadable", "is no tf.train.Example with features"),
    "stuff with an instance": (record(1, stuffed(4)), "stuff_instances", "'floor' is stuff, but has instance ids 4;"),
    "void alone": (record(1, np.full((4, 6), 255000)), "void", "the label is entirely void"),
    "one class": (record(1, np.zeros((4, 6), int)), "one_class", "all that is labelled is 'floor'"),
    "one class and void": (record(1, np.repeat([[0], [255000]], 2, 0) * np.ones((1, 6), int)), "one_class", "'floor'"),
    "gaps": (record(1, PANOPTIC + (PANOPTIC == 1002)), "id_gaps", "2 instances of 'cat' are numbered 1, 3, not 1..2"),
    "one pixel": (record(1, stuffed(1003)), "one_pixel", "1 instance of 'cat' of a single pixel"),
    "void with an instance": (record(1, stuffed(255007)), "void_instances", "void has instance ids, such as 7"),
    "no name": (record(1, without=["filename"]), "unnamed", "no image/filename"),
    "JPEG called PNG": (record(1, image=image_bytes(1, "JPEG")), "format", "says 'png', the image is jpeg"),
    "16 bits": (record(1, image=deep.getvalue()), "deep_image", "the image has 16 bits a channel"),
}
READABLE = ("size", "stuff_instances", "void", *HINTS)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Each planted record lies between sound ones, in one shard; the label of each is 4x6 pixels."""
    folder = tmp_path_factory.mktemp("planted")
    records = []
    for place, (content, _, _) in enumerate(PLANTED.values()):
        records += [record(100 + place), content]
    write(folder, [*records, record(99)])
    return inspect_folder(folder, INFO)


@pytest.mark.parametrize("name", PLANTED)
def test_each_fault_is_named_with_its_record(planted, name):
    _, kind, message = PLANTED[name]
    place = 2 * list(PLANTED).index(name) + 1
    findings = [f for f in planted.findings if f.record == place and "duplicate" not in f.kind]
    assert [f.kind for f in findings] == [kind], findings
    assert message in findings[0].message
    assert "\n" not in findings[0].message
    assert "{{" not in findings[0].message
    has_name = kind != "unreadable" and name != "no name"
    assert findings[0].where == f"{SHARD} record {place}" + (" (1.png)" if has_name else "")
    assert findings[0].split == "train"
    assert findings[0].is_error == (kind in ERRORS)


def test_sound_records_are_counted_and_not_named(planted):
    assert {f.record % 2 for f in planted.findings} == {1}
    sound = len(PLANTED) + 1
    readable = [name for name, (_, kind, _) in PLANTED.items() if kind in READABLE]
    summary = planted.splits["train"]
    assert (summary.records, summary.readable) == (2 * len(PLANTED) + 1, sound + len(readable))
    # Sound records show both; so do those with readable faults but for three.
    assert summary.classes[1].images == sound + len(readable) - 3


def test_errors_come_first_and_by_place(planted):
    order = [(not f.is_error, f.record) for f in planted.findings]
    assert order == sorted(order)


def test_name_of_any_script_is_whole(tmp_path):
    name = "Zürich 'süd' 東.png"
    write(tmp_path, [record(1, stuffed(7003), filename=name.encode())])
    _, findings = found(tmp_path)
    assert findings[0][1] == f"{SHARD} record 0 ({name})"
    assert findings[0][2].startswith("the label holds panoptic id 7003, whose class is none of the 2 of 'pets'")


def test_records_of_a_classifier_are_told(tmp_path):
    content = record_format.serialize_example(
        {"image/encoded": image_bytes(0), "image/filename": b"a.png", "image/class/label": 3}
    )
    write(tmp_path, [content])
    _, findings = found(tmp_path)
    assert findings[0][0] == "refused"
    assert findings[0][2].startswith("a classifier's record: it has image/class/label")


def test_images_and_names_that_come_twice(tmp_path):
    # The same pixels in other bytes are the same image.
    again = encode_png(np.asarray(Image.open(io.BytesIO(image_bytes(1))))) + b""
    write(tmp_path, [record(1), record(2), record(3, image=again, filename=b"copy.png"), record(4, filename=b"2.png")])
    write(tmp_path, [record(5, filename=b"1.png"), record(6, image=again)], split="val")
    _, findings = found(tmp_path)
    val = "val-00000-of-00001.tfrecord"
    assert findings == [
        ("duplicate_name", f"{SHARD} record 3 (2.png)", f"has the file name of {SHARD} record 1 (2.png)"),
        (
            "shared_image",
            f"{val} record 1 (6.png)",
            f"the image is the same as that of {SHARD} record 0 (1.png), which is in 'train'",
        ),
        (
            "duplicate_image",
            f"{SHARD} record 2 (copy.png)",
            f"the image is the same as that of {SHARD} record 0 (1.png)",
        ),
        (
            "shared_name",
            f"{val} record 0 (1.png)",
            f"has the file name of {SHARD} record 0 (1.png), which is in 'train'",
        ),
    ]


def test_equal_bytes_of_another_size_are_another_image(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    turned = record(2, np.ascontiguousarray(PANOPTIC.T), image=encode_png(pixels.transpose(1, 0, 2)), height=6, width=4)
    write(tmp_path, [record(1, image=encode_png(pixels)), turned])
    assert found(tmp_path)[1] == []


def test_split_without_labels_is_one_hint(tmp_path):
    void = np.full((4, 6), 255000)
    write(tmp_path, [record(1)])
    write(tmp_path, [record(2, void), record(3, void), record(4, height=9, panoptic=void)], split="test")
    _, findings = found(tmp_path)
    size = "image/height and image/width say 9x6, the image has 4x6"
    assert findings == [
        ("size", "test-00000-of-00001.tfrecord record 2 (4.png)", size),
        ("unlabelled", "test-*", "all labels are void: the split is good for predictions alone"),
    ]
