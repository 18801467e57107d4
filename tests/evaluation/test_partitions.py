"""However images are spread over workers, and in whatever order those are merged, no bit of a figure changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.evaluation import (
    BoundaryIoU,
    BoundaryPanopticQuality,
    InstanceAP,
    InstanceIoU,
    MeanIoU,
    PanopticQuality,
)
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.report import scalars

from .official_inputs import INFO, instances_of, random_pairs

IMAGES = 24


def inputs():
    rng = np.random.default_rng(1)
    for pair in random_pairs(IMAGES, seed=3):
        yield pair, instances_of(pair.prediction, rng)


METRICS = {
    "PQ": (lambda: PanopticQuality(INFO), lambda pair, _: pair),
    "boundary PQ": (lambda: BoundaryPanopticQuality(INFO, 0.03), lambda pair, _: pair),
    "mIoU": (lambda: MeanIoU(INFO), lambda pair, _: (pair.truth // 1000, pair.prediction // 1000)),
    "boundary mIoU": (lambda: BoundaryIoU(INFO, 0.03), lambda pair, _: (pair.truth // 1000, pair.prediction // 1000)),
    "iIoU": (lambda: InstanceIoU(INFO), lambda pair, _: (pair.truth, pair.prediction // 1000)),
}


def flat(result) -> np.ndarray:
    """Every number of a result."""
    values = dataclasses.astuple(result)
    return np.concatenate([np.ravel(np.asarray(value, float)) for value in values])


@pytest.fixture(scope="module", params=METRICS)
def counted(request):
    make, arguments = METRICS[request.param]
    whole = make()
    counts = [whole.count(*arguments(*item)) for item in inputs()]
    for part in counts:
        whole.add(part)
    return make, counts, flat(whole.result())


@given(st.lists(st.integers(0, 4), min_size=IMAGES, max_size=IMAGES), st.permutations(range(5)))
def test_any_partition_gives_the_same_figures(counted, workers, order):
    make, counts, expected = counted
    metrics = [make() for _ in range(5)]
    for worker, part in reversed(list(zip(workers, counts, strict=True))):
        metrics[worker].add(part)
    total = make()
    for worker in order:
        total.merge(metrics[worker])
    np.testing.assert_array_equal(flat(total.result()), expected)
    assert np.isfinite(expected).sum() > 5


@pytest.mark.parametrize("rules", ["coco", "cityscapes"])
def test_instance_ap_of_consecutive_parts_is_that_of_the_whole(rules):
    """Ties between scores are broken by the order of the images, as the official scripts do: parts keep it."""
    whole = InstanceAP(INFO, rules)
    counts = [whole.count(pair.truth, *instances) for pair, instances in inputs()]
    for part in counts:
        whole.add(part)
    expected = flat(whole.result())
    rng = np.random.default_rng(0)
    for _ in range(5):
        ends = np.sort(rng.integers(0, IMAGES + 1, size=3))
        total = InstanceAP(INFO, rules)
        for chunk in np.split(np.arange(IMAGES), ends):
            worker = InstanceAP(INFO, rules)
            for i in chunk:
                worker.add(counts[i])
            total.merge(worker)
        np.testing.assert_array_equal(flat(total.result()), expected)


def test_an_evaluation_keeps_a_few_numbers_an_image():
    evaluation = Evaluation(INFO, boundary=True, instance_rules=("coco", "cityscapes"))
    for i, (pair, instances) in enumerate(inputs()):
        prediction = ImagePrediction(None, pair.prediction, *instances)
        evaluation.add(evaluation.count(pair.truth, prediction, f"{i}"))
    figures = scalars(evaluation.report(0))
    names = ("mIoU", "category_mIoU", "iIoU", "category_iIoU", "boundary_mIoU")
    assert {f"semantic/{name}" for name in names} <= set(figures)
    assert 0 < figures["boundary_panoptic_quality/All/PQ"] < figures["panoptic_quality/All/PQ"]
