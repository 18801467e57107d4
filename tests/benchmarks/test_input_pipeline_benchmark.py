"""The benchmark of the input pipeline measures what it says: full targets on both sides, from the same images."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, DataConfig, TargetConfig
from deeplab2_lite.data.records import parse_record
from deeplab2_lite.data.targets import make_targets
from deeplab2_lite.dataset_info import load_dataset_info

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def records(benchmark_module, tmp_path):
    benchmark_module("input_pipeline").draw_records("coco", tmp_path, count=2)
    return tmp_path


def test_case(benchmark_module, records) -> None:
    benchmark = benchmark_module("input_pipeline")
    data = {"crop_size": (65, 129), "longest_side": 200}
    rows = benchmark.measure_case("small", records, data, {"max_scale": 1.0}, images=2, runs=1)
    assert all(tuple(row) == benchmark.COLUMNS and (row["case"], row["images"]) == ("small", 2) for row in rows)
    by_name = {row["what"]: row for row in rows}
    assert list(by_name) == [
        "images/s",
        "ms",
        *(f"ms: {s}" for s in benchmark.STAGES),
        "kB of a record",
        "kB of a label",
    ]
    assert by_name["ms"]["ours"] == pytest.approx(1e3 / by_name["images/s"]["ours"], rel=0.05)
    stages = sum(by_name[f"ms: {stage}"]["usual"] for stage in benchmark.STAGES)
    assert stages == pytest.approx(by_name["ms"]["usual"], abs=1)
    # 480x640 pixels of 4 bytes.
    assert by_name["kB of a label"]["usual"] == 1228.8 and 1 < by_name["kB of a label"]["ours"] < 30


def test_both_give_an_image_and_its_targets(benchmark_module, records) -> None:
    usual = benchmark_module("usual_pipeline")
    info = load_dataset_info(records)
    serialized = next(iter(tf.data.TFRecordDataset(str(records / "train-00000-of-00001.tfrecord")))).numpy()
    raw = usual.with_raw_label(serialized)
    parsed = parse_record(tf.constant(serialized), info)
    np.testing.assert_array_equal(usual.decode_image(tf.constant(raw)), parsed.image)
    np.testing.assert_array_equal(usual.decode_label(tf.constant(raw)), parsed.panoptic)
    targets = make_targets(parsed.panoptic, info, TargetConfig())
    for wanted, got in zip(targets, usual.targets_by_masks(parsed.panoptic.numpy(), info, TargetConfig()), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_usual_augmentation_keeps_image_and_label_together(benchmark_module) -> None:
    usual = benchmark_module("usual_pipeline")
    label = np.arange(40 * 60).reshape(40, 60).astype(np.int32)
    image = np.stack([label // 60 * 5, label % 60 * 4, label * 0], axis=-1).astype(np.uint8)
    config = DataConfig(crop_size=(33, 97), augmentation=AugmentationConfig(1.0, 1.0, 0.1))
    tf.random.set_seed(1)
    mirrored = set()
    for _ in range(8):
        crop, panoptic = (
            tensor.numpy() for tensor in usual.augment(tf.constant(image), tf.constant(label), config, -1)
        )
        assert (crop[panoptic == -1] == 127.5).all() and (panoptic == -1).sum() == 33 * 37
        inside = panoptic[:, :60]
        np.testing.assert_array_equal(crop[:, :60, 0], inside // 60 * 5)
        np.testing.assert_array_equal(crop[:, :60, 1], inside % 60 * 4)
        mirrored.add(int(np.sign(inside[0, 1] - inside[0, 0])))
    assert mirrored == {-1, 1}
