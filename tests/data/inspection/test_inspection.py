"""The figures of an inspection are those of a slow count; the records come through the path of training."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.converters import instance_masks as build_instance_masks
from deeplab2_lite.data.inspection.folder import inspect_folder
from deeplab2_lite.data.inspection.records import RecordContent
from deeplab2_lite.data.inspection.report import report
from deeplab2_lite.data.inspection.statistics import SplitStatistics
from deeplab2_lite.data.record_format import encode_png, make_record
from deeplab2_lite.data.shards import shard_name
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, load_dataset_info
from deeplab2_lite.errors import UserError

# Void is 50.
INFO = DatasetInfo(
    "pets",
    (
        ClassInfo("floor", False, (0, 0, 0), 0),
        ClassInfo("cat", True, (9, 9, 9), 1),
        ClassInfo("wall", False, (80, 0, 0), 2),
        ClassInfo("dog", True, (0, 90, 0), 3),
    ),
    ignore_label=5,
    label_divisor=10,
    stuff_area_limit=4,
)
IDS = [0, 10, 11, 12, 15, 20, 30, 31, 39, 50]
LABELS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.sampled_from(IDS))


def write_records(folder, split, labels, seed=0, shards=1, info=INFO):
    """Writes a record for each label, image `{split}{i}.png`, evenly over shards."""
    rng = np.random.default_rng([seed, *split.encode()])
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        with tf.io.TFRecordWriter(str(folder / shard_name(split, shard, shards))) as writer:
            for i in range(len(labels) * shard // shards, len(labels) * (shard + 1) // shards):
                image = rng.integers(0, 256, (*labels[i].shape, 3), dtype=np.uint8)
                writer.write(make_record(encode_png(image), "png", f"{split}{i}.png", labels[i]))
    info.save(folder)


def expected_summary(labels):
    """Counts pixel by pixel, and segment by segment."""
    pixels, images, crowds = (collections.Counter() for _ in range(3))
    areas = collections.defaultdict(list)
    instances, largest_id = [], 0
    for label in labels:
        of_segment = collections.Counter(label.ravel().tolist())
        of_class = collections.Counter(value // 10 for value in label.ravel().tolist())
        for class_id, count in of_class.items():
            pixels[class_id] += count
            images[class_id] += 1
            if class_id in (0, 2):
                areas[class_id].append(count)
        for value, count in of_segment.items():
            class_id, instance = divmod(value, 10)
            if class_id in (1, 3) and instance:
                areas[class_id].append(count)
                largest_id = max(largest_id, instance)
            elif class_id in (1, 3):
                crowds[class_id] += 1
        instances.append(sum(value // 10 in (1, 3) and value % 10 > 0 for value in of_segment))
    total = sum(pixels.values())
    return pixels, images, crowds, areas, instances, largest_id, total


def assert_summary(summary, labels):
    pixels, images, crowds, areas, instances, largest_id, total = expected_summary(labels)
    assert summary.readable == len(labels)
    assert summary.void_share == pytest.approx(pixels[5] / total)
    for class_id, row in enumerate(summary.classes):
        assert (row.name, row.isthing) == (INFO.class_names[class_id], class_id in (1, 3))
        assert (row.images, row.pixels, row.crowds) == (images[class_id], pixels[class_id], crowds[class_id])
        assert row.share == pytest.approx(pixels[class_id] / max(total - pixels[5], 1))
        own = sorted(areas[class_id])
        assert row.segments == len(own)
        assert (row.areas is None) == (not own)
        if own:
            median = (own[(len(own) - 1) // 2] + own[len(own) // 2]) / 2
            assert (row.areas.smallest, row.areas.median, row.areas.largest) == (own[0], median, own[-1])
        assert row.below_stuff_limit == (sum(area < 4 for area in own) if class_id in (0, 2) else 0)
    ordered = sorted(instances)
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    assert (summary.instances_per_image, summary.most_instances) == (median, max(instances))
    assert (summary.instances, summary.largest_instance_id) == (sum(instances), largest_id)
    counted = collections.Counter(label.shape for label in labels)
    assert {(s.height, s.width): s.images for s in summary.sizes} == counted
    assert [s.images for s in summary.sizes] == sorted(counted.values(), reverse=True)


def content_of(label):
    ids, areas = np.unique(label, return_counts=True)
    return RecordContent(*label.shape, "png", "panoptic_png", ids, areas, b"")


@given(st.lists(LABELS, min_size=1, max_size=6))
def test_statistics_equal_a_slow_count(labels):
    statistics = SplitStatistics(INFO)
    for i, label in enumerate(labels):
        statistics.add(f"{i}.png", content_of(label))
    summary = statistics.summary(1, 100, len(labels), len(labels))
    assert_summary(summary, labels)
    instances = expected_summary(labels)[4]
    most_in = f"{instances.index(max(instances))}.png" if max(instances) else ""
    assert summary.most_instances_in == most_in


def test_small_instances_have_fewer_than_64_x_64_pixels():
    statistics = SplitStatistics(INFO)
    for i, area in enumerate((4095, 4096, 4097, 1)):
        label = np.zeros((100, 100), np.int32)
        label.ravel()[:area] = 11
        statistics.add(f"{i}.png", content_of(label))
    summary = statistics.summary(1, 1, 4, 4)
    assert (summary.instances, summary.small_instances) == (4, 2)
    assert (summary.instance_areas.lower_quartile, summary.instance_areas.median) == (3071.5, 4095.5)


def test_parts_of_stuff_count_as_one_segment():
    statistics = SplitStatistics(INFO)
    statistics.add("a", content_of(np.array([[20, 21, 21, 22]])))
    wall = statistics.summary(1, 1, 1, 1).classes[2]
    assert (wall.segments, wall.areas.median) == (1, 4)


def drawn_labels(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.choice(IDS, rng.integers(3, 9, 2)).astype(np.int32) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_records(folder, "train", drawn_labels(9), shards=2)
    write_records(folder, "val", drawn_labels(4, seed=1))
    return folder


def test_folder_is_counted_by_split(folder):
    inspection = inspect_folder(folder, load_dataset_info(folder))
    assert list(inspection.splits) == ["train", "val"]
    train, val = inspection.splits.values()
    assert_summary(train, drawn_labels(9))
    assert_summary(val, drawn_labels(4, seed=1))
    assert (train.shards, train.records, train.inspected) == (2, 9, 9)
    assert train.bytes == sum(path.stat().st_size for path in folder.glob("train-*"))
    assert train.image_formats == {"png": 9}
    assert train.label_formats == {"panoptic_png": 9}
    assert inspection.errors == ()


def test_threads_do_not_change_the_result(folder):
    one, three = (report(inspect_folder(folder, INFO, num_threads=threads)) for threads in (1, 3))
    assert one == three


def test_splits_and_limit(folder):
    inspection = inspect_folder(folder, INFO, splits=["train"], limit=3)
    assert list(inspection.splits) == ["train"]
    # The middles of three thirds.
    assert inspection.readable["train"].records == (1, 4, 7)
    assert_summary(inspection.splits["train"], [drawn_labels(9)[i] for i in (1, 4, 7)])
    assert (inspection.splits["train"].records, inspection.splits["train"].inspected) == (9, 3)
    assert inspect_folder(folder, INFO, splits=["val"], limit=100).splits["val"].inspected == 4


def test_what_cannot_be_inspected_is_said(folder, tmp_path):
    with pytest.raises(UserError, match=r"no shards of split 'vall'; did you mean 'val'"):
        inspect_folder(folder, INFO, splits=["vall"])
    with pytest.raises(UserError, match=r"limit: expected 1 or more, got 0"):
        inspect_folder(folder, INFO, limit=0)
    with pytest.raises(UserError, match=r"no shards; expected files such as train-00000-of-00001\.tfrecord"):
        inspect_folder(tmp_path, INFO)
    with pytest.raises(UserError, match=r"absent: no such folder"):
        inspect_folder(tmp_path / "absent", INFO)


def test_named_splits_come_first(tmp_path):
    for split in ("a", "z", "train"):
        write_records(tmp_path, split, drawn_labels(1))
    info = DatasetInfo("pets", INFO.classes, INFO.ignore_label, INFO.label_divisor, splits={"train": 1, "a": 1, "z": 1})
    assert list(inspect_folder(tmp_path, info).splits) == ["train", "a", "z"]


@pytest.mark.real_data
def test_real_nuclei_are_counted_as_in_their_masks(real_data, tmp_path):
    source = real_data / "nuclei"
    convert(build_instance_masks.plan(source, splits=["val"], object_name="nucleus"), tmp_path)
    inspection = inspect_folder(tmp_path, load_dataset_info(tmp_path), num_threads=2)
    masks = [np.asarray(Image.open(path)) for path in sorted((source / "val" / "masks").iterdir())]
    areas = [np.unique(mask[mask > 0], return_counts=True)[1] for mask in masks]
    summary = inspection.splits["val"]
    assert (summary.records, summary.readable, inspection.findings) == (50, 50, ())
    assert summary.instances == sum(map(len, areas))
    assert (summary.most_instances, summary.instances_per_image) == (
        max(map(len, areas)),
        np.median([len(a) for a in areas]),
    )
    background, nucleus = summary.classes
    assert nucleus.pixels == sum(int((mask > 0).sum()) for mask in masks)
    assert background.pixels == sum(int((mask == 0).sum()) for mask in masks)
    pooled = np.concatenate(areas)
    assert tuple(nucleus.areas) == (pooled.min(), np.quantile(pooled, 0.25), np.median(pooled), pooled.max())
    assert summary.small_instances == (pooled < 4096).sum()
