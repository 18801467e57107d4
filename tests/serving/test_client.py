"""The client of the examples, against servers that speak gRPC and REST as TF Serving does."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow_serving")

from .conftest import Trained
from .encoding import encode
from .servers import grpc_server, rest_server

CLIENT = Path(__file__).parents[2] / "examples" / "serving_client.py"


@pytest.fixture(scope="module")
def addresses(served_model):
    with grpc_server(served_model) as by_grpc, rest_server(served_model) as by_rest:
        yield {"grpc": ["--server", by_grpc], "rest": ["--rest", "--server", by_rest]}


def _run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [str(CLIENT), *words])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(CLIENT), run_name="__main__")
    return exit_.value.code


@pytest.mark.parametrize("way", ["grpc", "rest"])
def test_the_client_gets_the_map(
    way: str, addresses, served: Path, trained: Trained, scenes, tmp_path: Path, monkeypatch, capsys
) -> None:
    image, output, picture = tmp_path / "scene.png", tmp_path / "ids.png", tmp_path / "picture.png"
    image.write_bytes(encode(scenes[1]))
    labels = served / "assets" / "labels.json"
    files = ["--output", str(output), "--labels", str(labels), "--picture", str(picture)]
    assert _run([str(image), "--model", "shapes", *addresses[way], *files], monkeypatch) == 0
    expected = trained.panoptic(scenes[1])
    ids = np.asarray(Image.open(output), np.int32) @ [1, 256, 65536]
    np.testing.assert_array_equal(ids, expected)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"50 x 81 pixels, {len(np.unique(expected))} segments" and len(lines) == len(np.unique(expected))
    info = trained.info
    class_id, instance = divmod(int(np.bincount(expected.ravel()).argmax()), info.label_divisor)
    name = "(void)" if class_id == info.ignore_label else info.classes[class_id].name
    assert lines[0].split("pixels")[1].split() == [name, *([str(instance)] if instance else [])]
    assert sum(int(line.split()[0]) for line in lines) == 50 * 81
    pixels = np.asarray(Image.open(picture))
    stuff = [i for i, c in enumerate(info.classes) if not c.isthing and (expected == i * info.label_divisor).any()]
    for number in stuff:
        mask = expected == number * info.label_divisor
        assert (pixels[mask] == json.loads(labels.read_text())["categories"][number]["color"]).all()


@pytest.mark.parametrize("way", ["grpc", "rest"])
def test_the_client_says_why_there_is_no_answer(way: str, addresses, tmp_path: Path, monkeypatch, capsys) -> None:
    image = tmp_path / "text.jpg"
    image.write_bytes(b"not an image")
    assert _run([str(image), "--model", "shapes", *addresses[way]], monkeypatch) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{image}: ") and "image_bytes[0]: no image; expected JPEG, PNG" in error
    assert _run([str(image), "--model", "other", *addresses[way]], monkeypatch) == 1
    assert "Servable not found" in capsys.readouterr().err
