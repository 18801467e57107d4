"""Reports: what is written is what was measured, strictly readable."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.evaluation import InstanceAP, MeanIoU, PanopticQuality
from deeplab2_lite.evaluation.report import EvaluationReport, format_table, scalars, write_csv, write_json

INFO = DatasetInfo(
    "street",
    (
        ClassInfo("road", False, (1, 1, 1), 0),
        ClassInfo("car", True, (2, 2, 2), 1),
        ClassInfo("bus, long", True, (3, 3, 3), 2),
    ),
)


def measured() -> EvaluationReport:
    truth = np.zeros((20, 40), np.int32)
    truth[:, :10], truth[:, 10:20] = 1001, 1002
    prediction = truth.copy()
    prediction[:, 10:20] = 0
    panoptic, semantic, instance = PanopticQuality(INFO), MeanIoU(INFO), InstanceAP(INFO)
    panoptic.update(truth, prediction)
    semantic.update(truth // 1000, prediction // 1000)
    instance.update(truth, (prediction == 1001).astype(np.int32), [1], [0.9])
    results = (panoptic.result(), semantic.result(), instance.result())
    return EvaluationReport(INFO, 1200, 1, *results, extra={"loss/total": 1.25})


def not_a_number(value: str) -> None:
    raise AssertionError(f"{value} is no JSON")


def test_json_is_flat_and_strict(tmp_path):
    text = write_json(measured(), tmp_path / "metrics.json").read_text()
    content = json.loads(text, parse_constant=not_a_number)
    assert all(value is None or isinstance(value, int | float | str) for value in content.values())
    assert content["dataset"] == "street" and content["step"] == 1200 and content["num_images"] == 1
    # road: IoU 400/600; car: one of two found.
    assert content["class/road/PQ"] == pytest.approx(2 / 3)
    assert content["class/car/PQ"] == pytest.approx(1 / 1.5)
    assert (content["class/car/TP"], content["class/car/FP"], content["class/car/FN"]) == (1, 0, 1)
    assert content["panoptic_quality/All/PQ"] == pytest.approx(2 / 3)
    assert content["detection/AP50"] == 0.5
    assert content["semantic/mIoU"] == pytest.approx((400 / 600 + 200 / 400) / 2)
    assert content["class/bus, long/PQ"] is None and content["class/bus, long/IoU"] is None
    assert content["instance/AP_large"] is None
    assert content["loss/total"] == 1.25
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_classes_of_one_name_keep_their_own_figures(tmp_path):
    info = DatasetInfo("twins", (INFO.classes[0], INFO.classes[0]))
    metric = MeanIoU(info)
    metric.update(np.array([[0, 0, 1]]), np.array([[0, 1, 1]]))
    report = EvaluationReport(info, 0, 1, semantic=metric.result())
    content = json.loads(write_json(report, tmp_path / "metrics.json").read_text())
    assert content["class/road#0/IoU"] == content["class/road#1/IoU"] == 0.5


def test_csv_has_a_row_for_each_class(tmp_path):
    with write_csv(measured(), tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["road", "car", "bus, long"]
    assert list(rows[0]) == ["id", "name", "isthing", "PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU", "AP", "AP50"]
    assert float(rows[1]["IoU"]) == 0.5 and rows[1]["FN"] == "1" and rows[1]["isthing"] == "True"
    assert float(rows[1]["AP50"]) == pytest.approx(51 / 101)
    assert rows[2]["PQ"] == "" and rows[0]["AP"] == ""


def test_table_shows_percent_with_one_decimal():
    lines = format_table(measured()).splitlines()
    cells = [line.split() for line in lines]
    assert lines[0] == "street: 1 image, step 1200"
    assert ["", "PQ", "SQ", "RQ", "classes"][1:] in cells
    assert ["All", "66.7", "83.3", "73.3", "2"] not in cells
    assert ["All", "66.7", "83.3", "83.3", "2"] in cells
    assert ["Things", "66.7", "100.0", "66.7", "1"] in cells
    assert ["Stuff", "66.7", "66.7", "100.0", "1"] in cells
    assert ["car", "66.7", "100.0", "66.7", "1", "0", "1", "50.0", "50.5", "50.5"] in cells
    assert ["bus,", "long", "-", "-", "-", "0", "0", "0", "-", "-", "-"] in cells
    assert any("mIoU 58.3" in line and "detection AP50 50.0" in line for line in lines)
    assert any(line == "loss/total 1.25" for line in lines)
    # Columns are aligned: the rows of each table are equally long.
    table = lines[lines.index(next(line for line in lines if line.startswith("class"))) :]
    assert len({len(line) for line in table}) == 1


def test_scalars_leave_out_what_does_not_exist():
    values = scalars(measured())
    assert values["panoptic_quality/Things/RQ"] == pytest.approx(2 / 3)
    assert values["instance/AP50"] == pytest.approx(51 / 101)
    assert "instance/AP_large" not in values
    assert all(isinstance(value, float) and np.isfinite(value) for value in values.values())


def test_report_of_one_metric_alone(tmp_path):
    metric = MeanIoU(INFO)
    metric.update(np.array([[0, 1]]), np.array([[0, 1]]))
    report = EvaluationReport(INFO, 5, 3, semantic=metric.result())
    assert set(scalars(report)) == {"semantic/mIoU", "semantic/pixel_accuracy"}
    text = format_table(report)
    assert "3 images" in text and "PQ" not in text and "mIoU 100.0" in text
    header = write_csv(report, tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert header == "id,name,isthing,IoU"
    assert "step 5" in format_table(EvaluationReport(INFO, 5, 3))
