"""Panoptic quality against a reading of the rules that loops over segments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation import PanopticQuality

INFO = DatasetInfo(
    "four",
    tuple(ClassInfo(f"class{i}", isthing, (i, i, i), i) for i, isthing in enumerate((False, True, True, False))),
    ignore_label=9,
    label_divisor=10,
)


def brute_force(truth: np.ndarray, prediction: np.ndarray) -> dict[int, list[float]]:
    """Returns {class: [tp, fp, fn, iou_sum]} of one image."""
    counts = {c: [0, 0, 0, 0.0] for c in range(4)}
    void = truth // 10 == 9
    true_ids = [int(i) for i in np.unique(truth) if i // 10 != 9]
    predicted_ids = [int(i) for i in np.unique(prediction) if i // 10 != 9]
    crowds = [i for i in true_ids if INFO.classes[i // 10].isthing and i % 10 == 0]
    matched_true, matched_predicted = set(), set()
    for t in true_ids:
        for p in predicted_ids:
            if t in crowds or t // 10 != p // 10:
                continue
            a, b = truth == t, (prediction == p) & ~void
            iou = np.sum(a & b) / np.sum(a | b)
            if iou > 0.5:
                counts[t // 10][0] += 1
                counts[t // 10][3] += iou
                matched_true.add(t)
                matched_predicted.add(p)
    for t in true_ids:
        if t not in crowds and t not in matched_true:
            counts[t // 10][2] += 1
    for p in predicted_ids:
        if p not in matched_predicted:
            forgiven = void | (truth == p // 10 * 10 if p // 10 * 10 in crowds else False)
            if np.sum(forgiven & (prediction == p)) / np.sum(prediction == p) <= 0.5:
                counts[p // 10][1] += 1
    return counts


def check_against_brute_force(images: list[tuple[np.ndarray, np.ndarray]]) -> None:
    metric = PanopticQuality(INFO)
    expected = np.zeros((4, 4))
    for truth, prediction in images:
        metric.update(truth, prediction)
        expected += np.array(list(brute_force(truth, prediction).values()))
    result = metric.result()
    np.testing.assert_array_equal(np.stack([result.tp, result.fp, result.fn], axis=1), expected[:, :3])
    np.testing.assert_allclose(result.iou_sum, expected[:, 3], rtol=0, atol=1e-12)
    tp, fp, fn, iou = expected.T
    counted = tp + fp + fn > 0
    np.testing.assert_array_equal(result.counted, counted)
    things = np.array([False, True, True, False])
    for average, chosen in (
        (result.all, counted),
        (result.things, counted & things),
        (result.stuff, counted & ~things),
    ):
        assert average.num_classes == chosen.sum()
        if chosen.any():
            weight = (tp + fp / 2 + fn / 2)[chosen]
            assert average.pq == pytest.approx(np.mean(iou[chosen] / weight), abs=1e-12)
            assert average.sq == pytest.approx(np.mean((iou / np.maximum(tp, 1))[chosen]), abs=1e-12)
            assert average.rq == pytest.approx(np.mean(tp[chosen] / weight), abs=1e-12)
        else:
            assert np.isnan(average.pq) and np.isnan(average.sq) and np.isnan(average.rq)


# Few ids and few pixels: IoUs of 0.5 and crowd shares of a half come up often.
IDS = (0, 10, 11, 12, 20, 21, 30, 90, 91)


@given(st.data())
def test_drawn_maps_equal_the_brute_force(data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    maps = st.lists(st.sampled_from(IDS), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    images = [
        tuple(np.array(data.draw(maps), np.int32).reshape(shape) for _ in range(2))
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    check_against_brute_force(images)


@pytest.mark.parametrize("seed", range(40))
def test_maps_with_large_segments_equal_the_brute_force(seed):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(3):
        coarse = rng.choice(IDS, size=(4, 5))
        truth = coarse.repeat(6, axis=0).repeat(7, axis=1)
        prediction = np.roll(truth, rng.integers(-2, 3, size=2), axis=(0, 1))
        noise = rng.random(truth.shape) < 0.1
        prediction = np.where(noise, rng.choice(IDS, size=truth.shape), prediction)
        images.append((truth.astype(np.int32), prediction.astype(np.int32)))
    check_against_brute_force(images)


def test_500_random_maps_equal_the_brute_force():
    rng = np.random.default_rng(500)
    images = []
    for i in range(500):
        coarse = rng.choice(IDS, size=(3, 4))
        truth = coarse.repeat(rng.integers(2, 6), axis=0).repeat(rng.integers(2, 6), axis=1)
        prediction = np.where(rng.random(truth.shape) < 0.15, rng.choice(IDS, size=truth.shape), truth)
        empty = np.full_like(truth, 90)
        images.append((empty if i % 20 == 3 else truth, empty if i % 20 == 7 else prediction))
    check_against_brute_force(images)


def single(truth, prediction):
    metric = PanopticQuality(INFO)
    metric.update(np.array(truth, np.int32), np.array(prediction, np.int32))
    return metric.result()


def test_perfect_prediction_with_all_kinds_of_segments_is_one():
    labels = [[0, 0, 11, 11], [30, 20, 12, 90]]
    result = single(labels, labels)
    assert (result.pq, result.sq, result.rq) == (1.0, 1.0, 1.0)
    # The true crowd 20 is no segment to find, and its twin in the prediction is forgiven.
    np.testing.assert_array_equal(result.counted, [True, True, False, True])
    np.testing.assert_array_equal(result.tp, [1, 2, 0, 1])
    assert np.isnan(result.per_class_pq[2])


def test_iou_of_one_half_is_no_match():
    result = single([[11, 11, 0, 0]], [[11, 0, 0, 0]])
    assert (result.tp[1], result.fp[1], result.fn[1]) == (0, 1, 1)
    # Stuff: 2 of 3 pixels.
    assert result.iou_sum[0] == pytest.approx(2 / 3)
    assert result.pq == pytest.approx((2 / 3 + 0) / 2)


def test_void_leaves_the_union_and_forgives_only_above_one_half():
    # All four pixels of 11 predicted, two of them on void: a perfect match of the other two.
    assert single([[11, 11, 90, 93]], [[11, 11, 11, 11]]).iou_sum[1] == 1.0
    # Half of an unmatched segment on void: still wrong; more than half: forgotten.
    assert single([[0, 0, 90, 90]], [[11, 30, 11, 30]]).fp.tolist() == [0, 1, 0, 1]
    assert single([[0, 0, 90, 90]], [[0, 11, 11, 11]]).fp[1] == 0


def test_crowd_forgives_only_its_own_class():
    truth = [[10, 10, 10, 0]]
    assert single(truth, [[11, 11, 11, 0]]).fp.tolist() == [0, 0, 0, 0]
    assert single(truth, [[21, 21, 21, 0]]).fp.tolist() == [0, 0, 1, 0]
    assert single(truth, [[0, 0, 0, 0]]).fn.tolist() == [1, 0, 0, 0]


def test_predicted_void_is_no_segment():
    result = single([[11, 11, 11, 0]], [[90, 92, 90, 90]])
    assert result.fp.tolist() == [0, 0, 0, 0] and result.fn.tolist() == [1, 1, 0, 0]


def test_small_case_of_deeplab2_by_the_official_rules():
    info = DatasetInfo(
        "three", INFO.classes[:1] + INFO.classes[3:] + INFO.classes[:1], ignore_label=9, label_divisor=10
    )
    truth = [[0, 92, 92], [11, 20, 20], [11, 90, 90]]
    prediction = [[0, 0, 90], [10, 11, 11], [10, 91, 91]]
    metric = PanopticQuality(info)
    metric.update(np.array(truth), np.array(prediction))
    # 0:0 matches with IoU 1 once void leaves the union; 1:0 matches 1:1, and 1:1 is wrong; 2 is missed.
    np.testing.assert_allclose(metric.result().per_class_pq, [1, 2 / 3, 0])
    assert metric.result().pq == pytest.approx(5 / 9)


def test_merge_batches_and_order_change_not_one_bit():
    rng = np.random.default_rng(0)
    truth = rng.choice(IDS, size=(12, 6, 6)).repeat(5, axis=2).astype(np.int32)
    prediction = np.where(rng.random(truth.shape) < 0.25, rng.choice(IDS, size=truth.shape), truth).astype(np.int32)
    together, first, second = (PanopticQuality(INFO) for _ in range(3))
    together.update(truth, prediction)
    for i in (7, 3, 11, 0, 5):
        first.update(truth[i], prediction[i])
    second.update(truth[[10, 9, 8, 6, 4, 2, 1]], prediction[[10, 9, 8, 6, 4, 2, 1]])
    before = second.result()
    first.merge(second)
    a, b = together.result(), first.result()
    assert a.tp.sum() > 40
    for name in ("iou_sum", "tp", "fp", "fn", "per_class_pq"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    assert a.all == b.all == first.result().all
    assert second.result().all == before.all
    first.reset()
    assert first.result().all.num_classes == 0 and np.isnan(first.result().pq)


def test_detection_ap50_pools_over_things():
    metric = PanopticQuality(INFO)
    metric.update(np.array([[11, 11, 12, 0]]), np.array([[11, 11, 0, 0]]))
    metric.update(np.array([[21, 21, 0, 0]]), np.array([[21, 21, 13, 0]]))
    result = metric.result()
    assert result.detection_ap50() == pytest.approx(2 / 4)
    assert result.detection_ap50([2]) == 1.0
    assert np.isnan(PanopticQuality(INFO).result().detection_ap50())


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.zeros((2, 3), np.int32), np.zeros((3, 2), np.int32), r"prediction: .*\[2, 3\], got \[3, 2\]"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int32), "truth: expected integers"),
        (np.zeros(3, np.int32), np.zeros(3, np.int32), r"truth: expected the shape \[height, width\]"),
        (np.zeros((1, 1), np.int32), np.full((1, 1), 40), "prediction: semantic id 4 is unknown"),
        (np.full((1, 1), -1), np.zeros((1, 1), np.int32), "truth: expected ids in 0"),
    ],
)
def test_mistakes_are_named_and_nothing_is_counted(truth, prediction, message):
    metric = PanopticQuality(INFO)
    with pytest.raises(UserError, match=message):
        metric.update(truth, prediction)
    good = np.zeros((1, 1), np.int32)
    if truth.shape == (1, 1):
        with pytest.raises(UserError, match=message):
            metric.update(np.stack([good, truth]), np.stack([good, prediction]))
    assert not metric.result().counted.any()


def test_empty_images_and_other_label_spaces():
    metric = PanopticQuality(INFO)
    metric.update(np.zeros((0, 4), np.int32), np.zeros((0, 4), np.int32))
    assert not metric.result().counted.any()
    with pytest.raises(UserError, match="merge: expected a PanopticQuality of 'four'"):
        metric.merge(PanopticQuality(DatasetInfo("other", INFO.classes, ignore_label=8, label_divisor=10)))
