"""The conversion machinery: order, resuming, and leaving nothing half-written."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import tensorflow as tf

from deeplab2_lite.config import ShapesConfig
from deeplab2_lite.data import conversion
from deeplab2_lite.data.conversion.label_statistics import ConvertedRecord, LabelStatistics, count_label, sum_statistics
from deeplab2_lite.data.conversion.manifest import describe_split, load_manifest
from deeplab2_lite.data.conversion.output import RECORDS_PER_SHARD, Conversion
from deeplab2_lite.data.records import list_shards, parse_record
from deeplab2_lite.data.shapes import ShapesConverter, ShapesItem
from deeplab2_lite.dataset_info import DatasetInfo, load_dataset_info
from deeplab2_lite.errors import UserError

INFO = load_dataset_info("shapes")
NOTHING = LabelStatistics.empty(INFO.num_classes)


class TextItem(NamedTuple):
    path: Path


@dataclasses.dataclass(frozen=True)
class TextConverter:
    """A record is a file's content; 'bad' is refused, 'broken' is a bug."""

    info: DatasetInfo = INFO
    calls: list = dataclasses.field(default_factory=list, repr=False, compare=False)

    def __call__(self, item):
        text = item.path.read_text()
        self.calls.append(item.path.name)
        if text == "bad":
            raise UserError(f"{item.path}: is bad")
        if text == "killed":
            raise KeyboardInterrupt
        return ConvertedRecord(text.encode(), dataclasses.replace(NOTHING, records=1))

    def files(self, item):
        return (item.path,)


def make_items(folder, count, name="item"):
    folder.mkdir(exist_ok=True)
    items = [TextItem(folder / f"{name}{i:03d}.txt") for i in range(count)]
    for i, item in enumerate(items):
        item.path.write_text(f"{name} {i}")
    return items


def convert(converter, splits, output, records_per_shard=RECORDS_PER_SHARD, **options):
    return conversion.convert(Conversion(converter, splits, records_per_shard), output, **options)


def read(folder, split):
    return [r.numpy().decode() for r in tf.data.TFRecordDataset([str(p) for p in list_shards(folder, split)])]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_hold_all_records_in_order(tmp_path):
    splits = {"train": make_items(tmp_path / "a", 10), "val": make_items(tmp_path / "b", 3, "v")}
    path = convert(TextConverter(), splits, tmp_path / "out", records_per_shard=4)
    assert path == tmp_path / "out" / "dataset_info.yaml"
    assert read(tmp_path / "out", "train") == [f"item {i}" for i in range(10)]
    assert read(tmp_path / "out", "val") == ["v 0", "v 1", "v 2"]
    assert len(list_shards(tmp_path / "out", "train")) == 3
    assert load_dataset_info(tmp_path / "out") == dataclasses.replace(INFO, splits={"train": 10, "val": 3})
    sizes = [len(list(tf.data.TFRecordDataset(str(p)))) for p in list_shards(tmp_path / "out", "train")]
    assert max(sizes) - min(sizes) <= 1


def test_number_of_processes_changes_no_byte(tmp_path):
    config = ShapesConfig(height=33, width=65)
    splits = {"train": [ShapesItem("train", i) for i in range(20)], "val": [ShapesItem("val", 0)]}
    for processes in (1, 2):
        convert(
            ShapesConverter(INFO, config),
            splits,
            tmp_path / str(processes),
            num_processes=processes,
            records_per_shard=7,
        )
    one, two = files_of(tmp_path / "1"), files_of(tmp_path / "2")
    assert len(one) == 3 + 1 + 2
    assert one == two


def test_running_again_writes_nothing(tmp_path):
    splits = {"train": make_items(tmp_path / "a", 5)}
    convert(TextConverter(), splits, tmp_path / "out")
    before = files_of(tmp_path / "out")
    converter = TextConverter()
    convert(converter, splits, tmp_path / "out")
    assert converter.calls == []
    assert files_of(tmp_path / "out") == before


def test_a_shard_deleted_or_cut_off_is_made_again_alone(tmp_path):
    splits = {"train": make_items(tmp_path / "a", 6)}
    convert(TextConverter(), splits, tmp_path / "out", records_per_shard=2)
    before = files_of(tmp_path / "out")
    (tmp_path / "out" / "train-00001-of-00003.tfrecord").unlink()
    last = tmp_path / "out" / "train-00002-of-00003.tfrecord"
    last.write_bytes(last.read_bytes()[:-3])
    converter = TextConverter()
    convert(converter, splits, tmp_path / "out", records_per_shard=2)
    assert converter.calls == [f"item00{i}.txt" for i in (2, 3, 4, 5)]
    assert files_of(tmp_path / "out") == before


def test_a_changed_source_makes_its_shard_again(tmp_path):
    items = make_items(tmp_path / "a", 4)
    convert(TextConverter(), {"train": items}, tmp_path / "out", records_per_shard=2)
    items[3].path.write_text("mended")
    converter = TextConverter()
    convert(converter, {"train": items}, tmp_path / "out", records_per_shard=2)
    assert converter.calls == ["item002.txt", "item003.txt"]
    assert read(tmp_path / "out", "train")[3] == "mended"


@pytest.mark.parametrize(("text", "error"), [("bad", UserError), ("killed", KeyboardInterrupt)])
def test_a_stopped_conversion_leaves_whole_shards_and_resumes(tmp_path, text, error):
    items = make_items(tmp_path / "a", 6)
    items[3].path.write_text(text)
    out = tmp_path / "out"
    with pytest.raises(error):
        convert(TextConverter(), {"train": items}, out, records_per_shard=2)
    assert sorted(path.name for path in out.iterdir()) == ["conversion.json", "train-00000-of-00003.tfrecord"]
    items[3].path.write_text("item 3")
    converter = TextConverter()
    convert(converter, {"train": items}, out, records_per_shard=2)
    assert converter.calls == [f"item00{i}.txt" for i in (2, 3, 4, 5)]
    assert read(out, "train") == [f"item {i}" for i in range(6)]


def test_a_killed_conversion_resumes_to_the_same_bytes(tmp_path):
    items = {"train": [ShapesItem("train", i) for i in range(160)]}
    converter = ShapesConverter(INFO, ShapesConfig(height=65, width=65))
    script = tmp_path / "script.py"
    script.write_text(
        "from deeplab2_lite.config import ShapesConfig\n"
        "from deeplab2_lite.data import conversion, shapes\n"
        "from deeplab2_lite.data.conversion.output import Conversion\n"
        "items = {'train': [shapes.ShapesItem('train', i) for i in range(160)]}\n"
        "info = shapes.load_preset('shapes')\n"
        "converter = shapes.ShapesConverter(info, ShapesConfig(height=65, width=65))\n"
        f"conversion.convert(Conversion(converter, items, 10), {str(tmp_path / 'killed')!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment)
    while process.poll() is None and not list((tmp_path / "killed").glob("train-00002*")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "dataset_info.yaml").exists()
    for folder in ("killed", "fresh"):
        convert(converter, items, tmp_path / folder, records_per_shard=10)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "fresh")


def test_what_a_killed_process_left_is_removed(tmp_path):
    items = make_items(tmp_path / "a", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".train-00000-of-00001.tfrecord.abc.tmp").write_bytes(b"half")
    convert(TextConverter(), {"train": items}, tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))


def test_another_conversion_is_not_touched_unless_told(tmp_path):
    out = tmp_path / "out"
    convert(TextConverter(), {"train": make_items(tmp_path / "a", 4)}, out)
    (out / "notes.txt").write_text("mine")
    before = files_of(out)
    others = {"train": make_items(tmp_path / "b", 4, "other")}
    space = dataclasses.replace(INFO, label_divisor=500)
    for converter, splits in (
        (TextConverter(), others),
        (TextConverter(space), {"train": make_items(tmp_path / "a", 4)}),
    ):
        with pytest.raises(UserError, match=r"out: holds \S+ of a conversion with other .*empty folder.*--overwrite"):
            convert(converter, splits, out)
    assert files_of(out) == before
    convert(TextConverter(), others, out, records_per_shard=2, overwrite=True)
    assert read(out, "train") == [f"other {i}" for i in range(4)]
    assert (out / "notes.txt").read_text() == "mine"


def test_unfinished_rewrites_are_not_taken_for_complete(tmp_path):
    items = make_items(tmp_path / "a", 2)
    convert(TextConverter(), {"train": items}, tmp_path / "out")
    items[1].path.write_text("bad")
    with pytest.raises(UserError, match="is bad"):
        convert(TextConverter(), {"train": items}, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset_info.yaml").exists()


def test_a_damaged_manifest_counts_as_another_conversion(tmp_path):
    items = {"train": make_items(tmp_path / "a", 2)}
    convert(TextConverter(), items, tmp_path / "out")
    for text in ("{", "[]", json.dumps({"settings": "x"})):
        (tmp_path / "out" / "conversion.json").write_text(text)
        with pytest.raises(UserError, match="other sources or settings"):
            convert(TextConverter(), items, tmp_path / "out")


def test_bad_arguments_are_refused(tmp_path):
    items = make_items(tmp_path / "a", 1)
    for splits, options, message in (
        ({}, {}, "expected at least one split"),
        ({"train": []}, {}, "split 'train': there is nothing to convert"),
        ({"a/b": items}, {}, "split 'a/b': expected a name"),
        ({"train": items}, {"num_processes": 0}, "num_processes: expected 1 or more"),
        ({"train": items}, {"records_per_shard": 0}, "records_per_shard: expected 1 or more"),
        ({"train": [TextItem(tmp_path / "absent")]}, {}, "absent: cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            convert(TextConverter(), splits, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"):
        convert(TextConverter(), {"train": items}, tmp_path / "file")


def test_the_manifest_says_what_lies_there(tmp_path):
    config = ShapesConfig(height=33, width=65)
    splits = {"train": [ShapesItem("train", i) for i in range(5)], "val": [ShapesItem("val", 0)]}
    convert(ShapesConverter(INFO, config), splits, tmp_path, records_per_shard=2)
    manifest = load_manifest(tmp_path)
    assert sorted(manifest.shards) == sorted(path.name for path in tmp_path.glob("*.tfrecord"))
    for name, entry in manifest.shards.items():
        content = (tmp_path / name).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    for split, count in (("train", 5), ("val", 1)):
        shards = [str(path) for path in list_shards(tmp_path, split)]
        labels = [parse_record(r, INFO).panoptic.numpy() for r in tf.data.TFRecordDataset(shards)]
        total = sum_statistics([count_label(label, INFO) for label in labels], INFO.num_classes)
        assert manifest.splits[split] == describe_split(total, INFO)
        assert manifest.splits[split]["records"] == count
        pixels = sum(row["pixels"] for row in manifest.splits[split]["classes"].values())
        assert pixels + manifest.splits[split]["void_pixels"] == count * 33 * 65


def test_sums_by_class_are_those_of_finished_conversions_alone(tmp_path):
    items = make_items(tmp_path / "a", 2)
    convert(TextConverter(), {"train": items}, tmp_path / "out")
    assert load_manifest(tmp_path / "out").splits["train"]["records"] == 2
    items[1].path.write_text("bad")
    with pytest.raises(UserError, match="is bad"):
        convert(TextConverter(), {"train": items}, tmp_path / "out")
    assert load_manifest(tmp_path / "out").splits == {}
