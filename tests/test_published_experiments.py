"""The packaged experiments against the rows of the paper that they reproduce, and the README's list of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from deeplab2_lite.checkpoints import named_weights
from deeplab2_lite.complexity.tables import TABLES, PaperRow
from deeplab2_lite.config import ExperimentConfig, LossConfig, PostprocessingConfig, TargetConfig
from deeplab2_lite.config_loading import load_config, packaged_experiments, resolve_dataset_info
from deeplab2_lite.config_validation import validate
from deeplab2_lite.model import build_model

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {name: load_config(name) for name in packaged_experiments()}
PUBLISHED = {name: config for name, config in CONFIGS.items() if config.published is not None}
SEGMENTATION = sorted(name for name, config in CONFIGS.items() if config.model.tasks != "classification")
FINE_TUNED = "cityscapes/xception71_mapillary_vistas"

# Paper section 4. Classes and stuff limit are the data set's; scales and warm-up are public code's.
STEPS = {"cityscapes": 60_000, "mapillary_vistas": 150_000, "coco": 200_000}
BATCH_SIZE = {"cityscapes": 32, "mapillary_vistas": 64, "coco": 64}
STUFF_AREA_LIMIT = {"cityscapes": 2048, "mapillary_vistas": 4096, "coco": 4096}
CLASSES = {"cityscapes": 19, "mapillary_vistas": 65, "coco": 133}
MAX_SCALE = {"cityscapes": 2.0, "mapillary_vistas": 2.0, "coco": 1.5}
# Height and width of the crop, and the longest side.
SIZES = {
    "cityscapes": ((1025, 2049), None),
    "mapillary_vistas": ((1025, 1025), 2177),
    "coco": ((1025, 1025), 1025),
    "small_coco": ((641, 641), 641),
    "small_cityscapes": ((513, 1025), None),
}
# Table 1, above its large crop.
SMALL_CROP = {f"cityscapes/xception71_{row}" for row in ("sgd", "adam", "mse", "dual_decoder", "dual_aspp")}
CROSS_ENTROPY = {"cityscapes/xception71_sgd", "cityscapes/xception71_adam"}


def rows_of(name: str) -> list[PaperRow]:
    return [row for table in TABLES for row in table if row.experiment == name]


def the_one(values: set[float]) -> float | None:
    assert len(values) <= 1
    return next(iter(values), None)


def sizes_of(name: str) -> tuple[tuple[int, int], int | None]:
    if name in SMALL_CROP:
        return SIZES["small_cityscapes"]
    data_set = name.split("/")[0]
    return SIZES["small_coco" if data_set == "coco" and name != "coco/xception71" else data_set]


# ---- Which there are


def test_every_row_has_an_experiment_and_every_experiment_a_row():
    rows = {row.experiment for table in TABLES for row in table}
    assert set(PUBLISHED) == rows | {FINE_TUNED}
    assert len(PUBLISHED) == 29
    for folder in STEPS:
        assert {name for name in CONFIGS if name.startswith(f"{folder}/")} <= set(PUBLISHED)


def test_no_two_are_the_same_but_for_what_they_start_from():
    def what_is_run(name: str) -> ExperimentConfig:
        return dataclasses.replace(CONFIGS[name], name="", description="", published=None)

    different = sorted(set(CONFIGS) - {FINE_TUNED})
    for i, name in enumerate(different):
        assert [other for other in different[i + 1 :] if what_is_run(other) == what_is_run(name)] == []
    assert what_is_run(FINE_TUNED) == what_is_run("cityscapes/xception71")


# ---- What they say


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_training_is_the_papers(name):
    config, data_set = PUBLISHED[name], name.split("/")[0]
    info, optimizer = resolve_dataset_info(config), config.train.optimizer
    assert (config.data.crop_size, config.data.longest_side) == sizes_of(name)
    assert (config.train.steps, config.train.batch_size) == (STEPS[data_set], BATCH_SIZE[data_set])
    assert (info.name, info.num_classes, info.stuff_area_limit) == (
        data_set,
        CLASSES[data_set],
        STUFF_AREA_LIMIT[data_set],
    )
    augmentation = config.data.augmentation
    assert (augmentation.min_scale, augmentation.max_scale) == (0.5, MAX_SCALE[data_set])
    assert (augmentation.scale_step, augmentation.flip_left_right) == (0.1, True)
    assert not (augmentation.flip_up_down or augmentation.rotate_90)
    hrnet = config.model.backbone.name.startswith("hrnet")
    assert optimizer.learning_rate == (7.5e-4 if hrnet else 1e-3)
    assert optimizer.name == ("sgd" if name == "cityscapes/xception71_sgd" else "adam")
    assert (optimizer.power, optimizer.end_learning_rate, optimizer.options) == (0.9, 0.0, {})
    assert config.losses == LossConfig(
        semantic_weight=1.0,
        hardest_fraction=0.2,
        center="sigmoid_cross_entropy" if name in CROSS_ENTROPY else "mse",
        center_weight=200.0,
        offset_weight=0.25,
    )
    assert config.targets == TargetConfig(center_sigma=8.0, small_instance_area=64 * 64, small_instance_weight=3.0)
    assert (config.train.init_checkpoint, config.train.init_fresh_logits) == (None, False)


def test_warm_up_is_that_of_public_code():
    warm_up = {name: config.train.optimizer.warmup_steps for name, config in PUBLISHED.items()}
    coco = {name: 2000 for name in PUBLISHED if name.startswith("coco/")}
    assert {k: v for k, v in warm_up.items() if v} == {"cityscapes/mobilenet_v3_large": 500, **coco}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_post_processing_is_the_papers(name):
    expected = PostprocessingConfig(center_threshold=0.1, nms_kernel=7, top_k=200, stuff_area_limit=None)
    assert PUBLISHED[name].postprocessing == expected


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_network_is_the_rows_with_its_pooling_window(name):
    for row in rows_of("cityscapes/xception71" if name == FINE_TUNED else name):
        assert PUBLISHED[name].model == row.model


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {FINE_TUNED}))
def test_published_figures_are_the_rows(name):
    published, rows = PUBLISHED[name].published, rows_of(name)
    # Table 5 is of multi-scale and flipped inputs; where there is another row, that one is shown.
    single = [row for row in rows if row.table != 5]
    assert ("multi-scale" in published.source) == (not single)
    rows = single or rows
    expected = {
        key: the_one({getattr(row, key) for row in rows} - {None}) for key in ("pq", "ap", "miou", "milliseconds")
    }
    if name == "mapillary_vistas/xception71":
        # Table 4, single scale.
        expected |= {"ap": 14.9, "miou": 55.4}
    assert {key: getattr(published, key) for key in expected} == expected
    timed = published.milliseconds is not None
    assert published.device == ("Tesla V100" if timed else "")
    assert published.input_size == (rows[0].input_size if timed else None)
    tables = {int(number) for number in re.findall(r"\d+", published.source)}
    assert tables & {row.table for row in rows}


def test_published_figures_of_table_2():
    published = PUBLISHED[FINE_TUNED].published
    assert (published.pq, published.ap, published.miou) == (65.3, 38.8, 82.5)


# ---- That they run


@pytest.mark.parametrize("name", SEGMENTATION)
def test_sizes_obey_the_stride(name):
    config = CONFIGS[name]
    validate(config)
    stride = config.model.backbone.output_stride
    assert [(size - 1) % stride for size in config.data.crop_size] == [0, 0]
    if config.data.longest_side is not None:
        assert (config.data.longest_side - 1) % stride == 0


QUICK = {
    "cityscapes/mobilenet_v3_large",
    "cityscapes/xception71_sgd",
    "cityscapes/xception71_semantic",
    "mapillary_vistas/xception65",
    "coco/resnet50_beta",
}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SEGMENTATION], ids=SEGMENTATION
)
def test_builds_with_heads_at_stride_4_of_the_crop(name):
    config = CONFIGS[name]
    num_classes = CLASSES.get(name.split("/")[0], 3)
    model = build_model(config, None if name in PUBLISHED else num_classes, config.data.crop_size)
    height, width = (-(-size // 4) for size in config.data.crop_size)
    expected = {"semantic_logits": (None, height, width, num_classes)}
    if config.model.tasks == "panoptic":
        expected["center_heatmap"] = (None, height, width, 1)
        expected["center_offset"] = (None, height, width, 2)
    assert {key: tuple(shape) for key, shape in model.output_shape.items()} == expected


@pytest.mark.slow
def test_fine_tuning_takes_all_but_the_logits():
    source, target = (
        {key: value.shape for key, value in named_weights(build_model(CONFIGS[name])).items()}
        for name in ("mapillary_vistas/xception71", FINE_TUNED)
    )
    assert source.keys() == target.keys()
    differing = {key for key in source if source[key] != target[key]}
    assert {source[key][-1] for key in differing} == {65}
    assert {target[key][-1] for key in differing} == {19}
    assert len(differing) == 2


# ---- README


def test_readme_lists_every_published_experiment_once():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[(\S+)\]\((configs/\S+\.yaml)\)(?:\s*\|([^|\n]*)\|([^|\n]*)\|)?", text)
    listed = [name for name, _, row, _ in linked if row]
    assert sorted(listed) == sorted(PUBLISHED)
    for name, path, row, quality in linked:
        assert path == f"configs/{name}.yaml"
        assert (ROOT / path).is_file()
        if row:
            published = PUBLISHED[name].published
            figure = f"{published.pq:.1f}" if published.pq is not None else f"mIoU {published.miou:.1f}"
            assert quality.strip() == figure
            table = re.match(r"\s*Table (\d+)", row).group(1)
            assert re.search(rf"\b{table}\b", published.source)
