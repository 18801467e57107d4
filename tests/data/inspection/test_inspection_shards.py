"""Damaged, missing and foreign shards are told, and what can be read of them is inspected."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.converters import instance_masks as build_instance_masks
from deeplab2_lite.data.inspection.folder import inspect_folder
from deeplab2_lite.data.inspection.shards import find_splits, walk_shard
from deeplab2_lite.data.shards import scan_offsets
from deeplab2_lite.dataset_info import load_dataset_info

COUNT = 6
SHARD = "train-00000-of-00002.tfrecord"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A conversion of six images to two shards of three."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("converted")
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (source / "train" / part).mkdir(parents=True)
    for i in range(COUNT):
        mask = np.repeat([[0, 0, 1, 1, 2, 2]], 4, axis=0).astype(np.uint8)
        Image.fromarray(mask).save(source / "train" / "masks" / f"{i}.png")
        image = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(image).save(source / "train" / "images" / f"{i}.png")
    convert(build_instance_masks.plan(source, splits=["train"])._replace(records_per_shard=3), output)
    return output


@pytest.fixture
def folder(converted, tmp_path):
    for path in converted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def inspect(folder, **options):
    inspection = inspect_folder(folder, load_dataset_info(folder), **options)
    return inspection, [(f.kind, f.where, f.message) for f in inspection.findings]


def offsets(path):
    return scan_offsets([path]).byte_offset.tolist()


def change(path, place, size=1):
    content = bytearray(path.read_bytes())
    for i in range(place, place + size):
        content[i] ^= 0x55
    path.write_bytes(content)


def rewrite(path, order):
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in order:
            writer.write(records[i])


def test_walk_finds_what_a_scan_finds(folder):
    for path in sorted(folder.glob("*.tfrecord")):
        walked, scanned = walk_shard(path), scan_offsets([path])
        assert walked.damage is None
        assert walked.bytes == path.stat().st_size
        np.testing.assert_array_equal(walked.byte_offset, scanned.byte_offset)
        np.testing.assert_array_equal(walked.byte_length, scanned.byte_length)


def test_sound_folder_has_no_findings(folder):
    inspection, findings = inspect(folder)
    assert findings == []
    assert inspection.splits["train"].readable == COUNT


def test_damaged_record_hides_no_other(folder):
    change(folder / SHARD, offsets(folder / SHARD)[1] + 40)
    inspection, findings = inspect(folder)
    assert findings == [
        ("shard", SHARD, "its SHA-256 is not that in conversion.json: it was changed after the conversion"),
        ("unreadable", f"{SHARD} record 1", "damaged: its checksum (CRC) is not that of its data"),
    ]
    assert inspection.splits["train"].readable == COUNT - 1
    assert inspection.splits["train"].instances == 2 * (COUNT - 1)


@pytest.mark.parametrize("place", [0, 7, 8])
def test_damaged_length_hides_what_follows_in_its_shard(folder, place):
    at = offsets(folder / SHARD)[1]
    change(folder / SHARD, at + place)
    inspection, findings = inspect(folder)
    told = f"the length of record 1 (at byte {at}) is damaged: what follows cannot be found"
    assert ("shard", SHARD, told) in findings
    size = (folder / SHARD).stat().st_size
    assert ("shard", SHARD, f"has {size} bytes and 1 records, conversion.json says {size} and 3") in findings
    assert ("shard", "dataset_info.yaml", "says 6 records of 'train', the shards hold 4") in findings
    assert inspection.splits["train"].readable == 4


@pytest.mark.parametrize("kept", [5, 30])
def test_shard_that_is_cut_off(folder, kept):
    path = folder / SHARD
    at = offsets(path)[2]
    path.write_bytes(path.read_bytes()[: at + kept])
    inspection, findings = inspect(folder)
    assert any(kind == "shard" and where == SHARD and "cut off in the middle of record 2" in message
               for kind, where, message in findings)  # fmt: skip
    assert inspection.splits["train"].readable == 5


def test_compressed_and_empty_shards(folder):
    path = folder / SHARD
    path.write_bytes(gzip.compress(path.read_bytes()))
    (folder / SHARD.replace("00000-of", "00001-of")).write_bytes(b"")
    inspection, findings = inspect(folder)
    assert ("shard", SHARD, "compressed by gzip; expected plain TFRecords") in findings
    assert inspection.splits["train"].records == 0


def test_missing_and_foreign_shards(folder):
    (folder / SHARD).unlink()
    inspection, findings = inspect(folder)
    assert ("shard", SHARD, "is missing; expected all 2 shards of 'train'") in findings
    assert inspection.splits["train"].readable == 3
    (folder / "train-00000-of-00001.tfrecord").write_bytes((folder / SHARD.replace("00000", "00001")).read_bytes())
    _, findings = inspect(folder)
    mixed = "shards of two conversions are mixed: train-*-of-00001.tfrecord and train-*-of-00002.tfrecord"
    assert ("shard", "train-00000-of-00001.tfrecord", mixed) in findings
    assert ("shard", "train-00000-of-00001.tfrecord", "is none of the shards in conversion.json") in findings


def test_shard_beyond_the_last(folder):
    extra = folder / "train-00002-of-00002.tfrecord"
    extra.write_bytes((folder / SHARD).read_bytes())
    shards = find_splits(folder)["train"]
    assert shards.faults == ((extra.name, "is none of the 2 shards of 'train'"),)


def test_shard_that_was_changed(folder):
    rewrite(folder / SHARD, [1, 0, 2])
    changed = "its SHA-256 is not that in conversion.json: it was changed after the conversion"
    assert inspect(folder)[1] == [("shard", SHARD, changed)]
    # A quick look leaves checksums out.
    assert inspect(folder, limit=2)[1] == []


def test_records_that_are_missing(folder):
    size = (folder / SHARD).stat().st_size
    rewrite(folder / SHARD, [0, 2])
    _, findings = inspect(folder)
    left = (folder / SHARD).stat().st_size
    assert findings == [
        ("shard", "dataset_info.yaml", "says 6 records of 'train', the shards hold 5"),
        ("shard", SHARD, f"has {left} bytes and 2 records, conversion.json says {size} and 3"),
    ]


def test_splits_that_the_label_space_does_not_name(folder):
    info = load_dataset_info(folder)
    dataclasses.replace(info, splits={"val": 4}).save(folder)
    _, findings = inspect(folder)
    assert findings == [
        ("shard", "dataset_info.yaml", "does not name split 'train'"),
        ("shard", "dataset_info.yaml", "names split 'val', which has no shards"),
    ] or findings == [
        ("shard", "dataset_info.yaml", "names split 'val', which has no shards"),
        ("shard", "dataset_info.yaml", "does not name split 'train'"),
    ]


def test_unfinished_and_damaged_manifests(folder):
    path = folder / "conversion.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "splits": {}}))
    _, findings = inspect(folder)
    assert [(kind, where) for kind, where, _ in findings] == [("unfinished", "conversion.json")]
    path.write_text("{")
    _, findings = inspect(folder)
    assert findings == [("shard", "conversion.json", "not a manifest of this version; convert anew with --overwrite")]
