import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite import losses


def value(term):
    return float(term.numerator / term.denominator) if float(term.denominator) else 0.0


def cross_entropy_by_definition(logits, labels, weights, fraction):
    per_image = []
    for b in range(len(logits)):
        pixel_losses = []
        for y, x in np.ndindex(labels.shape[1:]):
            if weights[b, y, x] > 0:
                scores = np.exp(logits[b, y, x].astype(np.float64))
                pixel_losses.append(-weights[b, y, x] * np.log(scores[labels[b, y, x]] / scores.sum()))
        hardest = sorted(pixel_losses, reverse=True)[: int(np.ceil(fraction * len(pixel_losses)))]
        per_image.append(np.mean(hardest) if hardest else 0.0)
    return np.mean(per_image)


@given(seed=st.integers(0, 10_000), fraction=st.sampled_from([0.2, 0.5, 1.0]), void=st.sampled_from([0.0, 0.3, 1.0]))
def test_bootstrapped_cross_entropy_equals_its_definition(seed, fraction, void):
    random = np.random.default_rng(seed)
    # Few distinct logits, so that ties at the threshold are common.
    logits = random.integers(-2, 3, (2, 5, 6, 3)).astype(np.float32)
    labels = random.integers(0, 3, (2, 5, 6)).astype(np.int32)
    weights = random.choice([1.0, 3.0], (2, 5, 6)).astype(np.float32)
    weights[random.random((2, 5, 6)) < void] = 0
    labels[weights == 0] = 255
    term = losses.bootstrapped_cross_entropy(logits, labels, weights, fraction)
    assert value(term) == pytest.approx(cross_entropy_by_definition(logits, labels, weights, fraction), rel=1e-5)


def test_half_of_the_pixels_is_the_mean_of_the_larger_half():
    logits = np.zeros((1, 1, 4, 2), np.float32)
    logits[0, 0, :, 0] = [0, 1, 2, 3]
    labels = np.ones((1, 1, 4), np.int32)
    each = np.log1p(np.exp([0.0, 1.0, 2.0, 3.0]))
    term = losses.bootstrapped_cross_entropy(logits, labels, np.ones((1, 1, 4), np.float32), 0.5)
    assert value(term) == pytest.approx(each[2:].mean(), rel=1e-6)


def test_gradient_reaches_the_hardest_pixels_alone():
    logits = tf.Variable(
        np.array([0.0, 1.0, 2.0, 3.0], np.float32).reshape(1, 1, 4, 1) * [[[[1.0, 0.0]]]], dtype="float32"
    )
    labels = np.ones((1, 1, 4), np.int32)
    with tf.GradientTape() as tape:
        term = losses.bootstrapped_cross_entropy(logits, labels, np.ones((1, 1, 4), np.float32), 0.5)
    gradient = tape.gradient(term.numerator, logits).numpy()[0, 0]
    assert np.all(gradient[:2] == 0)
    sigmoid = 1 / (1 + np.exp(-np.array([2.0, 3.0])))
    np.testing.assert_allclose(gradient[2:, 0], sigmoid / 2, rtol=1e-5)


def test_a_broken_easy_pixel_is_not_hidden():
    logits = np.zeros((1, 2, 2, 2), np.float32)
    logits[0, 0, 0, 0] = np.nan
    term = losses.bootstrapped_cross_entropy(
        logits, np.zeros((1, 2, 2), np.int32), np.ones((1, 2, 2), np.float32), 0.25
    )
    assert not np.isfinite(value(term))


def test_offset_loss_of_two_everywhere_is_two_not_diluted_by_the_mask():
    weights = np.zeros((1, 4, 4), np.float32)
    weights[0, :2] = 1
    term = losses.center_offset_loss(
        np.full((1, 4, 4, 2), 2.0, np.float32), np.zeros((1, 4, 4, 2), np.float32), weights
    )
    assert value(term) == 2.0
    assert float(term.denominator) == 8.0


@given(seed=st.integers(0, 10_000))
def test_heatmap_losses_equal_their_definitions(seed):
    random = np.random.default_rng(seed)
    prediction, target = random.uniform(0.01, 0.99, (2, 2, 3, 4)).astype(np.float32)
    weights = (random.random((2, 3, 4)) < 0.6).astype(np.float32)
    mse = losses.center_heatmap_loss(prediction, target, weights, "mse")
    entropy = losses.center_heatmap_loss(prediction, target, weights, "sigmoid_cross_entropy")
    count = weights.sum()
    assert float(mse.denominator) == count
    assert float(mse.numerator) == pytest.approx((weights * (prediction - target) ** 2).sum(), rel=1e-4, abs=1e-6)
    expected = -(weights * (target * np.log(prediction) + (1 - target) * np.log(1 - prediction))).sum()
    assert float(entropy.numerator) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_losses_compile_with_xla_to_the_same_value():
    random = np.random.default_rng(3)
    logits = random.normal(size=(2, 9, 9, 4)).astype(np.float32)
    labels = random.integers(0, 4, (2, 9, 9)).astype(np.int32)
    weights = np.ones((2, 9, 9), np.float32)
    compiled = tf.function(losses.bootstrapped_cross_entropy, jit_compile=True)
    eager = losses.bootstrapped_cross_entropy(logits, labels, weights, 0.2)
    assert float(compiled(logits, labels, weights, 0.2).numerator) == pytest.approx(float(eager.numerator), rel=1e-6)
