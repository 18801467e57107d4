"""The benchmarks of other runtimes, at a tiny size: what they write runs where they say it runs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = (
    "data.crop_size=[65,97],model.semantic.aspp_channels=16,model.semantic.decoder_channels=16,"
    "model.semantic.head_channels=16,model.instance.aspp_channels=16,model.instance.decoder_channels=16,"
    "model.instance.head_channels=16"
)
WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules["tensorflow"] = sys.modules["deeplab2_lite"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


MERGE = "merge alone, upsampling of the heads included"
INFERENCE = "mobilenet_v3_small, image to panoptic map"
STEP = "mobilenet_v3_small, training step, batch 1, 65 x 97"


@pytest.mark.parametrize(
    ("programs", "texts"),
    [
        (["merge"], {MERGE}),
        # Compiling a training step for the CPU takes a minute.
        pytest.param(["inference", "step"], {INFERENCE, STEP}, marks=pytest.mark.slow),
    ],
)
def test_xla_device(programs, texts, benchmark_module, tmp_path: Path) -> None:
    folder = tmp_path / "artefacts"
    export = benchmark_module("xla_device").export
    export(folder, ["shapes/mobilenet_v3_small"], (65, 97), SMALL, instances=2, programs=programs)
    words = [str(BENCHMARKS / "xla_device.py"), "run", str(folder), "--runs=2", f"--output={tmp_path / 'rows.json'}"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *words], capture_output=True, text=True, timeout=900, check=True
    )
    device, header, *lines = done.stdout.splitlines()
    assert "JAX" in device and "V100" in header and len(lines) == len(programs)
    rows = {row["text"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert set(rows) == texts
    assert all(row["ms"] > 0 for row in rows.values())
    assert MERGE not in rows or rows[MERGE]["published_ms"] == 3


@pytest.mark.slow
def test_runtime_rows(benchmark_module, tmp_path: Path) -> None:
    runtimes = benchmark_module("runtimes")
    model = runtimes.random_model("shapes/mobilenet_v3_small", tmp_path)
    for runtime in runtimes.RUNTIMES:
        row = runtimes.measure_runtime(runtime, model, (65, 97), None, runs=1, most_images=1)
        assert set(row) <= set(runtimes.COLUMNS)
        assert row["ms"] > 0 and ("megabytes" in row) == (runtime not in ("tensorflow", "evaluator"))
        assert row["equal_pixels"] >= 0.999 or runtime.startswith("litert_"), runtime


@pytest.mark.slow
def test_frozen_beside_unfolded(benchmark_module, tmp_path: Path) -> None:
    serving = benchmark_module("serving")
    paths = serving.export_both("shapes/mobilenet_v3_small", tmp_path)
    image = np.zeros((65, 97, 3), np.uint8)
    assert min(serving.compare_both(paths, image, runs=2)) > 0
    times = serving.measure_c_program(paths, image, 2, tmp_path)
    assert list(times) == ["as it is", "frozen"] and min(times.values()) > 0
