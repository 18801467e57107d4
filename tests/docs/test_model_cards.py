"""The model cards say what the experiments, label spaces and measurements say."""

from __future__ import annotations

import re

import pytest

from deeplab2_lite.config_loading import load_config, packaged_experiments, resolve_dataset_info
from deeplab2_lite.dataset_info import load_dataset_info

from .pages import DOCS, rows

PUBLISHED = {"cityscapes": "cityscapes", "coco": "coco", "mapillary-vistas": "mapillary_vistas"}


def card(name: str) -> str:
    return (DOCS / "model-cards" / f"{name}.md").read_text(encoding="utf-8")


def published_table(folder: str) -> list[str]:
    """The card's table: what to paste there when an experiment has changed."""
    lines = ["| experiment | crop | batch | steps | learning rate | published | by |", "| - | - | - | - | - | - | - |"]
    for name in packaged_experiments():
        if name.startswith(f"{folder}/"):
            config = load_config(name)
            height, width = config.data.crop_size
            train, published = config.train, config.published
            figure = f"PQ {published.pq}" if published.pq is not None else f"mIoU {published.miou}"
            lines.append(
                f"| `{name}` | {height} x {width} | {train.batch_size} | {train.steps:,} "
                f"| {train.optimizer.learning_rate:g} | {figure} | {published.source} |"
            )
    return lines


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_are_those_of_the_experiments_and_said_to_be_the_papers(name):
    text, folder = card(name), PUBLISHED[name]
    assert "\n".join(published_table(folder)) in text
    assert "No weights are shipped" in text
    assert "not been trained to the end here" in text
    info = load_dataset_info(folder)
    assert f"{info.num_classes} classes, {len(info.thing_ids)} things" in text
    limits = {
        resolve_dataset_info(load_config(n)).stuff_area_limit for n in packaged_experiments() if n.startswith(folder)
    }
    assert f"stuff below {limits.pop():,} pixels is void" in text
    assert not limits


@pytest.mark.parametrize("name", ["shapes", "nuclei"])
def test_settings_and_figures_of_what_was_trained_here(name):
    (experiment,) = [e for e in packaged_experiments() if e.startswith(f"{name}/")]
    config, text = load_config(experiment), card(name)
    assert text.startswith(f"# {experiment}\n")
    height, width = config.data.crop_size
    assert f"{height} x {width}" in text
    assert f"{config.train.steps:,} steps of {config.train.batch_size} " in text
    assert f"{config.train.optimizer.learning_rate:.0e}".replace("e-0", "e-") in text
    post = config.postprocessing
    said = f"`center_threshold` {post.center_threshold}, `nms_kernel` {post.nms_kernel}, `top_k` {post.top_k}"
    assert said in text
    assert f"output stride {config.model.backbone.output_stride}" in text
    measured = (DOCS / "results.md").read_text(encoding="utf-8")
    figures = [cell for row in rows(f"model-cards/{name}.md") for cell in row if re.fullmatch(r"\d+\.\d+", cell)]
    assert len(figures) >= 6
    assert [figure for figure in figures if figure not in measured] == []


def test_every_experiment_that_segments_has_a_card():
    folders = {name.partition("/")[0] for name in packaged_experiments()} - {"imagenet"}
    assert folders == {"shapes", "nuclei", *PUBLISHED.values()}
    pages = {path.stem for path in (DOCS / "model-cards").iterdir()}
    assert pages == {"index", "shapes", "nuclei", *PUBLISHED}
    assert sorted(row[0] for row in rows("model-cards/index.md")[1:]) == sorted(
        f"[{title}]({page}.md)"
        for title, page in {
            "shapes": "shapes",
            "nuclei": "nuclei",
            "Cityscapes": "cityscapes",
            "COCO": "coco",
            "Mapillary Vistas": "mapillary-vistas",
        }.items()
    )
