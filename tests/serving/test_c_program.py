"""A C program on libtensorflow, with no Python in it, gives the predictor's maps from the exported files alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .conftest import Trained
from .encoding import decode, encode

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("no gcc")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from libtensorflow import compile_program
    return compile_program(tmp_path_factory.mktemp("program") / "predict")


def _run(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=300)


def _map(path: Path) -> np.ndarray:
    height, width, *ids = np.fromfile(path, np.int32)
    return np.reshape(ids, (height, width))


def test_an_encoded_image(program: Path, served: Path, trained: Trained, scenes, tmp_path: Path) -> None:
    image, output = tmp_path / "image.jpg", tmp_path / "map"
    image.write_bytes(encode(scenes[1], "JPEG"))
    done = _run(program, served, "bytes", image, output, 3)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.fullmatch(r"\d+\.\d ms, median of 3 runs\n", done.stdout)
    np.testing.assert_array_equal(_map(output), trained.panoptic(decode(image.read_bytes())))


def test_pixels_on_the_frozen_model(program: Path, frozen: Path, trained: Trained, scenes, tmp_path: Path) -> None:
    image, output = tmp_path / "image.rgb", tmp_path / "map"
    image.write_bytes(scenes[0].tobytes())
    done = _run(program, frozen, "pixels", image, output, *scenes[0].shape[:2])
    assert done.returncode == 0, done.stderr[-2000:]
    assert np.mean(_map(output) == trained.panoptic(scenes[0])) >= 0.999


@pytest.mark.slow
def test_what_is_no_image_is_refused(program: Path, served: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(b"no image")
    done = _run(program, served, "bytes", image, tmp_path / "map")
    assert done.returncode == 1 and not (tmp_path / "map").exists()
    assert f"{image}: " in done.stderr and "image_bytes[0]: no image; expected JPEG" in done.stderr
