"""Boundaries, boundary PQ and boundary IoU against masks eroded one by one, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation import BoundaryIoU, BoundaryPanopticQuality, PanopticQuality
from deeplab2_lite.evaluation.metrics.boundary import boundary_distance, segment_boundaries
from deeplab2_lite.evaluation.metrics.boundary_iou import BoundaryCounts

INFO = DatasetInfo(
    "four",
    tuple(ClassInfo(f"class{i}", isthing, (i, i, i), i) for i, isthing in enumerate((False, True, True, False))),
    ignore_label=9,
    label_divisor=10,
)
IDS = (0, 10, 11, 12, 20, 21, 30, 90, 91)
RATIO = 0.06


def eroded(mask: np.ndarray, distance: int) -> np.ndarray:
    """Takes `distance` times off what has one of 8 neighbours outside; the image ends outside."""
    for _ in range(distance):
        padded = np.pad(mask, 1)
        mask = np.all(
            [
                padded[1 + dy : 1 + dy + mask.shape[0], 1 + dx : 1 + dx + mask.shape[1]]
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            ],
            axis=0,
        )
    return mask


def band(mask: np.ndarray, distance: int) -> np.ndarray:
    return mask & ~eroded(mask, distance)


def boundary_of(ids: np.ndarray, distance: int) -> np.ndarray:
    found = np.zeros(ids.shape, bool)
    for value in np.unique(ids):
        found |= band(ids == value, distance)
    return found


def drawn_maps(seed: int, count: int = 3):
    """Large segments of the same class side by side, shifted predictions, crowds, void and noise."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        coarse = rng.choice(IDS, size=(4, 5))
        truth = coarse.repeat(rng.integers(5, 10), axis=0).repeat(rng.integers(5, 10), axis=1)
        prediction = np.roll(truth, rng.integers(-2, 3, size=2), axis=(0, 1))
        changed = rng.choice(IDS, size=coarse.shape).repeat(9, axis=0).repeat(9, axis=1)
        changed = changed[: truth.shape[0], : truth.shape[1]]
        prediction = np.where(rng.random(changed.shape) < 0.01, changed, prediction)
        yield truth.astype(np.int32), prediction.astype(np.int32)


def brute_force_quality(truth: np.ndarray, prediction: np.ndarray, distance: int) -> np.ndarray:
    """Returns tp, fp, fn and the sum of IoUs by class, [4, classes], of one image."""
    counts = np.zeros((4, 4))
    void = truth // 10 == 9
    true_ids = [int(i) for i in np.unique(truth) if i // 10 != 9]
    predicted_ids = [int(i) for i in np.unique(prediction) if i // 10 != 9]
    crowds = [i for i in true_ids if INFO.classes[i // 10].isthing and i % 10 == 0]
    matched = set()
    for t in set(true_ids) - set(crowds):
        for p in (p for p in predicted_ids if p // 10 == t // 10):
            masks = truth == t, prediction == p
            iou = 1.0
            for a, b in (masks, [band(mask, distance) for mask in masks]):
                iou = min(iou, np.sum(a & b) / np.sum(a | (b & ~void)))
            if iou > 0.5:
                matched |= {("t", t), ("p", p)}
                counts[[0, 3], t // 10] += 1, iou
    for t in set(true_ids) - set(crowds):
        counts[2, t // 10] += ("t", t) not in matched
    for p in predicted_ids:
        crowd = p // 10 * 10
        forgiven = void | (truth == crowd if crowd in crowds else False)
        mask = prediction == p
        counts[1, p // 10] += ("p", p) not in matched and np.sum(forgiven & mask) / mask.sum() <= 0.5
    return counts


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 3]))
def test_boundaries_equal_erosions_of_each_mask(seed, height, width, distance, scale):
    ids = np.random.default_rng(seed).integers(0, 3, size=(height, width)).repeat(scale, 0).repeat(scale, 1)
    np.testing.assert_array_equal(segment_boundaries(ids, distance), boundary_of(ids, distance))


@pytest.mark.parametrize("distance", [1, 2, 3, 5, 8, 11, 30])
def test_boundaries_of_large_segments_equal_erosions(distance):
    rng = np.random.default_rng(distance)
    ids = np.zeros((70, 90), np.int32)
    for number in range(1, 6):
        top, left = rng.integers(0, 40, size=2)
        ids[top : top + rng.integers(20, 50), left : left + rng.integers(20, 60)] = number
    found = segment_boundaries(ids, distance)
    np.testing.assert_array_equal(found, boundary_of(ids, distance))
    assert found.all() == (distance == 30) and found.any()


def test_boundaries_equal_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    ids = next(drawn_maps(0, 1))[0].repeat(3, axis=0).repeat(3, axis=1)
    height, width = ids.shape
    for distance in (1, 4, 9):
        found = segment_boundaries(ids, distance)
        for value in np.unique(ids):
            padded = cv2.copyMakeBorder((ids == value).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
            inside = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1 : height + 1, 1 : width + 1]
            np.testing.assert_array_equal(found[ids == value], inside[ids == value] == 0)


def test_distances():
    assert boundary_distance(1024, 2048, 0.005) == 11
    assert boundary_distance(480, 640, 0.02) == 16
    assert boundary_distance(3, 4, 0.02) == 1
    assert boundary_distance(3, 4, 0.5) == 2  # 2.5 rounds to even, as in the paper's code


@pytest.mark.parametrize("seed", range(30))
def test_boundary_quality_equals_the_brute_force(seed):
    metric, expected, masks = BoundaryPanopticQuality(INFO, RATIO), np.zeros((4, 4)), PanopticQuality(INFO)
    for truth, prediction in drawn_maps(seed):
        metric.update(truth, prediction)
        masks.update(truth, prediction)
        expected += brute_force_quality(truth, prediction, boundary_distance(*truth.shape, RATIO))
    result = metric.result()
    np.testing.assert_array_equal([result.tp, result.fp, result.fn], expected[:3])
    np.testing.assert_allclose(result.iou_sum, expected[3], rtol=0, atol=1e-12)
    assert (result.iou_sum <= masks.result().iou_sum + 1e-12).all()


def test_a_thin_ring_off_costs_more_at_the_boundary():
    truth = np.zeros((100, 100), np.int32)
    truth[20:80, 20:80] = 11
    prediction = np.zeros_like(truth)
    prediction[22:78, 22:78] = 11
    result = BoundaryPanopticQuality(INFO, 0.02).result()
    assert np.isnan(result.pq)
    metric = BoundaryPanopticQuality(INFO, 0.05)  # 7 pixels
    metric.update(truth, prediction)
    shared = 56**2 - 46**2
    union = (60**2 - 46**2) + (56**2 - 42**2) - shared
    assert metric.result().per_class_pq[1] == pytest.approx(shared / union)
    # At 3 pixels no more than one of their rings is common: neither is matched.
    narrow = BoundaryPanopticQuality(INFO, 0.02)
    narrow.update(truth, prediction)
    assert (narrow.result().tp[1], narrow.result().fp[1], narrow.result().fn[1]) == (0, 1, 1)


def test_a_hole_costs_more_inside():
    truth = np.zeros((100, 100), np.int32)
    truth[20:80, 20:80] = 11
    prediction = truth.copy()
    prediction[30:70, 30:70] = 0
    metric = BoundaryPanopticQuality(INFO, 0.02)  # 3 pixels
    metric.update(truth, prediction)
    outer, inner = 60**2 - 54**2, 46**2 - 40**2
    mask_iou = 1 - 40**2 / 60**2
    assert 0.5 < mask_iou < outer / (outer + inner)
    assert metric.result().per_class_pq[1] == pytest.approx(mask_iou)


def test_a_wide_band_gives_plain_quality():
    metrics = BoundaryPanopticQuality(INFO, 1.0), PanopticQuality(INFO)
    for truth, prediction in drawn_maps(3, 6):
        for metric in metrics:
            metric.update(truth, prediction)
    assert metrics[0].result().all == metrics[1].result().all
    assert 0 < metrics[0].result().pq < 1


@pytest.mark.parametrize("seed", range(10))
def test_boundary_iou_equals_the_brute_force(seed):
    metric, sums = BoundaryIoU(INFO, RATIO), np.zeros((2, 4))
    for truth, prediction in drawn_maps(seed):
        truth, prediction = truth // 10, prediction // 10
        metric.update(truth, prediction)
        distance = boundary_distance(*truth.shape, RATIO)
        for class_id in range(4):
            a = band(truth == class_id, distance)
            b = band(prediction == class_id, distance) & (truth != 9)
            sums[:, class_id] += np.sum(a & b), np.sum(a | b)
    expected = np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1), np.nan)
    np.testing.assert_allclose(metric.result().per_class_iou, expected, rtol=0, atol=1e-15)
    assert metric.result().mean_iou == pytest.approx(np.nanmean(expected))


def test_merge_and_json_change_nothing():
    whole, first, second = (BoundaryIoU(INFO, RATIO) for _ in range(3))
    for i, (truth, prediction) in enumerate(drawn_maps(1, 6)):
        counts = whole.count(truth // 10, prediction // 10)
        whole.add(counts)
        (first, second)[i % 2].add(BoundaryCounts.from_json(counts.to_json(), 4))
    second.merge(first)
    np.testing.assert_array_equal(second.result().per_class_iou, whole.result().per_class_iou)
    assert second.result().mean_iou == whole.result().mean_iou > 0
    second.reset()
    assert np.isnan(second.result().mean_iou)


def test_widths_are_those_of_the_papers_code():
    square = np.zeros((400, 300), np.int32)
    square[20:320, 20:220] = 1
    moved = np.roll(square, 4, axis=1)
    figures = []
    for name, ratio in (("cityscapes", 0.005), ("other", 0.02)):
        info = DatasetInfo(name, load_dataset_info("cityscapes").classes)
        metrics = BoundaryIoU(info), BoundaryIoU(info, ratio)
        for metric in metrics:
            metric.update(square, moved)
        assert metrics[0].result().mean_iou == metrics[1].result().mean_iou
        figures.append(metrics[0].result().mean_iou)
    assert figures[0] < figures[1] - 0.2


@pytest.mark.parametrize("ratio", [0, -0.1, 1.5, float("nan")])
def test_mistakes_are_named(ratio):
    for kind in (BoundaryIoU, BoundaryPanopticQuality):
        with pytest.raises(UserError, match=r"dilation_ratio: expected a share .* in \(0, 1\], got"):
            kind(INFO, ratio)
    metric = BoundaryPanopticQuality(INFO)
    good = np.zeros((5, 5), np.int32)
    for bad, message in (
        (np.full((5, 5), 40), "prediction: semantic id 4 is unknown"),
        (np.zeros((4, 5), int), r"prediction: .*\[5, 5\], got \[4, 5\]"),
        (np.full((5, 5), -1), "prediction: expected ids in 0"),
    ):
        with pytest.raises(UserError, match=message):
            metric.update(good, bad)
    with pytest.raises(UserError, match="prediction: semantic id 4 is unknown"):
        BoundaryIoU(INFO).update(good, np.full((5, 5), 4))
    assert not metric.result().counted.any()
    metric.update(np.zeros((0, 4), np.int32), np.zeros((0, 4), np.int32))
    assert not metric.result().counted.any()
