"""The command: from a model folder to files, and lines that say how near they come to TensorFlow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from deeplab2_lite.cli import main
from deeplab2_lite.runtimes import comparing


def test_each_image_is_compared(model_dir: Path, scenes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, scene in enumerate(scenes[:2]):
        Image.fromarray(scene).resize((80, 60)).save(images / f"{number}.png")
    output = tmp_path / "out"
    words = ["export", "--model", str(model_dir), "--format", "stablehlo", "--input_size", "65x97"]
    assert main([*words, "--check", str(images), "--output", str(output)]) == 0
    folder, *lines = capsys.readouterr().out.splitlines()
    assert folder == str(output)
    assert {"model.stablehlo", "weights.npz", "jax_module.py", "manifest.json"} <= {p.name for p in output.iterdir()}
    shares = [re.fullmatch(r"(\d).png: ([\d.]+) of the panoptic map equal", line).groups() for line in lines]
    assert [name for name, _ in shares] == ["0", "1"]
    assert all(float(share) >= 0.999 for _, share in shares)


def test_a_model_that_differs_is_an_error(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "_equal", lambda first, second: 0.5)
    words = ["export", "--model", str(model_dir), "--format", "stablehlo", "--input_size", "65x97"]
    assert main([*words, "--no-postprocessing", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("on drawn image 0.50000 of the pixels are as in TensorFlow; expected 0.999 of float32")
