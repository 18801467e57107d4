"""The command `predict`: which images it takes, and what it writes of each."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite import inference
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.predict import find_images, run

INFO = load_dataset_info("shapes")


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_a_folder_gives_its_images_in_order(tmp_path):
    touch(tmp_path, "b.JPG", "a.png", "c.tiff", "10.webp", "9.bmp", "notes.txt", "image", ".hidden.png", "._a.jpeg")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["10.webp", "9.bmp", "a.png", "b.JPG", "c.tiff"]


def test_a_file_is_taken_whatever_its_name(tmp_path):
    touch(tmp_path, "photograph.dat")
    assert find_images(tmp_path / "photograph.dat") == [tmp_path / "photograph.dat"]


def test_nothing_there(tmp_path):
    missing = tmp_path / "missing"
    assert message_of(lambda: find_images(missing)) == f"--input: no such file or folder: {missing}"
    touch(tmp_path, "notes.txt")
    assert message_of(lambda: find_images(tmp_path)) == (
        f"--input: no images in {tmp_path}; expected files ending in .png, .jpg, .jpeg, .tif, .tiff, .bmp, .webp, .gif"
    )


def test_two_of_one_stem_would_overwrite_each_other(tmp_path):
    touch(tmp_path, "a.png", "b.jpg", "b.png")
    assert message_of(lambda: find_images(tmp_path)) == (
        f"--input: {tmp_path / 'b.jpg'} and b.png have the same stem; rename one"
    )


# ---- the command, with a network that says what the image's red says


class RedPredictor:
    def __init__(self, model):
        assert model == "runs/x"
        self.info = INFO

    def __call__(self, image):
        assert image.dtype == np.uint8
        return SimpleNamespace(panoptic=np.where(image[..., 0] > 127, 6001, 0).astype(np.int32))


@pytest.fixture
def red(monkeypatch):
    monkeypatch.setattr(inference, "Predictor", RedPredictor)


def arguments(folder, **changes):
    values = {"model": "runs/x", "input": str(folder / "in"), "output": str(folder / "out" / "deep"), **changes}
    return argparse.Namespace(**values)


def write_images(folder):
    touch(folder / "in")
    images = {"a": np.zeros((6, 8, 3), np.uint8), "b": np.zeros((5, 4, 3), np.uint8)}
    images["a"][1:3, 2:5, 0] = 200
    Image.fromarray(images["a"]).save(folder / "in" / "a.png")
    # Grey: all channels are red, too.
    Image.fromarray(np.full((5, 4), 255, np.uint8)).save(folder / "in" / "b.tif")
    return images


def test_every_image_gets_its_map_and_overlay(tmp_path, red, capsys):
    write_images(tmp_path)
    run(arguments(tmp_path))
    output = tmp_path / "out" / "deep"
    assert sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()) == [
        "overlay/a.png", "overlay/b.png", "panoptic.json", "panoptic/a.png", "panoptic/b.png"
    ]  # fmt: skip
    content = json.loads((output / "panoptic.json").read_text())
    assert content["images"] == [
        {"id": "a", "file_name": "a.png", "height": 6, "width": 8},
        {"id": "b", "file_name": "b.tif", "height": 5, "width": 4},
    ]
    segments = [[(s["category_id"], s["area"], s["bbox"]) for s in a["segments_info"]] for a in content["annotations"]]
    assert segments == [[(0, 42, [0, 0, 8, 6]), (6, 6, [2, 1, 3, 2])], [(6, 20, [0, 0, 4, 5])]]
    with Image.open(output / "panoptic" / "a.png") as image:
        assert image.size == (8, 6)
    with Image.open(output / "overlay" / "a.png") as overlay:
        # Small images are enlarged for the names, by a whole factor.
        assert overlay.size[0] % 8 == 0 and overlay.size[0] * 6 == overlay.size[1] * 8
        car = np.asarray(overlay)[overlay.size[1] // 3, overlay.size[0] * 7 // 16]
        assert car[2] > 50
    assert capsys.readouterr().out.startswith("2 images: ")


def test_an_image_that_cannot_be_read_is_named(tmp_path, red):
    write_images(tmp_path)
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    assert message_of(lambda: run(arguments(tmp_path))).startswith(f"{tmp_path / 'in' / 'a.png'}: not an image")


def test_an_output_that_cannot_be_made(tmp_path, red):
    write_images(tmp_path)
    (tmp_path / "out").write_text("a file")
    text = message_of(lambda: run(arguments(tmp_path)))
    assert text == f"--output: {tmp_path / 'out' / 'deep' / 'overlay'}: cannot be made (Not a directory)"
