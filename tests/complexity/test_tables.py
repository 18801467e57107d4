"""The paper's tables: the reconstruction's figures come out, to the last digit that is known."""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Sequence

import pytest

from deeplab2_lite.cli import main
from deeplab2_lite.complexity import networks
from deeplab2_lite.complexity.comparison import Measured, measure, print_tables
from deeplab2_lite.complexity.tables import (
    CITYSCAPES,
    COCO,
    MAPILLARY_VISTAS,
    TABLE_1,
    TABLE_5,
    TABLE_9,
    TABLE_10,
    TABLES,
    PaperRow,
)
from deeplab2_lite.config import ExperimentConfig, ModelConfig, Size
from deeplab2_lite.config_loading import load_config, packaged_experiments
from deeplab2_lite.config_validation import validate

ROWS = [row for table in TABLES for row in table]
TOLERANCE = 1e-4


def row_of(table: Sequence[PaperRow], name: str, data_set: str | None = None) -> PaperRow:
    (row,) = [r for r in table if r.name == name and data_set in (None, r.data_set)]
    return row


# Rows of the same network, size and outputs share what was built.
@functools.cache
def _measured(model: ModelConfig, num_outputs: int, size: Size) -> Measured:
    return measure(dataclasses.replace(TABLE_1[0], model=model, num_outputs=num_outputs, counted_size=size))


def measured(row: PaperRow) -> Measured:
    return _measured(row.model, row.num_outputs or row.num_classes, row.counted_size or row.input_size)


# ---- Counts


@pytest.mark.parametrize(
    ("table", "name", "parameters", "paper", "conv"),
    [
        (TABLE_1, "+ MSE", 41_850_830, 496.841, 490.788),
        (TABLE_1, "+ C_sem = 256 (final)", 46_717_806, 547.486, 546.022803064),
        pytest.param(TABLE_1, "+ dual decoder", 41_925_342, 501.882, 495.816, marks=pytest.mark.slow),
        pytest.param(TABLE_1, "+ large crop", 43_374_814, 517.164, 506.321, marks=pytest.mark.slow),
        (TABLE_1, "+ C_ins = 256", 46_881_758, 573.851, 562.965),
        pytest.param(TABLE_1, "semantic only", 43_601_403, 518.835, 517.612, marks=pytest.mark.slow),
        pytest.param(TABLE_10, "DeepLabV3+ decoder", 46_609_742, 553.401, 551.921, marks=pytest.mark.slow),
        pytest.param(TABLE_5, "Xception-71", 46_729_628, 1264.325, 1215.666, marks=pytest.mark.slow),
        (TABLE_5, "Xception-65", 44_307_204, 1053.994, 1005.849),
        pytest.param(TABLE_5, "Auto-DeepLab-L+", 41_539_220, 1493.808, 1326.293, marks=pytest.mark.slow),
        pytest.param(TABLE_5, "Auto-DeepLab-XL+", 71_980_148, 2378.205, 2154.927, marks=pytest.mark.slow),
        pytest.param(TABLE_5, "Auto-DeepLab-XL++", 72_156_948, 2386.843, 2163.548, marks=pytest.mark.slow),
    ],
)
def test_tables_1_5_and_10(table, name, parameters, paper, conv):
    row = row_of(table, name)
    found = measured(row)
    assert found.parameters == parameters
    # Half of the last digit, and a rounding at its edge.
    assert found.multiply_adds / 1e9 == pytest.approx(paper, abs=6e-4)
    assert found.conv_multiply_adds / 1e9 == pytest.approx(conv, abs=6e-4)
    assert round(parameters / 1e6, 2) == row.parameters
    assert paper == pytest.approx(row.multiply_adds, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "data_set", "parameters", "paper", "conv"),
    [
        ("ResNet-50", CITYSCAPES, 30_039_142, 381.410, 379.066),
        pytest.param("ResNet-50", MAPILLARY_VISTAS, None, 910.552, 859.720, marks=pytest.mark.slow),
        # The upper ends of what is known of this network.
        ("MobileNetV3", CITYSCAPES, 3_641_302, 54.36, 53.73),
        pytest.param("MobileNetV3", MAPILLARY_VISTAS, None, 138.50, 125.55, marks=pytest.mark.slow),
    ],
)
def test_table_9(name, data_set, parameters, paper, conv):
    row = row_of(TABLE_9, name, data_set)
    found = measured(row)
    assert parameters in (None, found.parameters)
    digits = 2 if name == "MobileNetV3" else 3
    assert round(found.multiply_adds / 1e9, digits) == paper
    assert round(found.conv_multiply_adds / 1e9, digits) == conv
    assert found.multiply_adds / 1e9 == pytest.approx(row.multiply_adds, rel=4e-3 if digits == 2 else TOLERANCE)


@pytest.mark.parametrize(
    ("name", "size", "num_outputs", "paper", "conv"),
    [
        pytest.param("ResNet-50", 641, 133, 77.17, 76.18, marks=pytest.mark.slow),
        ("ResNet-50", 641, 201, 77.72, 76.63),
        pytest.param("Xception-71", 1025, 133, 277.75, 276.57, marks=pytest.mark.slow),
        pytest.param("Xception-71", 1025, 201, 279.15, 277.72, marks=pytest.mark.slow),
    ],
)
def test_table_9_on_coco(name, size, num_outputs, paper, conv):
    (row,) = [r for r in TABLE_9 if (r.name, r.data_set, r.input_size[0]) == (name, COCO, size)]
    assert row.num_outputs == 201
    found = measured(dataclasses.replace(row, num_outputs=num_outputs))
    assert round(found.multiply_adds / 1e9, 2) == paper
    assert round(found.conv_multiply_adds / 1e9, 2) == conv


@pytest.mark.slow
@pytest.mark.parametrize(("name", "paper", "conv"), [("HRNet-W48+", 1728, 1722), ("HRNet-W48+ (Atrous)", 2461, 2412)])
def test_hrnet_as_published_is_not_the_papers(name, paper, conv):
    row = row_of(TABLE_5, name)
    found = measured(row)
    assert round(found.parameters / 1e6, 2) == 82.01
    assert (round(found.multiply_adds / 1e9), round(found.conv_multiply_adds / 1e9)) == (paper, conv)
    assert row.notes


def test_scaled_row_of_table_9():
    small, large = (r for r in TABLE_9 if (r.data_set, r.name) == (COCO, "Xception-71"))
    assert round(large.multiply_adds * 641**2 / 1025**2, 2) == small.multiply_adds


# ---- The rows themselves


def test_rows_are_the_papers():
    assert [len(table) for table in TABLES] == [9, 10, 10, 2]
    assert [{row.table for row in table} for table in TABLES] == [{1}, {5}, {9}, {10}]
    assert [row.milliseconds for row in TABLE_9] == [63, 117, 175, 148, 286, 398, 38, 50, 74, 132]
    assert [row.pq for row in TABLE_9] == [55.4, 59.7, 63.0, 28.8, 33.3, 37.7, 30.0, 35.1, 38.9, 39.7]
    assert [row.pq for row in TABLE_1] == [60.3, 61.0, 61.8, 60.8, 62.5, 62.7, 63.0, 62.1, None]
    assert [row.pq for row in TABLE_5] == [39.2, 40.3, 39.3, 40.6, 40.5, 40.0, 39.7, 39.3, 40.3, 40.3]
    # The last three columns of Table 1's final row stand in Table 10 as well.
    final = row_of(TABLE_1, "+ C_sem = 256 (final)")
    again = row_of(TABLE_10, "Panoptic-DeepLab decoder")
    assert dataclasses.replace(again, table=1, name=final.name, milliseconds=None) == final
    assert {(row.model, row.multiply_adds) for row in ROWS if row.multiply_adds == 547.49} == {
        (networks.XCEPTION_71, 547.49)
    }


def test_experiments_name_what_they_are():
    models: dict[str, ModelConfig] = {}
    for row in ROWS:
        validate(ExperimentConfig(model=row.model))
        assert row.experiment.startswith(f"{row.data_set}/{row.backbone}")
        assert row.backbone == row.model.backbone.name
        assert models.setdefault(row.experiment, row.model) == row.model


@pytest.mark.parametrize("name", sorted({row.experiment for row in ROWS} & set(packaged_experiments())))
def test_packaged_experiment_has_the_network_of_its_row(name):
    def comparable(model: ModelConfig) -> ModelConfig:
        # The window, which follows the training crop, and dropout leave weights and wiring alone.
        aspp = dataclasses.replace(model.aspp, pooling_kernel=None, dropout=0.0)
        return dataclasses.replace(model, aspp=aspp)

    for row in ROWS:
        if row.experiment == name:
            assert comparable(load_config(name).model) == comparable(row.model)


# ---- Printing


def test_printed_beside_the_paper(capsys):
    row = row_of(TABLE_9, "MobileNetV3", COCO)
    other = dataclasses.replace(row, data_set=CITYSCAPES, parameters=4.0, multiply_adds=10.0, notes=())
    found = print_tables([[row, other]])
    out = capsys.readouterr().out
    ours = measured(row)
    title, first, second, *notes = [line for line in out.splitlines()[3:] if line]
    assert title.startswith("Table 9 ")
    assert first.startswith("MobileNetV3, COCO [1] [2] ")
    difference = 100 * (ours.multiply_adds / 12.24e9 - 1)
    cells = ["641", "x", "641", "201", "-", "3.69", "-", "12.24", "12.26", f"{difference:+.3f}", "%", "11.86"]
    assert first.split()[4:] == cells
    assert second.split()[2:9] == ["641", "x", "641", "201", "4.00", "3.69", f"{ours.parameters / 4e4 - 100:+.3f}"]
    assert len(title) == len(first) == len(second)
    assert notes == [f"[{i}] {note}" for i, note in enumerate(row.notes, start=1)]
    header, values, _ = found
    assert dict(zip(header, values, strict=True)) == {
        "table": 9,
        "row": "MobileNetV3",
        "data_set": COCO,
        "experiment": "coco/mobilenet_v3_large",
        "height": 641,
        "width": 641,
        "outputs": 201,
        "paper_parameters": None,
        "parameters": ours.parameters,
        "paper_multiply_adds": 12_240_000_000,
        "multiply_adds": ours.multiply_adds,
        "conv_multiply_adds": ours.conv_multiply_adds,
        "note": "; ".join(row.notes),
    }


@pytest.mark.slow
def test_command_prints_every_row(capsys, tmp_path):
    path = tmp_path / "tables.csv"
    assert main(["complexity", "--tables", f"--csv={path}"]) == 0
    out = capsys.readouterr().out
    for row in ROWS:
        assert f"\n{row.name}" in out
    with path.open(encoding="utf-8") as file:
        assert [int(row["table"]) for row in csv.DictReader(file)] == [row.table for row in ROWS]
