"""The migration pages: settings that exist, files that say what theirs say, commands that are understood."""

from __future__ import annotations

import dataclasses
import re
import typing

import pytest

from deeplab2_lite import cli
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.dataset_info import deeplab2_presets, load_dataset_info

from .pages import DOCS, blocks, commands, rows

PAGES = ("migration/deeplab2.md", "migration/model-garden.md", "migration/detectron2.md")


def settings(kind=ExperimentConfig, prefix="") -> set[str]:
    """All settings by their dotted names."""
    names = set()
    for name, hint in typing.get_type_hints(kind).items():
        names.add(prefix + name)
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                names |= settings(part, f"{prefix}{name}.")
    return names


SECTIONS = {field.name for field in dataclasses.fields(ExperimentConfig)} - {"name", "description"}


def named_settings(page: str) -> set[str]:
    """Settings of ours in a page's tables; `.b` after `a.x` stands for `a.b`."""
    found = set()
    for row in rows(page):
        prefix = ""
        for code in re.findall(r"`([^`]+)`", row[1] if len(row) > 1 else ""):
            name = re.split(r"[:=,{ ]", code)[0]
            if name.split(".")[0] in SECTIONS and "." in name:
                prefix = name.rpartition(".")[0]
            elif name.startswith(".") and prefix:
                name = prefix + name
            else:
                continue
            if not name.endswith(("*", "…")):
                found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_settings_in_the_tables_exist(page):
    named = named_settings(page)
    assert len(named) > 25
    assert named - settings() == set()


def loaded(page: str, experiment: str, tmp_path) -> ExperimentConfig:
    (text,) = blocks(page, "yaml")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    return load_config([experiment, tmp_path / "mine.yaml"])


def test_deeplab2s_textproto_and_the_file_beside_it(tmp_path):
    config = loaded(PAGES[0], "cityscapes/resnet50_beta", tmp_path)
    (proto,) = blocks(PAGES[0], "proto")
    said = re.findall(r"(\w+): \"?([\w./*]+)\"?", proto)
    values = {name: [value for other, value in said if other == name] for name, _ in said}
    assert values["name"] == ["resnet50_beta"]
    assert config.model.backbone.name == "resnet50_beta_deeplab2"
    assert int(values["output_stride"][0]) == config.model.backbone.output_stride
    assert [int(rate) for rate in values["atrous_rates"]] == [3, 6, 9]
    assert config.model.aspp.atrous_rates is None  # which is that at stride 32: the table says so
    assert int(values["output_channels"][0]) == resolve_dataset_info(config).num_classes
    losses = config.losses
    assert float(values["top_k_percent"][0]) == losses.hardest_fraction
    assert [float(weight) for weight in values["weight"]] == [losses.center_weight, losses.offset_weight]
    assert float(values["base_learning_rate"][0]) == config.train.optimizer.learning_rate
    assert int(values["training_number_of_steps"][0]) == config.train.steps
    assert int(values["batch_size"][0]) == config.train.batch_size
    assert tuple(int(side) for side in values["crop_size"]) == config.data.crop_size
    augmentation = config.data.augmentation
    assert float(values["min_scale_factor"][0]) == augmentation.min_scale
    assert float(values["max_scale_factor"][0]) == augmentation.max_scale
    assert float(values["scale_factor_step_size"][0]) == augmentation.scale_step
    assert config.targets.small_instance_weight == 3.0
    assert int(values["nms_kernel"][0]) == config.postprocessing.nms_kernel
    assert int(values["stuff_area_limit"][0]) == config.postprocessing.stuff_area_limit


def test_detectron2s_file_and_the_one_beside_it(tmp_path):
    config = loaded(PAGES[2], "coco/resnet50_beta", tmp_path)
    theirs = blocks(PAGES[2], "text")[0]
    value = lambda name: re.search(rf"\b{name}: ([\d.]+)", theirs)[1]  # noqa: E731
    assert config.model.backbone.name == "resnet50_beta"
    assert config.model.backbone.multi_grid == (1, 2, 4)
    assert int(value("NUM_CLASSES")) == resolve_dataset_info(config).num_classes
    assert float(value("LOSS_TOP_K")) == config.losses.hardest_fraction
    assert float(value("BASE_LR")) == config.train.optimizer.learning_rate
    assert int(value("MAX_ITER")) == config.train.steps
    assert int(value("IMS_PER_BATCH")) == config.train.batch_size
    assert int(value("STUFF_AREA")) == config.postprocessing.stuff_area_limit
    assert int(value("NMS_KERNEL")) == config.postprocessing.nms_kernel
    assert int(value("GAUSSIAN_SIGMA")) == config.targets.center_sigma
    assert (int(value("MAX_SIZE_TRAIN")) + 1,) * 2 == config.data.crop_size
    assert config.losses.offset_weight == 2 * 0.01


def test_the_model_gardens_experiment(tmp_path):
    config = loaded(PAGES[1], "coco/resnet50_beta", tmp_path)
    assert (config.train.steps, config.train.batch_size, config.train.precision) == (200_000, 64, "bfloat16")
    assert config.train.optimizer.warmup_steps == 2000
    assert config.data.augmentation.photometric.policy == "panoptic_deeplab"
    assert config.losses.center_weight == 200.0
    assert config.model.aspp.separable


def test_label_encodings_of_deeplab2_are_as_the_table_says():
    table = {row[0]: row[1:] for row in rows(PAGES[0]) if len(row) == 3}
    info = load_dataset_info("deeplab2_coco")
    assert table["divisor; void; first class (COCO)"] == ["256; 0; 1", f"{info.label_divisor}; {info.ignore_label}; 0"]
    stored = info.stored
    assert (stored.label_divisor, stored.ignore_label, stored.class_ids[0]) == (256, 0, 1)
    info = load_dataset_info("deeplab2_cityscapes")
    assert table["divisor; void (Cityscapes)"][0] == f"{info.label_divisor}; {info.ignore_label}"
    text = (DOCS / PAGES[0]).read_text(encoding="utf-8")
    assert [name for name in deeplab2_presets() if f"`{name}`" not in text and f"={name}`" not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page, monkeypatch):
    """Each command's words are accepted, and lead to the subcommand they name."""
    understood = []
    monkeypatch.setattr(cli, "run_command", lambda run, arguments: understood.append(arguments.command) or 0)
    for words in commands(page):
        assert cli.main(words) == 0
    assert understood == [words[0] for words in commands(page)]


def test_every_migration_page_is_tested():
    assert sorted(PAGES) == sorted(f"migration/{path.name}" for path in (DOCS / "migration").iterdir())
