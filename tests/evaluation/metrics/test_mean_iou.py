"""Mean IoU against loops over classes and pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation import MeanIoU

INFO = DatasetInfo("four", tuple(ClassInfo(f"class{i}", False, (i, i, i), i) for i in range(4)), ignore_label=7)
LABELS = (0, 1, 2, 3, 7)


def brute_force(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, float]:
    labelled = truth != 7
    iou = np.full(4, np.nan)
    for c in range(4):
        union = labelled & ((truth == c) | (prediction == c))
        if union.any():
            iou[c] = np.sum((truth == c) & (prediction == c)) / union.sum()
    accuracy = np.mean((truth == prediction)[labelled]) if labelled.any() else np.nan
    return iou, accuracy


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30))
def test_drawn_pixels_equal_the_brute_force(pixels):
    truth, prediction = (np.array(values, np.int32)[None] for values in zip(*pixels, strict=True))
    metric = MeanIoU(INFO)
    metric.update(truth, prediction)
    result = metric.result()
    iou, accuracy = brute_force(truth, prediction)
    np.testing.assert_allclose(result.per_class_iou, iou)
    np.testing.assert_allclose(result.pixel_accuracy, accuracy)
    expected_mean = iou[~np.isnan(iou)].mean() if (~np.isnan(iou)).any() else np.nan
    np.testing.assert_allclose(result.mean_iou, expected_mean)


def test_a_class_that_is_only_predicted_counts_as_zero_and_one_that_is_nowhere_does_not_count():
    metric = MeanIoU(INFO)
    metric.update(np.array([[0, 0, 1, 7]]), np.array([[0, 2, 1, 3]]))
    result = metric.result()
    # Class 3 is predicted on void alone: nowhere.
    np.testing.assert_array_equal(result.per_class_iou, [0.5, 1.0, 0.0, np.nan])
    assert result.mean_iou == 0.5
    assert result.pixel_accuracy == pytest.approx(2 / 3)


def test_predicted_void_is_missed_and_kept_in_the_last_column():
    metric = MeanIoU(INFO)
    metric.update(np.array([[0, 0, 0, 0]]), np.array([[0, 7, 7, 7]]))
    assert metric.result().per_class_iou[0] == 0.25
    assert metric.result().confusion.tolist()[0] == [1, 0, 0, 0, 3]


def test_merge_equals_one_metric_and_reset_forgets():
    rng = np.random.default_rng(1)
    truth, prediction = rng.choice(LABELS, size=(2, 6, 9, 8))
    together, first, second = (MeanIoU(INFO) for _ in range(3))
    together.update(truth, prediction)
    first.update(truth[:2], prediction[:2])
    for t, p in zip(truth[2:], prediction[2:], strict=True):
        second.update(t, p)
    first.merge(second)
    np.testing.assert_array_equal(together.result().confusion, first.result().confusion)
    assert first.result().mean_iou == first.result().mean_iou == together.result().mean_iou
    first.reset()
    assert np.isnan(first.result().mean_iou) and np.isnan(first.result().pixel_accuracy)


def test_counts_are_exact_above_float32():
    metric = MeanIoU(INFO)
    for _ in range(3):
        metric.update(np.zeros((4097, 4096), np.uint8), np.zeros((4097, 4096), np.uint8))
    metric.update(np.array([[0]]), np.array([[1]]))
    assert metric.result().confusion[0, 0] == 3 * 4097 * 4096
    assert metric.result().confusion[0, 1] == 1


def test_mistakes_are_named():
    metric = MeanIoU(INFO)
    with pytest.raises(UserError, match="prediction: semantic id 4 is unknown"):
        metric.update(np.array([[0]]), np.array([[4]]))
    with pytest.raises(UserError, match="prediction: expected the truth's shape"):
        metric.update(np.array([[0]]), np.array([[0, 0]]))
    assert metric.result().confusion.sum() == 0
