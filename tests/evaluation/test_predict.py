"""The command `predict`: which images it takes, and what it writes of each."""

from __future__ import annotations

import argparse
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from deeplab2_lite import cli, predictor
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.inputs import find_images
from deeplab2_lite.evaluation.model_arguments import VIEW_FLAGS
from deeplab2_lite.evaluation.predict import run
from deeplab2_lite.observation import Observation
from deeplab2_lite.postprocessing.instances import InstanceTable
from deeplab2_lite.postprocessing.segmentation import PanopticResult

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
        f"--input: no images or videos in {tmp_path}; expected files ending in .png, .jpg, .jpeg, .tif, .tiff, .bmp, "
        ".webp, .gif, .mp4, .m4v, .mov, .avi, .mkv, .webm, .mpg, .mpeg, .wmv"
    )


def test_two_of_one_stem_would_overwrite_each_other(tmp_path):
    touch(tmp_path, "a.png", "b.jpg", "b.png")
    assert message_of(lambda: find_images(tmp_path)) == (
        f"--input: {tmp_path / 'b.jpg'} and b.png have the same stem; rename one"
    )


# ---- the command, with a network that says what the image's red says


class RedPredictor:
    """Red is the only instance. Each image that was seen is noted by its height; at one it can be stopped."""

    seen: list[int] = []  # noqa: RUF012
    asked: list[tuple[list[str], str]] = []  # noqa: RUF012
    wanted_heads: set[bool] = set()  # noqa: RUF012
    stop_at: int | None = None
    has_heads = False

    def __init__(self, models, overrides):
        self.info = INFO
        self.asked.append((models, overrides))

    def observe(self, image, heads):
        assert image.dtype == np.uint8
        self.wanted_heads.add(heads)
        if image.shape[0] == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append(image.shape[0])
        red = image[..., 0] > 127
        y, x = np.nonzero(red)
        box = [y.min(), x.min(), y.max() + 1, x.max() + 1] if red.any() else [0, 0, 0, 0]
        table = InstanceTable(
            valid=np.array([False, red.any()]),
            class_id=np.array([-1, 6 if red.any() else -1], np.int32),
            panoptic_id=np.array([-1, 6001 if red.any() else -1], np.int32),
            center=np.zeros((2, 2), np.int32),
            center_score=np.zeros(2, np.float32),
            area=np.array([0, red.sum()], np.int32),
            box=np.array([[0, 0, 0, 0], box], np.int32),
        )
        scores = np.array([0, 0.75 if red.any() else 0], np.float32)
        panoptic = np.where(red, 6001, 0).astype(np.int32)
        return Observation(PanopticResult(panoptic, panoptic // 1000, 2 * red, table), scores, None)


@pytest.fixture
def red(monkeypatch):
    monkeypatch.setattr(predictor, "Predictor", RedPredictor)
    monkeypatch.setattr(RedPredictor, "seen", [])
    monkeypatch.setattr(RedPredictor, "asked", [])
    monkeypatch.setattr(RedPredictor, "wanted_heads", set())
    return RedPredictor


def arguments(folder, **changes):
    values = {"model": ["runs/x"], "input": [str(folder / "in")], "output": str(folder / "out" / "deep")}
    values |= {"layers": [], "no_legend": False, "video_frames": False}
    values |= {"high_depth": "refuse", **dict.fromkeys(["instances", *VIEW_FLAGS])}
    return argparse.Namespace(**{**values, **changes})


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


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
        # Small images are enlarged for the names, by a whole factor; below is the legend.
        assert overlay.size[0] == 80 * 8 and 80 * 6 + 30 < overlay.size[1] < 80 * 6 + 60
        car = np.asarray(overlay)[80 * 6 // 3, overlay.size[0] * 7 // 16]
        assert car[2] > 50
    assert capsys.readouterr().out.startswith("2 images: ")


def test_layers_have_folders_of_their_own(tmp_path, red, capsys):
    write_images(tmp_path)
    inputs = [str(tmp_path / "in" / "b.tif"), str(tmp_path / "in" / "a*")]
    run(arguments(tmp_path, input=inputs, layers=["instance", "sheet"], no_legend=True))
    output = tmp_path / "out" / "deep"
    kinds = ("layers/instance", "layers/sheet", "overlay", "panoptic")
    assert sorted(files_of(output)) == sorted([*(f"{k}/{n}.png" for k in kinds for n in "ab"), "panoptic.json"])
    assert red.wanted_heads == {True}
    # In the order in which they were named.
    assert [i["id"] for i in json.loads((output / "panoptic.json").read_text())["images"]] == ["b", "a"]
    for name in ("overlay", "layers/instance"):
        with Image.open(output / name / "a.png") as picture:
            assert picture.size == (640, 480)
    with Image.open(output / "layers" / "sheet" / "a.png") as sheet:
        # Without heads four panels: image, semantic, instances, panoptic.
        assert sheet.size[0] == 2 * 640 + 3 * 8 and 2 * 480 < sheet.size[1] < 2 * 540


@pytest.mark.parametrize("layer", ["heatmap", "offsets"])
def test_an_export_gives_no_heads(tmp_path, red, layer):
    write_images(tmp_path)
    text = message_of(lambda: run(arguments(tmp_path, layers=["sheet", layer])))
    assert text == f"--layers: the export runs/x gives no {layer}, its maps alone; expected a model folder"


def test_what_nobody_sees_is_not_kept(tmp_path, red):
    write_images(tmp_path)
    run(arguments(tmp_path, layers=["semantic"]))
    assert red.wanted_heads == {False}


def test_an_image_that_cannot_be_read_is_named(tmp_path, red):
    write_images(tmp_path)
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    assert message_of(lambda: run(arguments(tmp_path))).startswith(f"{tmp_path / 'in' / 'a.png'}: not an image")


def test_an_output_that_cannot_be_made(tmp_path, red):
    write_images(tmp_path)
    (tmp_path / "out").write_text("a file")
    text = message_of(lambda: run(arguments(tmp_path)))
    assert text == f"--output: {tmp_path / 'out' / 'deep' / 'overlay'}: cannot be written (Not a directory)"


def test_an_output_that_cannot_be_written(tmp_path, red):
    write_images(tmp_path)
    (tmp_path / "out" / "deep" / "panoptic" / "a.png" / "folder").mkdir(parents=True)
    text = message_of(lambda: run(arguments(tmp_path)))
    assert text.startswith("--output: ") and text.endswith(": cannot be written (Is a directory)")


# ---- instances


def test_instances_as_coco_results(tmp_path, red, capsys):
    write_images(tmp_path)
    shutil.copy(tmp_path / "in" / "b.tif", tmp_path / "in" / "000000000139.tif")
    run(arguments(tmp_path, instances="coco"))
    output = tmp_path / "out" / "deep"
    assert sorted(p.name for p in output.iterdir()) == ["instances.json", "overlay", "panoptic", "panoptic.json"]
    content = json.loads((output / "instances.json").read_text())
    assert [{k: v for k, v in a.items() if k != "segmentation"} for a in content] == [
        {"image_id": 139, "category_id": 6, "score": 0.75, "area": 20},
        {"image_id": "a", "category_id": 6, "score": 0.75, "area": 6},
        {"image_id": "b", "category_id": 6, "score": 0.75, "area": 20},
    ]
    expected = np.zeros((6, 8), np.uint8)
    expected[1:3, 2:5] = 1
    np.testing.assert_array_equal(mask_utils.decode(content[1]["segmentation"]), expected)
    # Both files call an image by one id.
    assert [i["id"] for i in json.loads((output / "panoptic.json").read_text())["images"]] == [139, "a", "b"]
    assert capsys.readouterr().out.endswith(f"{output / 'instances.json'}\n")


def test_instances_as_cityscapes_lists(tmp_path, red, capsys):
    write_images(tmp_path)
    run(arguments(tmp_path, instances="cityscapes"))
    output = tmp_path / "out" / "deep"
    assert sorted(p.name for p in output.iterdir()) == ["instances", "overlay", "panoptic", "panoptic.json"]
    assert sorted(name for name in files_of(output / "instances")) == [
        "a_pred.txt", "a_pred/001.png", "b_pred.txt", "b_pred/001.png"
    ]  # fmt: skip
    assert (output / "instances" / "a_pred.txt").read_text() == "a_pred/001.png 6 0.75\n"
    with Image.open(output / "instances" / "a_pred" / "001.png") as mask:
        assert mask.getbbox() == (2, 1, 5, 3)
    assert capsys.readouterr().out.endswith(f"{output / 'instances'}\n")


def test_an_unknown_kind_of_instances(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", "--model=m", "--input=i", "--output=o", "--instances=voc"])
    assert end.value.code == 2
    assert "--instances: invalid choice: 'voc'" in capsys.readouterr().err


# ---- interruptions

KINDS = [None, "coco", "cityscapes"]


def write_series(folder, count=4):
    """Writes images a, b, ... of heights 5, 6, ...; each has a red part."""
    (folder / "in").mkdir(exist_ok=True)
    for i in range(count):
        image = np.zeros((5 + i, 7, 3), np.uint8)
        image[1 : 3 + i, 2:4, 0] = 200
        Image.fromarray(image).save(folder / "in" / f"{'abcdef'[i]}.png")


def uninterrupted(folder, **changes):
    run(arguments(folder, output=str(folder / "expected"), **changes))
    RedPredictor.seen.clear()
    return files_of(folder / "expected")


def assert_whole(output, stems, instances):
    """Asserts that the JSON files hold these images, whose own files are there."""
    content = json.loads((output / "panoptic.json").read_text())
    assert [image["id"] for image in content["images"]] == stems
    assert [annotation["image_id"] for annotation in content["annotations"]] == stems
    names = [f"{kind}/{stem}.png" for kind in ("panoptic", "overlay") for stem in stems]
    if instances == "coco":
        assert [a["image_id"] for a in json.loads((output / "instances.json").read_text())] == stems
    if instances == "cityscapes":
        names += [f"instances/{stem}_pred.txt" for stem in stems]
    assert [name for name in names if not (output / name).is_file()] == []


@pytest.mark.parametrize("instances", KINDS)
def test_after_an_error_the_same_command_goes_on(tmp_path, red, capsys, instances):
    write_series(tmp_path)
    expected = uninterrupted(tmp_path, instances=instances)
    whole = (tmp_path / "in" / "c.png").read_bytes()
    (tmp_path / "in" / "c.png").write_bytes(whole[:45])
    output = tmp_path / "out" / "deep"
    assert "c.png: damaged" in message_of(lambda: run(arguments(tmp_path, instances=instances)))
    assert_whole(output, ["a", "b"], instances)
    assert (output / "unfinished.jsonl").is_file()
    assert red.seen == [5, 6]
    # As long as the image is broken, nothing is done twice, and nothing is lost.
    message_of(lambda: run(arguments(tmp_path, instances=instances)))
    assert_whole(output, ["a", "b"], instances)
    assert red.seen == [5, 6]
    (tmp_path / "in" / "c.png").write_bytes(whole)
    capsys.readouterr()
    run(arguments(tmp_path, instances=instances))
    assert red.seen == [5, 6, 7, 8]
    assert files_of(output) == expected
    assert capsys.readouterr().out.startswith("4 images (2 of them by an earlier, interrupted run): ")
    # When all is done, the command means all images again.
    run(arguments(tmp_path, instances=instances))
    assert red.seen == [5, 6, 7, 8] * 2
    assert files_of(output) == expected


@pytest.mark.parametrize("instances", KINDS)
def test_after_ctrl_c_the_same_command_goes_on(tmp_path, red, monkeypatch, capsys, instances):
    write_series(tmp_path)
    expected = uninterrupted(tmp_path, instances=instances)
    output = tmp_path / "out" / "deep"
    words = ["predict", "--model=runs/x", f"--input={tmp_path / 'in'}", f"--output={output}"]
    words += [f"--instances={instances}"] if instances else []
    for height in (5, 6, 8):
        with monkeypatch.context() as patch:
            patch.setattr(red, "stop_at", height)
            assert cli.main(words) == 130
        if height > 5:
            assert_whole(output, list("abc")[: height - 5], instances)
        else:
            assert not (output / "panoptic.json").exists()
    assert "the same command goes on from here" in capsys.readouterr().err
    assert cli.main(words) == 0
    assert red.seen == [5, 6, 7, 8]
    assert files_of(output) == expected


def test_an_interruption_between_the_files_of_an_image(tmp_path, red, monkeypatch):
    write_series(tmp_path)
    expected = uninterrupted(tmp_path, instances="coco")
    output = tmp_path / "out" / "deep"
    save = Image.Image.save

    def stop_at_the_overlay_of_b(image, path, **options):
        if path.parent.name == "overlay" and path.name.startswith(".b.png"):
            raise KeyboardInterrupt
        save(image, path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", stop_at_the_overlay_of_b)
        run(arguments(tmp_path, instances="coco"))
    assert_whole(output, ["a"], "coco")
    run(arguments(tmp_path, instances="coco"))
    assert red.seen == [5, 6, 6, 7, 8]
    assert files_of(output) == expected


def test_after_a_kill_the_same_command_goes_on(tmp_path, red, monkeypatch):
    write_series(tmp_path)
    expected = uninterrupted(tmp_path)
    output = tmp_path / "out" / "deep"
    monkeypatch.setattr(red, "stop_at", 8)
    with pytest.raises(KeyboardInterrupt):
        run(arguments(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(predictor, "Predictor", red)
    red.seen.clear()
    # A killed process writes no JSON, and may have written half a line.
    (output / "panoptic.json").unlink()
    journal = output / "unfinished.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    run(arguments(tmp_path))
    assert red.seen == [7, 8]
    assert files_of(output) == expected


def test_ensembles_and_views_are_asked_for(tmp_path, red):
    write_series(tmp_path, 1)
    words = ["predict", "--model=a", "--model=b", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    assert cli.main([*words, "--flip", "--tile_size", "33", "65", "--params_override=a.b=1"]) == 0
    overrides = "a.b=1,inference.flip_left_right=true,inference.tile_size=[33, 65]"
    assert red.asked == [(["a", "b"], overrides)]


def test_another_command_begins_anew(tmp_path, red, monkeypatch):
    write_series(tmp_path, 2)
    model = tmp_path / "model"
    (model / "checkpoints" / "100").mkdir(parents=True)
    (model / "config.yaml").write_text("a: 1")
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    same = {"model": [str(model)], "instances": "coco"}

    def seen_after(change, **changes):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(red, "stop_at", 6)
            run(arguments(tmp_path, **same))
        red.seen.clear()
        change()
        run(arguments(tmp_path, **{**same, **changes}))
        return red.seen

    others = [
        {"instances": "cityscapes"},
        {"instances": None},
        {"input": [str(tmp_path / "copy")]},
        {"layers": ["semantic"]},
        {"no_legend": True},
    ]
    others += [{"model": ["x"]}, {"model": [str(model), "x"]}, {"flip": True}, {"scales": [0.5, 1.0]}]
    for changes in others:
        assert seen_after(lambda: None, **changes) == [5, 6], changes
    # The same folder, with a model that was trained on, or is set otherwise.
    assert seen_after(lambda: (model / "checkpoints" / "200").mkdir()) == [5, 6]
    assert seen_after(lambda: (model / "config.yaml").write_text("a: 2.5")) == [5, 6]
    # What else training writes says nothing of the model.
    assert seen_after(lambda: (model / "metrics.json").write_text("{}")) == [6]


def test_what_has_changed_or_gone_is_done_again(tmp_path, red, monkeypatch):
    write_series(tmp_path, 5)
    same = {"instances": "cityscapes"}
    output = tmp_path / "out" / "deep"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(red, "stop_at", 9)
        run(arguments(tmp_path, **same))
    red.seen.clear()
    os.utime(tmp_path / "in" / "a.png", ns=(0, 0))
    (output / "instances" / "b_pred.txt").unlink()
    (output / "panoptic" / "c.png").unlink()
    # Of a file that left the input nothing is said any more.
    (tmp_path / "in" / "d.png").unlink()
    run(arguments(tmp_path, **same))
    assert red.seen == [5, 6, 7, 9]
    assert_whole(output, ["a", "b", "c", "e"], "cityscapes")


def test_help_tells_of_interruptions(capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", "--help"])
    assert "the same command goes on with the rest" in " ".join(capsys.readouterr().out.split())
