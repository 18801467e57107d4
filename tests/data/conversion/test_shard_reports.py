"""What workers report beside their shards finds its way into the manifest, once, and if it is this conversion's."""

import json

from deeplab2_lite.data.conversion.label_statistics import LabelStatistics
from deeplab2_lite.data.conversion.manifest import Manifest, ShardEntry, load_manifest
from deeplab2_lite.data.conversion.shard_reports import collect_reports, discard_reports, save_report

ENTRY = ShardEntry("print", 12, "abc", LabelStatistics(2, 5, (1, 0), (3, 0), (1, 0)))


def test_entries_are_saved_and_errors_returned(tmp_path):
    save_report(tmp_path / "train-00000-of-00002.tfrecord", "ours", ENTRY)
    save_report(tmp_path / "train-00001-of-00002.tfrecord", "ours", "a.png: is bad")
    other = ShardEntry("p", 1, "d", LabelStatistics.empty(2))
    manifest = Manifest("ours", {"val-00000-of-00001.tfrecord": other})
    assert collect_reports(tmp_path, manifest) == {"train-00001-of-00002.tfrecord": "a.png: is bad"}
    expected = {"val-00000-of-00001.tfrecord": other, "train-00000-of-00002.tfrecord": ENTRY}
    assert manifest.shards == expected
    assert load_manifest(tmp_path).shards == expected
    assert [path.name for path in tmp_path.iterdir()] == ["conversion.json"]


def test_the_last_report_of_a_shard_counts(tmp_path):
    shard = tmp_path / "val-00000-of-00001.tfrecord"
    save_report(shard, "ours", "no room")
    save_report(shard, "ours", ENTRY)
    manifest = Manifest("ours")
    assert collect_reports(tmp_path, manifest) == {}
    assert manifest.shards == {shard.name: ENTRY}


def test_reports_of_others_and_damaged_ones_are_removed_only(tmp_path):
    shard = tmp_path / "val-00000-of-00001.tfrecord"
    save_report(shard, "theirs", ENTRY)
    [report] = tmp_path.iterdir()
    whole = report.read_text()
    lacking = json.dumps({"settings": "ours", "entry": {"bytes": 3}})
    for text in (whole, whole.replace("theirs", "ours")[:-9], "[]", "{}", "\0", lacking):
        report.write_text(text)
        manifest = Manifest("ours")
        assert collect_reports(tmp_path, manifest) == {}
        assert manifest.shards == {}
        assert list(tmp_path.iterdir()) == []


def test_nothing_but_reports_is_discarded(tmp_path):
    for name in ("train-00000-of-00001.tfrecord", "notes.report.json", ".notes.json"):
        (tmp_path / name).write_text("mine")
    save_report(tmp_path / "train-00000-of-00001.tfrecord", "ours", ENTRY)
    discard_reports(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".notes.json",
        "notes.report.json",
        "train-00000-of-00001.tfrecord",
    ]
