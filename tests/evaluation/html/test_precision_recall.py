"""Curves of precision against recall, held against detections matched one by one."""

import numpy as np
import pytest

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.evaluation.html.precision_recall import RECALLS, precision_recall
from deeplab2_lite.evaluation.metrics.instance_ap import InstanceAP

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
    """Blocks of 13 x 12 pixels; crowds, void and tiny instances among them; detections are off by some pixels."""
    instances = rng.integers(0, 8, (4, 5))
    blocks = rng.choice([0, 1, 2, 255], (4, 5), p=[0.2, 0.45, 0.25, 0.1])
    truth = np.kron(blocks * 100 + np.isin(blocks, [1, 2]) * instances, np.ones((13, 12), int))
    truth[:6, 12:24] = 199  # 72 pixels: too few for Cityscapes
    table = np.roll(np.kron(instances, np.ones((13, 12), int)), rng.integers(0, 3, 2), (0, 1))
    # One row lies on the crowds, and so is forgiven where it has their class.
    table[table == 0] = 7
    # Few distinct scores, so that many are equal.
    return truth, table, rng.integers(1, 3, 7), rng.integers(1, 8, 7) / 8


def matched(truth, table, class_ids, scores, class_id, threshold, rules):
    """The rules, read literally: (score, right) of each detection that counts, and the instances to be found."""
    segments = [(truth == i, i % 100 == 0) for i in np.unique(truth) if i // 100 == class_id]
    small = [rules == "cityscapes" and mask.sum() < 100 for mask, _ in segments]
    counted = [mask for (mask, group), tiny in zip(segments, small, strict=True) if not group and not tiny]
    others = [mask for (mask, group), tiny in zip(segments, small, strict=True) if group or tiny]
    void = truth // 100 == 255
    rows = [row for row in range(class_ids.size) if class_ids[row] == class_id and (table == row + 1).any()]
    detections, taken = [], set()
    for row in sorted(rows, key=lambda row: -scores[row]):
        mask = table == row + 1
        ious = [0 if i in taken else (mask & true).sum() / (mask | true).sum() for i, true in enumerate(counted)]
        best = int(np.argmax(ious)) if ious else -1
        if rules == "coco":
            meets = best >= 0 and ious[best] >= threshold - 1e-9
            forgiven = any((mask & other).sum() / mask.sum() >= threshold for other in others)
        else:
            meets = best >= 0 and ious[best] > threshold
            on_small = sum((mask & other).sum() for other in others)
            # A tiny group counts twice.
            on_small += sum(
                (mask & part).sum() for (part, group), tiny in zip(segments, small, strict=True) if group and tiny
            )
            forgiven = ((mask & void).sum() + on_small) / mask.sum() > threshold
            forgiven |= any((mask & other).sum() / (mask | other).sum() > threshold for other in others)
        if meets:
            taken.add(best)
        if meets or not forgiven:
            detections.append((scores[row], meets))
    return detections, len(counted)


@pytest.mark.parametrize("threshold", [0.5, 0.75])
@pytest.mark.parametrize("rules", RULES)
def test_points_are_those_of_detections_of_at_least_a_score(rules, threshold):
    rng = np.random.default_rng(0)
    images = [drawn_image(rng) for _ in range(30)]
    curves = precision_recall([InstanceAP(INFO, rules).count(*image) for image in images], rules, threshold)
    assert [curve.class_id for curve in curves] == [1, 2]
    for curve in curves:
        found = [matched(*image, curve.class_id, threshold, rules) for image in images]
        assert curve.instances == sum(instances for _, instances in found) > 10
        detections = np.array([pair for pairs, _ in found for pair in pairs])
        expected = []
        for score in sorted(set(detections[:, 0]), reverse=True):
            right = detections[detections[:, 0] >= score, 1]
            expected.append((score, right.mean(), right.sum() / curve.instances))
        np.testing.assert_allclose(np.stack([curve.scores, curve.precision, curve.recall], axis=1), expected)
        assert 0 < curve.recall[-1] < 1


@pytest.mark.parametrize("rules", RULES)
def test_areas_are_the_figures_of_the_metric(rules):
    rng = np.random.default_rng(1)
    metric = InstanceAP(INFO, rules)
    counts = [metric.count(*drawn_image(rng)) for _ in range(30)]
    for one in counts:
        metric.add(one)
    result = metric.result()
    at_50, at_75 = (precision_recall(counts, rules, threshold) for threshold in (0.5, 0.75))
    assert result.ap50 > result.ap75 > 0
    np.testing.assert_allclose([c.average_precision for c in at_50], result.per_class_ap50[1:], atol=1e-12)
    np.testing.assert_allclose(np.mean([c.average_precision for c in at_75]), result.ap75, atol=1e-12)


def test_best_f1_and_interpolation():
    truth = np.zeros((20, 60), np.int64)
    truth[:, 0:20], truth[:, 20:40] = 101, 102
    table = np.zeros_like(truth)
    table[:, 0:20], table[:, 40:60], table[:, 20:40] = 1, 2, 3
    counts = InstanceAP(INFO).count(truth, table, [1, 1, 1], [0.9, 0.8, 0.4])
    (curve,) = precision_recall([counts], "coco", 0.5)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [1 / 2, 1 / 2, 1])
    assert curve.best_f1() == 2
    np.testing.assert_allclose(curve.interpolated(), np.where(RECALLS <= 0.5, 1, 2 / 3))


@pytest.mark.parametrize("rules", RULES)
def test_nothing_found_and_nothing_to_find(rules):
    truth = np.full((20, 20), 101)
    nothing = InstanceAP(INFO, rules).count(truth, np.zeros_like(truth), [], [])
    (curve,) = precision_recall([nothing], rules, 0.5)
    assert (curve.instances, curve.scores.size, curve.average_precision) == (1, 0, 0)
    assert curve.best_f1() is None and not curve.interpolated().any()
    # A detection without a single true instance of its class has no curve.
    alone = InstanceAP(INFO, rules).count(np.zeros_like(truth), np.ones_like(truth), [1], [0.5])
    assert precision_recall([alone], rules, 0.5) == precision_recall([], rules, 0.5) == []
