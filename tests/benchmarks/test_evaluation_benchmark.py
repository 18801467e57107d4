"""The benchmark of evaluation measures what it says: both evaluators on the same files, with the same figures."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from deeplab2_lite.dataset_info import load_dataset_info

pytest.importorskip("cityscapesscripts")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_rows_and_figures(benchmark_module, tmp_path, monkeypatch) -> None:
    if not hasattr(np, "in1d"):  # the benchmark sets it for the script's sake; here it goes away again
        monkeypatch.setattr(np, "in1d", lambda a, b: np.isin(a, b).ravel(), raising=False)
    benchmark, info = benchmark_module("evaluation"), load_dataset_info("cityscapes")
    truths = [benchmark_module("labels").draw_label(info, 129, 257, 12, seed) for seed in range(3)]
    files = benchmark.write_files(tmp_path / "files", truths, 20, info)
    assert len(list((tmp_path / "files").glob("*/*.png"))) == 6 and len(files.truth["annotations"]) == 20
    # It raises where figures differ.
    rows = benchmark.measure(files, info, images=20, official=10, processes=())
    assert [(row["figures"], row["evaluator"], row["images"]) for row in rows] == [
        ("PQ", "cityscapesScripts", 10),
        ("PQ", "decoding alone", 10),
        ("PQ", "deeplab2_lite", 20),
        ("PQ, IoU, iIoU", "cityscapesScripts", 10),
        ("PQ, IoU, iIoU", "deeplab2_lite", 20),
    ]
    assert all(tuple(row) == benchmark.COLUMNS and row["images_per_second"] > 0 for row in rows)
    assert rows[0]["times_official"] == 1
