"""An evaluation from maps to files: perfect and imperfect networks, pictures, and what stands in metrics.json."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.evaluation import InstanceAP, MeanIoU, PanopticQuality
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction, write_report
from deeplab2_lite.evaluation.report import scalars

INFO = DatasetInfo(
    "street",
    (
        ClassInfo("road", False, (120, 60, 120), 0),
        ClassInfo("car", True, (0, 0, 140), 1),
        ClassInfo("person", True, (220, 20, 60), 2),
    ),
)


def scene(seed, height=40, width=60):
    """An image, and its label of road, cars, a person and void, of any size."""
    random = np.random.default_rng(seed)
    truth = np.zeros((height, width), np.int32)
    truth[5:15, 5:20], truth[20:35, 8:28], truth[10:30, 40:50] = 1001, 1002, 2001
    truth[:3] = INFO.void_id
    return random.integers(0, 256, (height, width, 3), np.uint8), truth


def perfect(truth):
    """What a network that is right would say."""
    things = [i for i in np.unique(truth) if i % 1000 and i != INFO.void_id]
    instance = np.zeros_like(truth)
    for row, panoptic_id in enumerate(things):
        instance[truth == panoptic_id] = row + 1
    # Two rows without a pixel, as tables have.
    class_id = np.array([*(i // 1000 for i in things), -1, -1], np.int32)
    score = np.array([0.9 - 0.1 * row for row in range(len(things))] + [0.0, 0.0], np.float32)
    semantic = np.where(truth == INFO.void_id, 0, truth // 1000).astype(np.int32)
    return ImagePrediction(semantic, truth, instance, class_id, score)


def without_person(prediction):
    """The same but for the person, who is taken for road."""
    gone = prediction.panoptic == 2001
    return ImagePrediction(
        np.where(gone, 0, prediction.semantic),
        np.where(gone, 0, prediction.panoptic),
        np.where(gone, 0, prediction.instance),
        prediction.class_id,
        prediction.score,
    )


def not_a_number(value):
    raise AssertionError(f"{value} is no JSON")


def test_a_perfect_network_has_full_marks(tmp_path):
    evaluation = Evaluation(INFO)
    for seed in range(3):
        image, truth = scene(seed, 40 + seed, 60 + 2 * seed)
        evaluation.update(image, truth, perfect(truth), f"{seed}.png")
    assert evaluation.num_images == 3
    report = evaluation.report(step=1200)
    assert (report.info, report.step, report.num_images) == (INFO, 1200, 3)
    for average in (report.panoptic.all, report.panoptic.things, report.panoptic.stuff):
        assert (average.pq, average.sq, average.rq) == (1.0, 1.0, 1.0)
    assert report.panoptic.tp.tolist() == [3, 6, 3]
    assert (report.semantic.mean_iou, report.semantic.pixel_accuracy) == (1.0, 1.0)
    assert report.instance.ap == report.instance.ap50 == 1.0
    assert "PQ" in write_report(report, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=not_a_number)
    assert (content["dataset"], content["step"], content["num_images"]) == ("street", 1200, 3)
    for tag in ("panoptic_quality/All/PQ", "panoptic_quality/Things/SQ", "panoptic_quality/Stuff/RQ"):
        assert content[tag] == 1.0
    for tag in ("semantic/mIoU", "instance/AP", "instance/AP50", "detection/AP50", "class/person/PQ", "class/car/IoU"):
        assert content[tag] == 1.0, tag
    assert (content["class/car/TP"], content["class/car/FP"], content["class/car/FN"]) == (6, 0, 0)


def test_figures_are_those_of_the_metrics(tmp_path):
    evaluation = Evaluation(INFO)
    panoptic, semantic, instance = PanopticQuality(INFO), MeanIoU(INFO), InstanceAP(INFO, rules="coco")
    for seed, wrong in ((0, True), (1, False)):
        image, truth = scene(seed)
        prediction = without_person(perfect(truth)) if wrong else perfect(truth)
        evaluation.update(image, truth, prediction)
        panoptic.update(truth, prediction.panoptic)
        semantic.update(truth // 1000, prediction.semantic)
        instance.update(truth, prediction.instance, prediction.class_id, prediction.score)
    report = evaluation.report(step=7)
    expected = panoptic.result()
    assert report.panoptic.all == expected.all
    assert report.panoptic.fn.tolist() == [0, 0, 1]
    assert report.semantic.mean_iou == semantic.result().mean_iou < 1
    assert report.instance.ap == instance.result().ap < 1
    # Five of six things found, nothing else.
    assert scalars(report)["detection/AP50"] == pytest.approx(5 / 6)
    table = write_report(report, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=not_a_number)
    assert {key: content[key] for key in scalars(report)} == scalars(report)
    assert content["class/person/PQ"] == pytest.approx(1 / 1.5)
    assert table.startswith("street: 2 images, step 7\n")
    with (tmp_path / "metrics.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["person"]["PQ"]) == content["class/person/PQ"] and rows["person"]["FN"] == "1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.csv", "metrics.json"]


def test_reporting_twice_and_going_on_is_safe():
    evaluation = Evaluation(INFO)
    image, truth = scene(0)
    evaluation.update(image, truth, without_person(perfect(truth)))
    assert scalars(evaluation.report(1)) == scalars(evaluation.report(1))
    evaluation.update(image, truth, perfect(truth))
    assert evaluation.report(1).panoptic.tp.tolist() == [2, 4, 1]
    assert evaluation.report(1).num_images == 2


def test_a_semantic_network_is_measured_by_iou_alone(tmp_path):
    evaluation = Evaluation(INFO, tmp_path / "pictures", 1)
    image, truth = scene(0)
    evaluation.update(image, truth, ImagePrediction(without_person(perfect(truth)).semantic), "first.jpg")
    report = evaluation.report(step=3)
    assert report.panoptic is None and report.instance is None
    road, person = 60 * 37 - 150 - 300 - 200, 200
    assert report.semantic.per_class_iou.tolist() == [road / (road + person), 1.0, 0.0]
    assert "mIoU" in write_report(report, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=not_a_number)
    assert not any(key.startswith(("panoptic_quality", "instance", "detection")) for key in content)
    assert content["semantic/mIoU"] == pytest.approx(report.semantic.mean_iou)
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["first.png"]


# ---- pictures


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [(0, []), (2, ["a.png", "b.png"]), (-1, ["000003.png", "a.png", "b.png", "c.d.png"]), (9, ["000003.png", "a.png"])],
)
def test_so_many_pictures_by_the_images_names(tmp_path, pictures, expected):
    folder = tmp_path / "deep" / "pictures"
    evaluation = Evaluation(INFO, folder, pictures)
    image, truth = scene(0)
    wanted = []
    for name in ("a.png", "folder/b.jpg", "c.d.png", ""):
        wanted.append(evaluation.wants_picture())
        evaluation.update(image, truth, perfect(truth), name)
    count = 4 if pictures < 0 else min(pictures, 4)
    assert wanted == [True] * count + [False] * (4 - count)
    written = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    assert len(written) == count
    assert set(expected) <= set(written)


def test_no_folder_no_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluation = Evaluation(INFO, None, -1)
    image, truth = scene(0)
    assert not evaluation.wants_picture()
    evaluation.update(image, truth, perfect(truth), "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_shows_image_prediction_and_truth(tmp_path):
    image, truth = scene(0)
    right, wrong = Evaluation(INFO, tmp_path, 1), Evaluation(INFO, tmp_path, 1)
    right.update(image, truth, perfect(truth), "right.png")
    wrong.update(image, truth, without_person(perfect(truth)), "wrong.png")
    pictures = []
    for name in ("right.png", "wrong.png"):
        with Image.open(tmp_path / name) as opened:
            pictures.append(np.asarray(opened).astype(int))
    differs = np.flatnonzero((pictures[0] != pictures[1]).any(axis=(0, 2)))
    width = pictures[0].shape[1]
    # Only the panel in the middle is another one.
    assert differs.size and width / 3 - 8 < differs.min() and differs.max() < 2 * width / 3 + 8
