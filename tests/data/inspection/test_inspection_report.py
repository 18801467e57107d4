"""The text for the terminal says what the JSON says, within 100 columns; suggestions follow from the figures."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.data.inspection.folder import inspect_folder
from deeplab2_lite.data.inspection.records import RecordContent
from deeplab2_lite.data.inspection.report import format_inspection, report, write_report
from deeplab2_lite.data.inspection.statistics import SplitStatistics
from deeplab2_lite.data.inspection.suggestions import suggest
from deeplab2_lite.data.record_format import encode_png, make_record
from deeplab2_lite.data.shards import shard_name
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo

INFO = DatasetInfo(
    "pets",
    (
        ClassInfo("floor", False, (0, 0, 0), 0),
        ClassInfo("cat of a very long name that no table has room for, whatever else is in it", True, (9, 9, 9), 1),
        ClassInfo("unicorn", True, (9, 0, 9), 2),
    ),
)  # fmt: skip


def write(folder, split, labels, start=0):
    with tf.io.TFRecordWriter(str(folder / shard_name(split, 0, 1))) as writer:
        for i, label in enumerate(labels, start):
            image = np.full((*label.shape, 3), i, np.uint8)
            writer.write(make_record(encode_png(image), "png", f"{i}.png", label))


@pytest.fixture(scope="module")
def inspection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    label = np.zeros((70, 70), np.int32)
    label[:2, :3], label[0, 4:], label[3] = 1001, 1002, 1000
    large = np.zeros((80, 90), np.int32)
    large[:70, :70], large[75:] = 1001, 255000
    stuffed = np.where(label == 0, 3, label)
    write(folder, "train", [label, large, *[stuffed] * 13])
    dotted = label.copy()
    dotted[69, 69] = 1003
    write(folder, "val", [dotted], start=50)
    return inspect_folder(folder, INFO)


def section(text, split):
    """Returns a split's part of the text as a mapping of its rows, lines joined, and the table's rows."""
    block = re.split(r"\n\n(?=\S)", text[text.index(f"{split}: ") :])[0]
    head, table = block.split("\n\n")
    rows = {line.split()[0]: line.split() for line in table.splitlines()}
    return " ".join(head.split()), rows


def test_text_says_what_the_json_says(inspection):
    text, content = format_inspection(inspection), report(inspection)
    for split, figures in content["splits"].items():
        head, rows = section(text, split)
        shards = "1 shard"
        counted = f"{figures['records']} record{'s' * (figures['records'] != 1)} in {shards}"
        assert head.startswith(f"{split}: {counted}, {figures['bytes'] / 1e6:.1f} MB")
        assert f"{100 * figures['void_share']:.2f}% void" in head
        expected = f"{figures['instances']}; {figures['instances_per_image']:g} in the median image"
        assert f"instances {expected}, {figures['most_instances']} at most ({figures['most_instances_in']})" in head
        assert f"{100 * figures['small_instances'] / figures['instances']:.2f}% of fewer than 4,096" in head
        assert f"up to {figures['largest_instance_id']}; label_divisor holds 999" in head
        for size in figures["sizes"]:
            assert f"{size['height']}x{size['width']}" in head
        floor, cat, _ = figures["classes"]
        assert rows["floor"][1:] == [
            "stuff", str(floor["images"]), f"{100 * floor['share']:.2f}%", str(floor["segments"]),
            f"{floor['areas']['median']:,.0f}", f"{floor['areas']['smallest']:,}..{floor['areas']['largest']:,}", "0",
        ]  # fmt: skip
        assert rows["cat"][-7:] == [
            "thing", str(cat["images"]), f"{100 * cat['share']:.2f}%", str(cat["segments"]),
            f"{cat['areas']['median']:,.0f}", f"{cat['areas']['smallest']:,}..{cat['areas']['largest']:,}",
            str(cat["crowds"]),
        ]  # fmt: skip
        assert "unicorn" not in rows
        assert "unicorn" in rows["not"]
    assert f"\n\n{content['errors']} errors\n" in text
    assert f"\n\n{content['hints']} hint\n" in text
    for line in content["suggestions"]:
        assert line in " ".join(text.split())


def test_figures_are_those_of_the_labels(inspection):
    train = report(inspection)["splits"]["train"]
    assert train["sizes"] == [
        {"height": 70, "width": 70, "images": 14},
        {"height": 80, "width": 90, "images": 1},
    ]
    assert (train["instances"], train["small_instances"], train["most_instances"]) == (29, 28, 2)
    assert train["classes"][1]["crowds"] == 14
    assert train["classes"][1]["areas"] == {"smallest": 6, "lower_quartile": 6, "median": 66, "largest": 4900}


def test_findings_of_a_kind_are_cut_short_in_the_text_alone(inspection):
    text, content = format_inspection(inspection), report(inspection)
    assert content["errors"] == 13 == sum(f["kind"] == "stuff_instances" for f in content["findings"])
    assert text.count("'floor' is stuff") == 10
    assert "    and 3 more, which inspection.json lists" in text
    first = content["findings"][0]
    assert first == {
        "severity": "error",
        "kind": "stuff_instances",
        "message": "'floor' is stuff, but has instance ids 3; expected 0",
        "split": "train",
        "file": "train-00000-of-00001.tfrecord",
        "record": 2,
        "filename": "2.png",
    }
    assert f"    train-00000-of-00001.tfrecord record 2 (2.png): {first['message']}" in re.sub(r"\n {8}", " ", text)


def test_no_line_is_wider_than_100_columns(inspection):
    text = format_inspection(inspection)
    assert max(map(len, text.splitlines())) <= 100
    assert "cat of a very long name" in text
    assert not re.search(r"[ \t]$", text, re.MULTILINE)


def test_written_report_is_the_report(inspection, tmp_path):
    path = write_report(inspection, tmp_path)
    assert path == tmp_path / "inspection.json"
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(report(inspection)))


def test_split_without_readable_records(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / shard_name("train", 0, 1))) as writer:
        writer.write(b"\xff")
    text = format_inspection(inspect_folder(tmp_path, INFO))
    assert "train: 1 record in 1 shard, 0.0 MB; 1 cannot be read\n" in text
    assert "1 error\n" in text
    assert "suggestions" not in text


# ---- suggestions


def summary(*labels, size=None, info=INFO):
    statistics = SplitStatistics(info)
    for label in labels:
        ids, areas = np.unique(label, return_counts=True)
        height, width = size or label.shape
        statistics.add("a", RecordContent(height, width, "png", "panoptic_png", ids, areas, b""))
    return statistics.summary(1, 1, len(labels), len(labels))


def street(instances=0, area=5000):
    """Returns a label of the size for which the defaults are made, with instances of so many pixels."""
    label = np.zeros(1024 * 2048, np.int32)
    label[: instances * area] = 1001 + np.arange(instances * area) // area
    return label.reshape(1024, 2048)


def suggestions(splits, info=INFO, complete=False):
    return suggest(splits, info, complete)


def test_nothing_is_suggested_where_the_defaults_fit():
    assert suggestions({"train": summary(street(200))}) == []
    assert suggestions({"train": summary()}) == []


def test_more_instances_than_top_k():
    (line,) = suggestions({"train": summary(street(3)), "val": summary(street(201))})
    assert line.startswith("postprocessing.top_k: an image holds 201 instances; the default of 200")


def test_nearly_full_label_divisor():
    label = np.where(street(3) == 1003, 1900, street(3))
    (line,) = suggestions({"train": summary(label)})
    assert line == "label_divisor: 1000 is nearly full, the largest instance id is 900"
    assert suggestions({"train": summary(np.where(label == 1900, 1899, label))}) == []


def test_crop_that_would_be_mostly_padding():
    small, high = np.zeros((256, 256), np.int32), np.zeros((300, 258), np.int32)
    (line,) = suggestions({"train": summary(small, small, high, street())})
    assert "default 1025x2049 would be padding for 3 of 4 images" in line
    assert "[257, 257] holds the smallest images, [1025, 2049] the largest" in line
    assert suggestions({"train": summary(small, street())}) == []
    (line,) = suggestions({"train": summary(high)})
    assert line.endswith("[305, 273] holds the smallest images")


def test_sides_beyond_the_papers():
    (line,) = suggestions({"train": summary(street(), size=(1500, 2178))})
    assert line.startswith("data.longest_side: sides reach 2178 pixels")
    assert suggestions({"train": summary(street(), size=(1500, 2177))}) == []


def test_instances_that_are_all_small_or_narrow():
    (line,) = suggestions({"train": summary(street(50, area=400))})
    assert line.startswith("targets.small_instance_weight: 100% of the instances are smaller than 4096 pixels")
    lines = suggestions({"train": summary(street(50, area=100))})
    assert [line.split(":")[0] for line in lines] == ["targets.small_instance_weight", "targets.center_sigma"]
    assert "narrower than 10 pixels" in lines[1]
    assert lines[1].endswith("default 8 run into each other; 5 would not")


def test_stuff_below_its_limit():
    label = street()
    label[0, :50] = 1000
    info = dataclasses.replace(INFO, stuff_area_limit=1024 * 2048)
    (line,) = suggestions({"train": summary(label, label, street(), info=info)}, info)
    assert line.startswith(
        "stuff_area_limit: 2097152 pixels is more than most images (at their own size) show of 'floor'"
    )
    assert suggestions({"train": summary(label, street(), info=info)}, info) == []


def test_classes_that_are_never_trained():
    both = {"train": summary(street()), "val": summary(street(1))}
    cat = INFO.class_names[1]
    assert suggestions(both, complete=True) == [
        "classes: 'unicorn' never occur",
        f"classes: '{cat}' occur in 'val', but never in 'train'",
    ]
    assert suggestions(both, complete=False) == []
    assert suggestions({"val": both["val"]}, complete=True) == ["classes: 'unicorn' never occur"]
