"""The benchmark of checkpoints measures what it says, in the order of its columns."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("checkpoints")


def test_a_network_with_its_optimizer(benchmark, tmp_path):
    row = benchmark.measure_experiment("shapes/mobilenet_v3_small", tmp_path, runs=1)
    assert tuple(row) == benchmark.COLUMNS
    # Weights, and Adam's two moments of those that are trained, in float32.
    assert 2.8 < 1e6 * row["megabytes"] / row["parameters"] / 4 < 3.1
    assert 0 < row["blocked_ms"] < row["written_ms"]
    assert all(row[column] > 0 for column in benchmark.COLUMNS[1:])
    # All but the newest of the store is removed.
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == ["store/1"]
