"""IoU of categories, iIoU, and how reports show them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, dataset_info_from_categories, load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation import InstanceIoU, MeanIoU
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.metrics.instance_iou import InstanceIoUCounts
from deeplab2_lite.evaluation.report import format_table, per_category_rows, per_class_rows, scalars, write_json


def a_class(name, isthing, category, area=None):
    return ClassInfo(name, isthing, (1, 1, 1), 0, category, area)


INFO = DatasetInfo(
    "streets",
    (
        a_class("road", False, "flat"),
        a_class("car", True, "vehicle", 50.0),
        a_class("bus", True, "vehicle", 80.0),
        a_class("person", True, "human", 30.0),
        a_class("dog", True, None),
    ),
    ignore_label=9,
    label_divisor=10,
)
WEIGHED = (1, 2, 3)


def drawn_images(count, seed=0):
    """Truth and semantic prediction."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        classes = rng.choice([0, 1, 2, 3, 4, 9], size=(5, 6))
        truth = classes * 10 + np.isin(classes, (1, 2, 3, 4)) * rng.integers(0, 3, size=(5, 6))
        truth = truth.repeat(3, axis=0).repeat(4, axis=1)
        changed = rng.random(truth.shape) < 0.4
        yield truth, np.where(changed, rng.choice([0, 1, 2, 3, 4, 9], size=truth.shape), truth // 10)


def category_iou(images, category):
    right = union = 0
    members = [i for i, c in enumerate(INFO.classes) if c.category == category]
    for truth, prediction in images:
        labelled = truth // 10 != 9
        a, b = np.isin(truth // 10, members), np.isin(prediction, members) & labelled
        right, union = right + np.sum(a & b), union + np.sum(a | b)
    return right / union


def instance_iou(images, members, category):
    """The rules read out instance by instance."""
    tp = fn = fp = 0.0
    for truth, prediction in images:
        accepted = [i for i, c in enumerate(INFO.classes) if c.category == category] if category else members
        for panoptic_id in np.unique(truth):
            class_id, instance = divmod(int(panoptic_id), 10)
            if class_id in members and instance:
                mask = truth == panoptic_id
                weight = INFO.classes[class_id].average_area / mask.sum()
                found = np.isin(prediction, accepted) & mask
                tp, fn = tp + weight * found.sum(), fn + weight * (mask & ~found).sum()
        fp += np.sum(np.isin(prediction, members) & ~np.isin(truth // 10, [*accepted, 9]))
    return tp / (tp + fn + fp)


def test_categories_equal_the_brute_force():
    images = list(drawn_images(6))
    metric, weighted = MeanIoU(INFO), InstanceIoU(INFO)
    for truth, prediction in images:
        metric.update(truth // 10, prediction)
        weighted.update(truth, prediction)
    result = metric.result()
    assert INFO.categories == ("flat", "vehicle", "human")
    expected = [category_iou(images, category) for category in INFO.categories]
    np.testing.assert_allclose(result.per_category_iou, expected, rtol=0, atol=1e-12)
    assert result.mean_category_iou == pytest.approx(np.mean(expected), abs=1e-12)
    assert result.per_category_iou[1] > max(result.per_class_iou[1:3])
    result = weighted.result()
    expected = [instance_iou(images, [c], None) if c in WEIGHED else np.nan for c in range(5)]
    np.testing.assert_allclose(result.per_class_iou, expected, rtol=0, atol=1e-12)
    assert result.mean_iou == pytest.approx(np.nanmean(expected), abs=1e-12)
    expected = [np.nan, instance_iou(images, [1, 2], "vehicle"), instance_iou(images, [3], "human")]
    np.testing.assert_allclose(result.per_category_iou, expected, rtol=0, atol=1e-12)
    assert result.mean_category_iou == pytest.approx(np.nanmean(expected), abs=1e-12)


def test_a_large_instance_weighs_as_much_as_a_small_one():
    truth = np.zeros((1, 44), int)
    truth[0, :40], truth[0, 40:] = 11, 12
    prediction = truth // 10
    prediction[0, 40:] = 0
    plain, weighted = MeanIoU(INFO), InstanceIoU(INFO)
    plain.update(truth // 10, prediction)
    weighted.update(truth, prediction)
    assert plain.result().per_class_iou[1] == 40 / 44
    assert weighted.result().per_class_iou[1] == 0.5


def test_classes_that_occur_nowhere_have_no_figure():
    metric = InstanceIoU(INFO)
    assert np.isnan(metric.result().mean_iou) and np.isnan(metric.result().per_category_iou).all()
    metric.update(np.array([[0, 0, 10, 91]]), np.array([[3, 0, 1, 2]]))
    # The crowd of cars does not count; a person is seen where there is none.
    np.testing.assert_array_equal(metric.result().per_class_iou, [np.nan, np.nan, np.nan, 0, np.nan])
    np.testing.assert_array_equal(metric.result().per_category_iou, [np.nan, np.nan, 0])


def test_a_category_has_a_figure_if_all_its_classes_are_weighed():
    info = DatasetInfo("x", (a_class("car", True, "a", 5.0), a_class("road", False, "a"), a_class("sky", False, "b")))
    metric = InstanceIoU(info)
    metric.update(np.array([[1, 1000]]), np.array([[0, 0]]))
    assert np.isnan(metric.result().per_category_iou).all()


def report_of(info, boundary=False):
    evaluation = Evaluation(info, boundary=boundary)
    for i, (truth, prediction) in enumerate(drawn_images(4)):
        evaluation.add(evaluation.count(truth, ImagePrediction(prediction, prediction * 10), f"{i}.png"))
    return evaluation.report(3)


def test_reports_show_categories(tmp_path):
    report = report_of(INFO)
    cells = [line.split() for line in format_table(report).splitlines()]
    vehicle = [f"{100 * r.per_category_iou[1]:.1f}" for r in (report.semantic, report.instance_iou)]
    assert ["vehicle", *vehicle] in cells and ["category", "IoU", "iIoU"] in cells
    assert any("category mIoU" in line and "category iIoU" in line for line in format_table(report).splitlines())
    content = json.loads(write_json(report, tmp_path / "metrics.json").read_text())
    assert content["category/vehicle/IoU"] == report.semantic.per_category_iou[1]
    assert content["category/flat/iIoU"] is None
    assert content["semantic/category_iIoU"] == report.instance_iou.mean_category_iou
    assert content["class/bus/iIoU"] == report.instance_iou.per_class_iou[2]
    assert scalars(report)["semantic/category_mIoU"] == report.semantic.mean_category_iou
    assert [row["name"] for row in per_category_rows(report)] == ["flat", "vehicle", "human"]


def test_reports_without_categories_and_areas_say_nothing_of_them(tmp_path):
    plain = tuple(ClassInfo(c.name, c.isthing, c.color, 0, "all") for c in INFO.classes)
    report = report_of(DatasetInfo("plain", plain, ignore_label=9, label_divisor=10))
    assert report.instance_iou is None and per_category_rows(report) == []
    text = write_json(report, tmp_path / "metrics.json").read_text() + format_table(report)
    assert "category" not in text and "iIoU" not in text and "boundary" not in text


def test_reports_show_boundaries(tmp_path):
    report = report_of(INFO, boundary=True)
    content = json.loads(write_json(report, tmp_path / "metrics.json").read_text())
    assert content["boundary_panoptic_quality/All/PQ"] == report.boundary.pq < report.panoptic.pq
    assert content["semantic/boundary_mIoU"] == report.boundary_iou.mean_iou
    assert content["class/car/boundary PQ"] == report.boundary.per_class_pq[1]
    row = per_class_rows(report)[0]
    assert list(row)[9:13] == ["boundary PQ", "IoU", "iIoU", "boundary IoU"]
    lines = format_table(report).splitlines()
    assert any(line.split()[:2] == ["boundary", "PQ"] for line in lines)
    assert any("boundary mIoU" in line for line in lines)


def test_counts_travel_as_json():
    metric, other = InstanceIoU(INFO), InstanceIoU(INFO)
    for truth, prediction in drawn_images(3):
        counts = metric.count(truth, prediction)
        metric.add(counts)
        other.add(InstanceIoUCounts.from_json(json.loads(json.dumps(counts.to_json())), 5))
    np.testing.assert_array_equal(metric.result().per_class_iou, other.result().per_class_iou)
    assert metric.result().mean_iou == other.result().mean_iou > 0


def test_label_spaces_hold_categories(tmp_path):
    for name, categories in (("cityscapes", 7), ("coco", 27), ("mapillary_vistas", 7), ("mapillary_vistas_v2", 8)):
        info = load_dataset_info(name)
        assert len(info.categories) == categories
        assert all(c.category for c in info.classes)
        assert load_dataset_info(info.save(tmp_path)).classes == info.classes
    assert load_dataset_info("deeplab2_coco").categories == load_dataset_info("coco").categories
    assert load_dataset_info("shapes").categories == ()
    city = load_dataset_info("cityscapes")
    assert [c.name for c in city.classes if c.average_area] == [city.class_names[i] for i in city.thing_ids]
    assert "category" not in load_dataset_info("shapes").save(tmp_path).read_text()


def test_categories_json_gives_categories():
    rows = [
        {"id": 1, "name": "car", "isthing": 1, "supercategory": "object--vehicle--car"},
        {"id": 2, "name": "sky", "isthing": 0, "supercategory": "sky"},
        {"id": 3, "name": "thing", "isthing": 1},
    ]
    assert [c.category for c in dataset_info_from_categories("x", rows).classes] == ["object", "sky", None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("category: 3", r"classes\[0\]: category: expected text, got 3"),
        ("average_area: 0", r"classes\[0\]: average_area: expected a number of pixels above 0, got 0"),
        ("average_area: true", r"average_area: expected a number"),
    ],
)
def test_mistakes_in_label_spaces_are_named(tmp_path, line, message):
    path = tmp_path / "info.yaml"
    path.write_text(f"name: x\nclasses:\n- {{name: a, isthing: true, {line}}}\n")
    with pytest.raises(UserError, match=message):
        load_dataset_info(path)
