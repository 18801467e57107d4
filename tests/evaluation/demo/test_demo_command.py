"""The command `demo`: it says where the page is, and ends in peace."""

from __future__ import annotations

import json
import urllib.request

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite import cli, predictor
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.demo import command
from deeplab2_lite.evaluation.demo.server import DemoServer

from .colour_model import INFO, scene, segment


class ColourPredictor:
    """Sees colours, and runs out of memory on images 33 pixels wide."""

    seen: list[tuple[int, ...]] = []  # noqa: RUF012

    def __init__(self, models, overrides):
        self.info = INFO
        self.asked = models, overrides

    def observe(self, image):
        import tensorflow as tf

        self.seen.append(image.shape)
        if image.shape[1] == 33:
            raise tf.errors.ResourceExhaustedError(None, None, "much")
        return segment(image)


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the page while the command runs, which Ctrl-C ends: a function that is given the server."""
    monkeypatch.setattr(predictor, "Predictor", ColourPredictor)
    monkeypatch.setattr(ColourPredictor, "seen", [])
    questions = []

    def serve(server):
        for question in questions:
            question(server)
        raise KeyboardInterrupt

    monkeypatch.setattr(DemoServer, "serve_forever", serve)
    return questions


def test_the_command_serves_until_ctrl_c(tmp_path, asked, capsys):
    (tmp_path / "images").mkdir()
    for i in range(30):
        Image.fromarray(scene()).save(tmp_path / "images" / f"{i:02d}.png")
    found = []

    def ask(server):
        found.append((server.url, server.demo.model(), server.demo.limits))
        with pytest.raises(UserError, match="too little memory for 33 x 20 pixels; reduce the image, or start"):
            server.demo._segment(np.zeros((20, 33, 3), np.uint8))

    asked.append(ask)
    words = ["--port=0", f"--samples={tmp_path / 'images'}", "--max_megabytes=1.5", "--max_megapixels=2"]
    assert cli.main(["demo", "--model=runs/my_model", *words]) == 0
    ((url, model, limits),) = found
    assert capsys.readouterr().out == f"{url}  (Ctrl-C stops)\nstopped\n"
    assert url.startswith("http://127.0.0.1:")
    assert model["name"] == "my_model" and len(model["samples"]) == 24
    assert limits == (1_500_000, 2_000_000)
    # It was asked once before the first visitor.
    assert ColourPredictor.seen[0] == (65, 65, 3)


def test_a_page_is_served(monkeypatch, capsys):
    """Without a double of the server: one question, by a client of the standard library."""
    monkeypatch.setattr(predictor, "Predictor", ColourPredictor)

    def serve_one(server):
        import threading

        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        with urllib.request.urlopen(f"{server.url}model", timeout=20) as answer:
            assert json.loads(answer.read())["dataset"] == "shapes"
        thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(command.DemoServer, "serve_forever", serve_one)
    assert cli.main(["demo", "--model=m", "--port=0"]) == 0
    assert capsys.readouterr().out.endswith("stopped\n")
