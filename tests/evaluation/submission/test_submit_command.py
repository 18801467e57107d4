"""The command `submit`: what it writes, what it refuses, and how it goes on after an interruption."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.evaluation.submission import models as submission_models
from deeplab2_lite.evaluation.submission.check import check_submission
from deeplab2_lite.evaluation.submission.formats import FORMATS
from deeplab2_lite.evaluation.submission.images import expected_images

from .submission_doubles import DoublePredictor, drawn_map, save_answer

COCO, VISTAS = (load_dataset_info(name) for name in ("coco", "mapillary_vistas"))
ZIP = "panoptic_val2017_double_results.zip"


@pytest.fixture
def double(monkeypatch):
    """Replaces the model; `asked` holds what the command wanted to load."""
    asked = []

    def load(paths, kind, overrides):
        asked.append((paths, kind, overrides))
        return DoublePredictor(COCO if "coco" in str(paths[0]) else VISTAS)

    monkeypatch.setattr(submission_models, "load_predictor", load)
    monkeypatch.setattr(DoublePredictor, "seen", [])
    monkeypatch.setattr(DoublePredictor, "asked", asked, raising=False)
    return DoublePredictor


def write_images(folder, info, names, size=(30, 40)):
    for number, name in enumerate(names):
        save_answer(folder / name, drawn_map(info, number, size), info, number)


def coco_images(tmp_path, count=4):
    write_images(tmp_path / "in", COCO, [f"deep/{i:012d}.png" for i in range(count)])


def submit(tmp_path, *words, form="coco_panoptic", name=ZIP, model="runs/coco"):
    flags = [f"--format={form}", f"--model={model}", f"--input={tmp_path / 'in'}", f"--output={tmp_path / name}"]
    return cli.main(["submit", *flags, *words])


def check_words(form, path, *words):
    return ["submit", f"--format={form}", f"--check={path}", *[str(word) for word in words]]


def test_a_zip_that_passes_its_check(tmp_path, double, capsys):
    coco_images(tmp_path)
    assert submit(tmp_path) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / ZIP}: 4 images, 0.0 MB, nothing wrong as coco_panoptic")
    assert "note: 4 images are no whole split (5,000 in val2017" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", ZIP]
    with zipfile.ZipFile(tmp_path / ZIP) as archive:
        stem = ZIP[:-4]
        assert archive.namelist() == [f"{stem}.json", *(f"{stem}/{i:012d}.png" for i in range(4))]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        content = json.loads(archive.read(f"{stem}.json"))
    assert [(a["image_id"], a["file_name"]) for a in content["annotations"]] == [(i, f"{i:012d}.png") for i in range(4)]
    assert cli.main(check_words("coco_panoptic", tmp_path / ZIP, "--input", tmp_path / "in")) == 0
    assert capsys.readouterr().out == f"{tmp_path / ZIP}: 4 images, nothing wrong as coco_panoptic\n"
    # One image more than it holds.
    write_images(tmp_path / "in", COCO, ["000000000009.png"])
    assert cli.main(check_words("coco_panoptic", tmp_path / ZIP, "--input", tmp_path / "in")) == 2
    err = capsys.readouterr().err
    line = "000000000009: no annotation of image 9 in panoptic_val2017_double_results.json; expected one [missing]"
    assert line in err.splitlines() and err.endswith(f"error: {tmp_path / ZIP}: 1 fault, the first: {line}\n")


@pytest.mark.parametrize("form", ["mapillary_semantic", "mapillary_instance", "mapillary_panoptic"])
def test_the_zips_of_vistas(tmp_path, double, form):
    write_images(tmp_path / "in", VISTAS, ["-A_1.jpg", "b.c.jpg"])
    assert submit(tmp_path, form=form, name="v.zip", model="runs/vistas") == 0
    expected = expected_images(FORMATS[form], tmp_path / "in", None)
    assert check_submission(tmp_path / "v.zip", FORMATS[form], expected).findings == ()
    with zipfile.ZipFile(tmp_path / "v.zip") as archive:
        names = [name for name in archive.namelist() if "/" not in name]
        assert (
            names
            == {
                "mapillary_semantic": ["-A_1.png", "b.c.png"],
                "mapillary_instance": ["-A_1.txt", "b.c.txt"],
                "mapillary_panoptic": ["v.json"],
            }[form]
        )
        if form == "mapillary_semantic":
            panoptic = drawn_map(VISTAS, 1, (30, 40))
            labels = np.array([c.original_id for c in VISTAS.classes], np.uint8)
            with archive.open("b.c.png") as file, Image.open(file) as image:
                shown = np.array(image)
            kept = panoptic != VISTAS.void_id
            np.testing.assert_array_equal(shown[kept], labels[panoptic[kept] // VISTAS.label_divisor])


def test_a_list_of_images_chooses(tmp_path, double):
    coco_images(tmp_path)
    rows = [{"id": i, "file_name": f"{i:012d}.png", "height": 30, "width": 40} for i in (3, 1)]
    (tmp_path / "info.json").write_text(json.dumps({"images": rows}))
    assert submit(tmp_path, f"--image_info={tmp_path / 'info.json'}") == 0
    assert double.seen == [1, 3]
    assert cli.main(check_words("coco_panoptic", tmp_path / ZIP, "--image_info", tmp_path / "info.json")) == 0


def test_ensembles_and_views_are_asked_for(tmp_path, double):
    coco_images(tmp_path, 1)
    words = ["--flip", "--scales", "0.5", "1", "--tile_size", "33", "65", "--params_override=a.b=1"]
    assert submit(tmp_path, "--model=runs/b", *words) == 0
    views = "inference.flip_left_right=true,inference.scales=[0.5, 1.0],inference.tile_size=[33, 65]"
    assert double.asked == [(["runs/coco", "runs/b"], "panoptic", f"a.b=1,{views}")]


def test_a_submission_at_fault_is_not_written(tmp_path, double, monkeypatch, capsys):
    coco_images(tmp_path)
    (tmp_path / ZIP).write_bytes(b"an earlier one")
    save = Image.Image.save

    def cut_off(image, path, **options):
        save(image, path, **options)
        if path.name.startswith(".000000000002.png"):
            path.write_bytes(path.read_bytes()[:-20])

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", cut_off)
        assert submit(tmp_path) == 2
    err = capsys.readouterr().err
    assert f"error: {tmp_path / ZIP}: not written: 1 fault, the first: {ZIP[:-4]}/000000000002.png: is " in err
    assert (tmp_path / ZIP).read_bytes() == b"an earlier one"
    # What was at fault is done again, and nothing else.
    double.seen.clear()
    assert submit(tmp_path) == 0
    assert double.seen == [2]
    assert check_submission(tmp_path / ZIP, FORMATS["coco_panoptic"]).findings == ()


@pytest.mark.parametrize("form", ["coco_panoptic", "mapillary_semantic", "mapillary_instance"])
def test_interrupted_and_resumed_the_zip_is_the_same(tmp_path, double, monkeypatch, capsys, form):
    is_coco = form == "coco_panoptic"
    write_images(tmp_path / "in", COCO if is_coco else VISTAS, [f"{i:012d}.png" for i in range(4)])
    words = {"form": form, "name": ZIP if is_coco else "v.zip", "model": "runs/coco" if is_coco else "runs/vistas"}
    output = tmp_path / words["name"]
    assert submit(tmp_path, **words) == 0
    expected = output.read_bytes()
    output.unlink()
    double.seen.clear()
    for number in (0, 1, 3):
        with monkeypatch.context() as patch:
            patch.setattr(double, "stop_at", number)
            assert submit(tmp_path, **words) == 130
        assert not output.exists()
    assert "the same command goes on from here" in capsys.readouterr().err
    # An image whose file has gone is done again; a temporary file of a killed process does not stay.
    files = tmp_path / f"{output.name}.unfinished" / "files"
    next(path for path in files.rglob("000000000001.*") if path.is_file()).unlink()
    (files / ".000000000002.png.x.tmp").write_bytes(b"half")
    assert submit(tmp_path, **words) == 0
    assert double.seen == [0, 1, 2, 1, 3]
    assert output.read_bytes() == expected
    assert not files.parent.exists()


def test_another_command_begins_anew(tmp_path, double, monkeypatch):
    coco_images(tmp_path)
    for words, seen in ((["--flip"], [0, 1, 2, 3]), ([], [2, 3])):
        with monkeypatch.context() as patch:
            patch.setattr(double, "stop_at", 2)
            assert submit(tmp_path) == 130
        double.seen.clear()
        assert submit(tmp_path, *words) == 0
        assert double.seen == seen


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, double, capsys):
    coco_images(tmp_path)
    folder = tmp_path / f"{ZIP}.unfinished"
    folder.mkdir()
    (folder / "thesis.tex").write_text("")
    assert submit(tmp_path) == 2
    assert f"{folder}: holds 'thesis.tex', which is not this command's" in capsys.readouterr().err
    assert (folder / "thesis.tex").exists()


def test_what_is_refused(tmp_path, double, capsys):
    def error(words):
        assert cli.main(words) == 2
        return capsys.readouterr().err.removeprefix("error: ").rstrip("\n")

    coco_images(tmp_path, 1)
    words = ["submit", "--format=coco_panoptic"]
    assert error(words) == "--model: missing; expected --model, --input and --output, or --check"
    assert error([*words, "--check=x", "--flip"]) == (
        "--flip: has no meaning with --check, which runs no model and writes nothing"
    )
    assert (
        error([*words, "--check=x"])
        == "x: no such file or folder; expected a submission's zip, or a folder of its files"
    )
    full = [*words, "--model=runs/coco", f"--input={tmp_path / 'in'}"]
    assert error([*full, "--output=x.zip"]).startswith("x.zip: expected a name such as panoptic_test-dev2017_NAME_")
    full[2] = "--model=runs/vistas"
    assert error([*full, f"--output={tmp_path / ZIP}"]) == (
        "--model: runs/vistas: its label space 'mapillary_vistas' lacks 65 ('bed') and 73 more; coco_panoptic needs "
        "the 133 classes of 'coco' by their original_id"
    )
    assert not (tmp_path / ZIP).exists()
