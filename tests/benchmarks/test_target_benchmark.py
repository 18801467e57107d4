"""The benchmark of targets measures what it says: loop and segment sums agree, on as many instances as asked for."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from deeplab2_lite.dataset_info import load_dataset_info

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_drawn_case(benchmark_module) -> None:
    # It raises where results differ.
    row = benchmark_module("targets").measure_drawn("cityscapes", 65, 129, 5, runs=1)
    assert tuple(row) == benchmark_module("targets").COLUMNS
    assert (row["labels"], row["number"], row["height"], row["width"]) == ("drawn as cityscapes", 3, 65, 129)
    assert 4 <= row["instances"] <= 5 and row["ms"] > 0 and row["loop_ms"] > 0


def test_drawn_labels_have_stuff_void_and_the_instances(benchmark_module) -> None:
    labels, info = benchmark_module("labels"), load_dataset_info("cityscapes")
    label = labels.draw_label(info, 257, 513, 30, seed=0)
    assert label.dtype == np.int32 and label.shape == (257, 513)
    # A few may be hidden.
    assert 27 <= labels.count_instances(label, info) <= 30
    assert (label == info.void_id).any() and np.isin(label // info.label_divisor, info.stuff_ids).any()


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "size"), [("cityscapes", (1025, 2049)), ("coco", (641, 641))])
def test_real_labels(benchmark_module, real_data, name, size) -> None:
    labels, info = benchmark_module("labels"), load_dataset_info(name)
    found = list(itertools.islice(getattr(labels, f"{name}_labels")(real_data / name, info), 5))
    assert len(found) == 5 and all(label.shape == size and label.dtype == np.int32 for label in found)
    assert sum(labels.count_instances(label, info) for label in found) > 10
    assert {int(i) for label in found for i in np.unique(label // 1000)} <= {*range(info.num_classes), 255}
