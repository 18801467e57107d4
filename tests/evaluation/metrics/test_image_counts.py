"""Counts of single images, carried through JSON and added up, give the figures of one pass."""

import json

import numpy as np
import pytest

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts
from deeplab2_lite.evaluation.report import per_class_rows, scalars

INFO = DatasetInfo(
    "streets",
    (
        ClassInfo("road", False, (0, 0, 0), 0),
        ClassInfo("car", True, (0, 0, 9), 1),
        ClassInfo("person", True, (0, 9, 0), 2),
    ),
    label_divisor=100,
)
RULES = ("coco", "cityscapes")


def drawn_image(rng):
    """Blocks of classes and instances; void, crowds and empty classes among them."""
    instances = rng.integers(0, 6, (4, 5))
    blocks = rng.choice([0, 1, 2, 255], (4, 5), p=[0.3, 0.4, 0.2, 0.1])
    truth = np.kron(blocks * 100 + np.isin(blocks, [1, 2]) * instances, np.ones((9, 11), int))
    table = np.kron(instances, np.ones((9, 11), int))
    class_id = rng.integers(1, 3, 5)
    semantic = np.where(table > 0, class_id[table - 1], 0)
    panoptic = np.where(table > 0, semantic * 100 + table, 0)
    return truth, ImagePrediction(semantic, panoptic, table, class_id, rng.random(5).round(2))


def test_figures_do_not_depend_on_who_counted():
    rng = np.random.default_rng(0)
    images = [drawn_image(rng) for _ in range(12)]
    whole, collected = Evaluation(INFO, instance_rules=RULES), Evaluation(INFO, instance_rules=RULES)
    for i, (truth, prediction) in enumerate(images):
        whole.update(np.zeros((*truth.shape, 3), np.uint8), truth, prediction, f"{i}.png")
        # An evaluation of its own for each, as if in another process.
        counts = Evaluation(INFO, instance_rules=RULES).count(truth, prediction, f"{i}.png")
        text = json.dumps(counts.to_json())
        assert len(text) < 4000
        collected.add(ImageCounts.from_json(json.loads(text), INFO.num_classes))
    expected, report = whole.report(7), collected.report(7)
    assert scalars(report) == scalars(expected)
    assert scalars(report)["instance/AP"] > 0
    for row, other in zip(per_class_rows(report), per_class_rows(expected), strict=True):
        assert list(row) == list(other)
        np.testing.assert_array_equal(list(row.values())[2:], list(other.values())[2:])
    assert [counts.name for counts in report.images] == [f"{i}.png" for i in range(12)]


@pytest.mark.parametrize("rules", RULES)
def test_the_first_rules_stand_in_the_table(rules):
    other = RULES[1 - RULES.index(rules)]
    rng = np.random.default_rng(1)
    alone, both = Evaluation(INFO, instance_rules=[rules]), Evaluation(INFO, instance_rules=[rules, other])
    for _ in range(5):
        truth, prediction = drawn_image(rng)
        for evaluation in (alone, both):
            evaluation.update(np.zeros((*truth.shape, 3), np.uint8), truth, prediction)
    assert both.report(0).instance.ap == alone.report(0).instance.ap


def test_parts_that_a_prediction_lacks_are_not_counted():
    truth, prediction = drawn_image(np.random.default_rng(2))
    counts = Evaluation(INFO).count(truth, ImagePrediction(prediction.semantic), "a.png")
    assert counts.panoptic is None and counts.instance is None
    assert set(counts.to_json()) == {"name", "semantic"}
    panoptic = Evaluation(INFO).count(truth, ImagePrediction(prediction.semantic, prediction.panoptic), "a.png")
    assert panoptic.panoptic is not None and panoptic.instance is None
