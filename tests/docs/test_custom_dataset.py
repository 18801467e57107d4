"""docs/custom-dataset.md, followed word by word on beads that are drawn here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from deeplab2_lite import cli
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.dataset_info import load_dataset_info

from . import beads
from .pages import blocks, commands

PAGE = "custom-dataset.md"
COUNTS = {"train": 9, "val": 3}
COMMANDS = {words[1] if words[0] == "convert" else words[0]: words for words in commands(PAGE)}
# What makes training end soon; the page's own words are left as they are.
SHORT = (
    "model.backbone.name=mobilenet_v3_small,model.semantic.aspp_channels=16,model.instance.aspp_channels=16,"
    "train.batch_size=2,train.steps_per_loop=2,train.optimizer.warmup_steps=1,evaluation.pictures=2"
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with the page's data in all layouts, and its files."""
    folder = tmp_path_factory.mktemp("desk")
    for write in (beads.write_masks, beads.write_labelme, beads.write_coco):
        write(folder, COUNTS)
    label_space, experiment = blocks(PAGE, "yaml")
    (folder / "beads.yaml").write_text(label_space, encoding="utf-8")
    (folder / "beads_experiment.yaml").write_text(experiment, encoding="utf-8")
    return folder


@pytest.fixture()
def here(desk, tmp_path, monkeypatch) -> Path:
    """The current folder: the desk's files, and nothing written yet."""
    for item in desk.iterdir():
        (tmp_path / item.name).symlink_to(item)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("layout", ["instance_masks", "labelme", "coco_instances"])
def test_every_layout_becomes_the_same_kind_of_records(layout, here, capsys):
    assert cli.main([*COMMANDS[layout], "--num_processes=1"]) == 0
    info = load_dataset_info(here / "records")
    assert info.name == "beads"
    assert [(c.name, c.isthing) for c in info.classes if c.isthing] == [("bead", True)]
    assert len(info.classes) == 2
    capsys.readouterr()
    sheets = layout == "instance_masks"
    assert cli.main([*COMMANDS["inspect"], "--num_threads=1", *([] if sheets else ["--samples=0"])]) == 0
    text = capsys.readouterr().out
    assert text.startswith("beads: 2 classes (1 thing, 1 stuff), label_divisor 1000, ignore_label 255")
    counted = json.loads((here / "inspection" / "records" / "inspection.json").read_text(encoding="utf-8"))
    drawn = {split: sum(len(scene[4]) for scene in beads.scenes({split: n})) for split, n in COUNTS.items()}
    found = {
        split: next(c["segments"] for c in of["classes"] if c["name"] == "bead")
        for split, of in counted["splits"].items()
    }
    if layout == "labelme":  # which draws its own split
        assert sum(found.values()) == sum(drawn.values())
    else:
        assert found == drawn
    assert counted["errors"] == 0
    assert (here / "inspection" / "records" / "contact_sheet_train.png").is_file() == sheets


def test_a_label_space_of_ones_own_goes_over_the_one_made(here):
    assert cli.main([*COMMANDS["instance_masks"], "--num_processes=1"]) == 0
    made = yaml.safe_load((here / "records" / "dataset_info.yaml").read_text(encoding="utf-8"))
    mine = yaml.safe_load((here / "beads.yaml").read_text(encoding="utf-8"))
    assert set(made) - set(mine) == {"splits"}
    (here / "records" / "dataset_info.yaml").write_text(yaml.safe_dump({**mine, "splits": made["splits"]}))
    info = load_dataset_info(here / "records")
    assert [c.name for c in info.classes] == ["table", "bead"]
    assert info.stuff_area_limit == 64


@pytest.mark.parametrize("layout", ["labelme", "coco_instances"])
def test_a_label_space_written_before_decides_the_order(layout, here):
    words = [word for word in COMMANDS[layout] if word not in ("--background", "table", "--name", "beads")]
    assert cli.main([*words, "--dataset_info", "beads.yaml", "--background", "table", "--num_processes=1"]) == 0
    assert [c.name for c in load_dataset_info(here / "records").classes] == ["table", "bead"]


def test_the_experiment_is_valid_over_the_one_it_names(here):
    config = load_config(["nuclei/mobilenet_v3_large", here / "beads_experiment.yaml"])
    assert config.data.dir == "records"
    assert config.data.crop_size == (129, 129)
    assert config.model.decoder.skip_strides == (8, 4, 2)
    assert config.data.intensity_percentiles is None
    assert config.train.best_metric == "PQ"


@pytest.mark.slow
def test_train_evaluate_predict(here):
    assert cli.main([*COMMANDS["instance_masks"], "--num_processes=1"]) == 0
    train = [
        word if not word.startswith("--budget") else f"--params_override={SHORT},train.steps=6"
        for word in COMMANDS["train"]
    ]
    assert cli.main(train) == 0
    for name in ("learning_curve.png", "metrics.json", "export/saved_model/saved_model.pb"):
        assert (here / "runs" / "beads" / name).is_file()
    assert cli.main(COMMANDS["evaluate"]) == 0
    report = (here / "runs" / "beads" / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "0101" in report
    assert cli.main(COMMANDS["predict"]) == 0
    listed = json.loads((here / "predictions" / "panoptic.json").read_text(encoding="utf-8"))
    assert [item["file_name"] for item in listed["annotations"]] == [f"{101 + i:04d}.png" for i in range(COUNTS["val"])]
    assert (here / "predictions" / "overlay" / "0101.png").is_file()
    (code,) = blocks(PAGE, "python")
    scope: dict = {}
    exec(compile(code, PAGE, "exec"), scope)
    assert scope["found"].dtype == np.bool_
