"""Instance AP: COCO's rules against pycocotools used by hand, those of Cityscapes against loops."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation import InstanceAP
from deeplab2_lite.evaluation.metrics.coco_ap import encode_segments

INFO = DatasetInfo(
    "four",
    tuple(ClassInfo(f"class{i}", isthing, (i, i, i), i) for i, isthing in enumerate((False, True, True, False))),
    ignore_label=9,
    label_divisor=100,
)


def drawn_image(rng: np.random.Generator, height: int = 130, width: int = 150):
    """Returns truth, masks, class_ids and scores with hits, misses, crowd, void and tiny instances."""
    truth = np.zeros((height, width), np.int32)
    masks = np.zeros((height, width), np.int32)
    class_ids, scores = [], []
    numbers = {1: 0, 2: 0}
    for _ in range(rng.integers(3, 9)):
        class_id = int(rng.integers(1, 3))
        top, left = rng.integers(0, height - 10), rng.integers(0, width - 10)
        size = rng.integers(5, 45, size=2)
        numbers[class_id] += 1
        kind = rng.random()
        value = 900 if kind < 0.1 else 100 * class_id + (0 if kind < 0.25 else numbers[class_id])
        if kind < 0.9:
            truth[top : top + size[0], left : left + size[1]] = value
        if rng.random() < 0.8:
            top, left = max(0, top + rng.integers(-3, 4)), max(0, left + rng.integers(-3, 4))
            class_ids.append(class_id if rng.random() < 0.9 else 3 - class_id)
            scores.append(float(rng.choice([0.3, 0.5, 0.7, rng.random()])))
            masks[top : top + size[0], left : left + size[1]] = len(class_ids)
    return truth, masks, np.array(class_ids, np.int64), np.array(scores)


def coco_stats(images) -> np.ndarray:
    """Returns COCOeval's twelve figures, from annotations made mask by mask."""

    def annotation(image, mask, class_id, **more):
        run_lengths = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"image_id": image, "category_id": class_id, "segmentation": run_lengths, **more}

    truths, detections = [], []
    for image, (truth, masks, class_ids, scores) in enumerate(images, 1):
        for panoptic_id in np.unique(truth):
            if panoptic_id // 100 in (1, 2):
                mask = truth == panoptic_id
                crowd = int(panoptic_id % 100 == 0)
                more = {"id": len(truths) + 1, "iscrowd": crowd, "area": int(mask.sum()), "bbox": [0, 0, 1, 1]}
                truths.append(annotation(image, mask, int(panoptic_id // 100), **more))
        for row in range(class_ids.size):
            if (masks == row + 1).any():
                detections.append(annotation(image, masks == row + 1, int(class_ids[row]), score=float(scores[row])))
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i + 1, "height": t.shape[0], "width": t.shape[1]} for i, (t, *_) in enumerate(images)],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": truths,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def all_figures(result) -> np.ndarray:
    summary = [result.ap, result.ap50, result.ap75, result.ap_small, result.ap_medium, result.ap_large]
    return np.concatenate([summary, result.per_class_ap, result.per_class_ap50])


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_run_lengths_equal_those_of_pycocotools(height, width, seed):
    ids = np.random.default_rng(seed).integers(0, 3, size=(height, width))
    encoded = encode_segments(ids)
    assert set(encoded) == set(np.unique(ids).tolist())
    for value, run_lengths in encoded.items():
        assert run_lengths == mask_utils.encode(np.asfortranarray((ids == value).astype(np.uint8)))


@pytest.mark.parametrize("seed", range(4))
def test_coco_rules_equal_pycocotools(seed):
    rng = np.random.default_rng(seed)
    images = [drawn_image(rng) for _ in range(6)]
    metric = InstanceAP(INFO, rules="coco")
    for image in images:
        metric.update(*image)
    result, stats = metric.result(), coco_stats(images)
    expected = np.where(stats[:6] < 0, np.nan, stats[:6])
    assert 0.05 < result.ap < 0.95
    np.testing.assert_allclose(all_figures(result)[:6], expected, rtol=0, atol=1e-12)
    assert result.ap == pytest.approx(np.nanmean(result.per_class_ap))
    assert np.isnan(result.per_class_ap[[0, 3]]).all()


def cityscapes_reading(images) -> np.ndarray:
    """Returns AP [classes 1 and 2, thresholds], mask by mask as the official script goes about it."""
    thresholds = np.arange(0.5, 1.0, 0.05)
    table = np.full((2, thresholds.size), np.nan)
    for row, class_id in enumerate((1, 2)):
        for column, threshold in enumerate(thresholds):
            labels, confidences, instances, detections = [], [], 0, 0
            for truth, masks, class_ids, scores in images:
                segments = [int(i) for i in np.unique(truth) if i // 100 == class_id]
                counted = [i for i in segments if i % 100 and (truth == i).sum() >= 100]
                instances += len(counted)
                for k in range(class_ids.size):
                    mask = masks == k + 1
                    if class_ids[k] != class_id or not mask.any():
                        continue
                    detections += 1
                    meets = [
                        i for i in segments if (mask & (truth == i)).sum() / (mask | (truth == i)).sum() > threshold
                    ]
                    forgiven = np.sum(mask & (truth // 100 == 9))
                    for i in segments:
                        common = np.sum(mask & (truth == i))
                        forgiven += common * (i % 100 == 0) + common * ((truth == i).sum() < 100)
                    if meets and meets[0] in counted:
                        labels.append(1)
                        confidences.append(scores[k])
                    elif not meets and forgiven / mask.sum() <= threshold:
                        labels.append(0)
                        confidences.append(scores[k])
            if instances:
                table[row, column] = cityscapes_area(np.array(labels), np.array(confidences), instances)
    return table


def cityscapes_area(labels: np.ndarray, confidences: np.ndarray, instances: int) -> float:
    if labels.size == 0:
        return 0.0
    points = []
    for score in sorted(set(confidences.tolist())):
        kept = labels[confidences >= score]
        points.append((kept.mean(), kept.sum() / instances))
    points.append((1.0, 0.0))
    recall = [points[0][1], *(r for _, r in points), 0.0]
    return sum(p * (recall[i] - recall[i + 2]) / 2 for i, (p, _) in enumerate(points))


@pytest.mark.parametrize("seed", range(4))
def test_cityscapes_rules_equal_the_loops(seed):
    rng = np.random.default_rng(100 + seed)
    images = [drawn_image(rng) for _ in range(6)]
    metric = InstanceAP(INFO, rules="cityscapes")
    for image in images:
        metric.update(*image)
    result, expected = metric.result(), cityscapes_reading(images)
    assert 0.05 < result.ap < 0.95
    np.testing.assert_allclose(result.ap, np.nanmean(expected), rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.ap50, np.nanmean(expected[:, 0]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.per_class_ap[1:3], expected.mean(axis=1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.per_class_ap50[1:3], expected[:, 0], rtol=0, atol=1e-12)
    assert np.isnan(result.per_class_ap[[0, 3]]).all() and np.isnan(result.ap_small)


def one_image(rules, truth, masks, class_ids, scores):
    metric = InstanceAP(INFO, rules=rules)
    metric.update(truth, masks, np.array(class_ids, np.int64), np.array(scores, np.float32))
    return metric.result()


def squares(*values: int) -> np.ndarray:
    """Returns squares of 20 x 20 pixels in a row."""
    return np.kron(np.array([values]), np.ones((20, 20), np.int32)).astype(np.int32)


@pytest.mark.parametrize("rules", ["coco", "cityscapes"])
def test_analytic_cases(rules):
    truth = squares(101, 0, 102, 201)
    perfect = one_image(rules, truth, squares(1, 0, 2, 3), [1, 1, 2], [0.9, 0.8, 0.7])
    assert (perfect.ap, perfect.ap50, perfect.ap75) == pytest.approx((1.0, 1.0, 1.0), abs=1e-12)
    assert all(np.isnan(v) for v in perfect.per_class_ap[[0, 3]])
    nothing = one_image(rules, truth, squares(0, 0, 0, 0), [], [])
    assert nothing.ap == 0.0
    no_truth = one_image(rules, squares(0, 0, 0, 900), squares(1, 0, 0, 0), [1], [0.5])
    assert np.isnan(no_truth.ap) and np.isnan(no_truth.per_class_ap).all()
    # Three quarters of the mask: IoU 0.75 passes the thresholds 0.5 to 0.7 (COCO: 0.75 as well).
    masks = squares(1, 0, 0, 0)
    masks[15:] = 0
    shrunk = one_image(rules, squares(101, 0, 0, 0), masks, [1], [0.5])
    assert shrunk.ap50 == pytest.approx(1.0, abs=1e-12)
    assert shrunk.ap == pytest.approx(0.6 if rules == "coco" else 0.5, abs=1e-9)


def test_detections_on_crowd_are_forgiven():
    truth = squares(100, 0, 102, 0)
    for rules in ("coco", "cityscapes"):
        # The higher score would put a false detection first.
        assert one_image(rules, truth, squares(1, 0, 2, 0), [1, 1], [0.9, 0.5]).ap == pytest.approx(1.0, abs=1e-12)
        assert one_image(rules, truth, squares(0, 1, 2, 0), [1, 1], [0.9, 0.5]).ap < 0.8


@pytest.mark.parametrize("rules", ["coco", "cityscapes"])
def test_merge_equals_one_metric(rules):
    rng = np.random.default_rng(7)
    images = [drawn_image(rng) for _ in range(5)]
    together, first, second = (InstanceAP(INFO, rules=rules) for _ in range(3))
    for i, image in enumerate(images):
        together.update(*image)
        (first if i < 2 else second).update(*image)
    alone = all_figures(second.result())
    first.merge(second)
    np.testing.assert_array_equal(all_figures(first.result()), all_figures(together.result()))
    np.testing.assert_array_equal(all_figures(first.result()), all_figures(first.result()))
    np.testing.assert_array_equal(all_figures(second.result()), alone)
    first.reset()
    assert np.isnan(first.result().ap)


def test_rows_without_pixels_may_hold_anything():
    result = one_image("coco", squares(101, 0), squares(2, 0), [-1, 1], [np.nan, 0.5])
    assert result.ap == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("masks", "class_ids", "scores", "message"),
    [
        (squares(2, 0), [1], [0.5], "masks: expected instances in 0..1"),
        (squares(1, 0), [0], [0.5], r"class_ids\[0\]: expected the id of a thing class"),
        (squares(1, 0), [1], [np.nan], r"scores\[0\]: expected a finite number"),
        (squares(1, 0), [1, 1], [0.5], "one value for each row"),
        (squares(1, 0, 0), [1], [0.5], "masks: expected the truth's shape"),
    ],
)
def test_mistakes_are_named(masks, class_ids, scores, message):
    with pytest.raises(UserError, match=message):
        one_image("coco", squares(101, 0), masks, class_ids, scores)


def test_other_rules_and_label_spaces_do_not_mix():
    with pytest.raises(UserError, match="rules 'cocos': unknown; did you mean 'coco'"):
        InstanceAP(INFO, rules="cocos")
    with pytest.raises(UserError, match="merge: expected an InstanceAP by the rules of 'coco'"):
        InstanceAP(INFO, "coco").merge(InstanceAP(INFO, "cityscapes"))
