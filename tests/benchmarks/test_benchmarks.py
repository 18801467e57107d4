"""The benchmarks measure what they say: the drawn scenes have the centres asked for, and brute force agrees."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize("start", ["full", "stride 4"])
@pytest.mark.parametrize("centers", [0, 9])
def test_postprocessing_case(benchmark_module, start, centers) -> None:
    # It raises where results differ or centres are missing.
    row = benchmark_module("postprocessing").measure_case(start, 129, 257, 2, centers, runs=1)
    assert tuple(row) == benchmark_module("postprocessing").COLUMNS
    assert (row["from"], row["batch"], row["centers"]) == (start, 2, centers)
    assert row["ms"] > 0 and row["xla_ms"] > 0 and row["brute_force_ms"] >= 0
    assert (row["things_percent"] > 5) == (centers > 0)


def test_backbone_case(benchmark_module) -> None:
    row = benchmark_module("backbones").measure_backbone("mobilenet_v3_small", 33, 65, runs=1)
    assert tuple(row) == benchmark_module("backbones").COLUMNS
    assert row["parameters"] > 100_000 and row["ratio"] > 0


def test_ratio_is_of_second_to_first(benchmark_module, monkeypatch) -> None:
    measure = benchmark_module("measure")
    times = iter([9.0, 9.0, 1.0, 4.0, 2.0, 6.0, 1.0, 3.0])
    monkeypatch.setattr(measure, "milliseconds", lambda run: next(times))
    assert measure.compare(None, None, runs=3) == (1.0, 4.0, 3.0)


def test_peak_memory_is_what_a_run_adds() -> None:
    # In a process of its own: one that has freed memory takes it again without any peak.
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import tensorflow as tf
from measure import peak_megabytes
print(peak_megabytes(lambda: tf.reduce_sum(tf.zeros([64, 1024, 1024]))))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(BENCHMARKS)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "None" or 200 < float(done.stdout) < 600
