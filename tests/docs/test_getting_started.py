"""docs/getting-started.md: its commands are understood, and the whole of it can be followed."""

from __future__ import annotations

import pytest

from deeplab2_lite import cli
from deeplab2_lite.config_loading import load_config

from .pages import blocks, commands

PAGE = "getting-started.md"
# The page's own training, made short; all else is done as it stands there.
SHORT = (
    ",train.steps=4,train.steps_per_loop=2,data.shapes.train_images=4,data.shapes.val_images=2,train.batch_size=2,"
    "train.optimizer.warmup_steps=0,evaluation.pictures=2"
)
COMMANDS = {words[0]: words for words in commands(PAGE)}


def test_commands_are_understood(monkeypatch):
    understood = []
    monkeypatch.setattr(cli, "run_command", lambda run, arguments: understood.append(arguments.command) or 0)
    asked = [words for words in commands(PAGE) if not words[0].startswith("--")]
    for words in asked:
        assert cli.main(words) == 0
    assert understood == ["train", "predict", "demo", "evaluate"]


def test_the_error_that_is_shown_is_what_is_said(capsys):
    assert cli.main(["train", "--params_override=train.stepz=1"]) == 2
    shown = [block for block in blocks(PAGE, "text") if block.startswith("error:")]
    assert capsys.readouterr().err == shown[0]


def test_settings_of_the_training_command():
    overrides = next(word for word in COMMANDS["train"] if word.startswith("--params_override=")).partition("=")[2]
    config = load_config("shapes/mobilenet_v3_small", overrides)
    assert (config.train.steps, config.data.shapes.train_images, config.data.shapes.val_images) == (500, 128, 16)


@pytest.mark.slow
def test_it_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([word + SHORT if word.startswith("--params") else word for word in COMMANDS["train"]]) == 0
    for name in ("learning_curve.png", "config.yaml", "checkpoints", "pictures", "export/saved_model"):
        assert (tmp_path / "runs" / "first" / name).exists()
    draw, by_predictor, by_saved_model = blocks(PAGE, "python")
    exec(compile(draw, PAGE, "exec"), {})
    capsys.readouterr()
    assert cli.main(COMMANDS["predict"]) == 0
    assert capsys.readouterr().out.strip() in "\n".join(blocks(PAGE, "text"))
    assert (tmp_path / "predictions" / "layers" / "sheet" / "street.png").is_file()
    first: dict = {}
    exec(compile(by_predictor, PAGE, "exec"), first)
    second: dict = {}
    exec(compile(by_saved_model, PAGE, "exec"), second)
    assert second["panoptic"].shape == (1, 129, 257)
    assert (first["result"].panoptic == second["panoptic"].numpy()[0]).all()
    assert cli.main(COMMANDS["evaluate"]) == 0
    assert (tmp_path / "runs" / "first" / "evaluation" / "report.html").is_file()
