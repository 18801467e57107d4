"""The three losses of Panoptic-DeepLab, at full resolution (paper section 4).

Every loss comes as a sum over the local examples and the number that the global batch divides it by,
so that one device and many give the same value and the same gradients: the trainer adds the
denominators up over the replicas before it divides.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import tensorflow as tf


class LossTerm(NamedTuple):
    """A loss in two parts: value = sum over replicas of `numerator` / sum over replicas of `denominator`.

    Attributes:
        numerator: float32 scalar, carries the gradient.
        denominator: float32 scalar without gradient; the value is 0 where its global sum is 0.
    """

    numerator: tf.Tensor
    denominator: tf.Tensor


class WeightedTerm(NamedTuple):
    """A loss and its weight in the total."""

    term: LossTerm
    weight: float

    def share(self, denominator: tf.Tensor) -> tf.Tensor:
        """Returns this replica's part of the loss, float32 scalar, of which the sum over the replicas is the loss.

        Args:
            denominator: Of the global batch; the part is the numerator's where it is 0.
        """
        # Not divide_no_nan: it would turn a NaN over 0 into an innocent 0.
        return self.weight * self.term.numerator / tf.where(denominator > 0, denominator, 1.0)


def bootstrapped_cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, hardest_fraction: float
) -> LossTerm:
    """Weighted bootstrapped cross entropy of the semantic head (paper section 3.1, from DeeperLab).

    In each image the labelled pixels (weight above 0) of the highest weighted loss count, a share of
    `hardest_fraction` of them rounded up; their mean is the image's loss. Images average over the
    global batch; an image without labelled pixels counts as 0.

    Args:
        logits: [batch, height, width, classes] float32.
        labels: [batch, height, width] int32; any value where the weight is 0.
        weights: [batch, height, width] float32, 0 on void.
        hardest_fraction: In (0, 1].

    Returns:
        The sum of the images' losses, and the number of images.
    """
    batch = tf.shape(logits)[0]
    labelled = weights > 0
    # Void labels are no class ids; any valid id does, as their weight is 0.
    safe_labels = tf.where(labelled, labels, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=safe_labels, logits=logits) * weights
    losses = tf.reshape(losses, [batch, -1])
    labelled_count = tf.reduce_sum(tf.cast(tf.reshape(labelled, [batch, -1]), tf.int32), axis=1)
    hardest = tf.cast(tf.math.ceil(hardest_fraction * tf.cast(labelled_count, tf.float64)), tf.int32)
    means = tf.math.divide_no_nan(_sum_of_largest(losses, hardest), tf.cast(hardest, tf.float32))
    return LossTerm(tf.reduce_sum(means), tf.cast(batch, tf.float32))


def center_heatmap_loss(
    predictions: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, kind: Literal["mse", "sigmoid_cross_entropy"]
) -> LossTerm:
    """Loss of the centre heatmap: mean squared error, or cross entropy for the ablation (Table 1).

    Args:
        predictions: [batch, height, width] float32; probabilities for the cross entropy.
        targets: [batch, height, width] float32 in 0..1.
        weights: [batch, height, width] float32; 0 on void and crowd.
        kind: Which of the two.

    Returns:
        The weighted sum, and the sum of the weights.
    """
    if kind == "mse":
        losses = tf.math.squared_difference(predictions, targets)
    else:
        # Probabilities were interpolated after the sigmoid, so their logarithm has to be kept finite.
        epsilon = 1e-6
        probabilities = tf.clip_by_value(predictions, epsilon, 1.0 - epsilon)
        losses = -(targets * tf.math.log(probabilities) + (1.0 - targets) * tf.math.log1p(-probabilities))
    return LossTerm(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))


def center_offset_loss(predictions: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> LossTerm:
    """L1 loss of the offsets, the mean of both components, on instance pixels alone.

    Args:
        predictions: [batch, height, width, 2] float32, full-resolution pixels.
        targets: [batch, height, width, 2] float32.
        weights: [batch, height, width] float32; 1 on things that are not crowd.

    Returns:
        The weighted sum, and the sum of the weights.
    """
    losses = tf.reduce_mean(tf.abs(predictions - targets), axis=-1)
    return LossTerm(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))


def classification_cross_entropy(logits: tf.Tensor, labels: tf.Tensor, smoothing: float = 0.0) -> LossTerm:
    """Cross entropy of whole images' classes, for pre-training.

    Args:
        logits: [batch, classes] float32.
        labels: [batch] int32.
        smoothing: Share of each label that is spread evenly over all classes (Szegedy et al., "Rethinking the
            Inception Architecture", section 7).

    Returns:
        The sum over the images, and their number.
    """
    classes = tf.shape(logits)[1]
    targets = tf.one_hot(labels, classes) * (1.0 - smoothing) + smoothing / tf.cast(classes, tf.float32)
    losses = tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    return LossTerm(tf.reduce_sum(losses), tf.cast(tf.shape(logits)[0], tf.float32))


def _sum_of_largest(values: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """Sums the `counts[b]` largest of the non-negative `values[b]`, without sorting.

    The bit patterns of non-negative floats are ordered as the floats are, so the count-th largest is
    found bit by bit in 31 counting passes: exact, of static shape, and quick on every device, where
    `top_k` of a fifth of two million pixels is a sort. Values that tie with the last share what is left
    of the gradient. Values that are not finite stay visible in the sum.
    """
    bits = tf.bitcast(tf.stop_gradient(tf.maximum(values, 0.0)), tf.int32)
    threshold = tf.zeros_like(counts)
    for position in range(30, -1, -1):
        candidate = tf.bitwise.bitwise_or(threshold, 1 << position)
        enough = tf.math.count_nonzero(bits >= candidate[:, None], axis=1, dtype=tf.int32) >= counts
        threshold = tf.where(enough, candidate, threshold)
    above = tf.cast(bits > threshold[:, None], tf.float32)
    tied = tf.cast(bits == threshold[:, None], tf.float32)
    left = tf.cast(counts, tf.float32) - tf.reduce_sum(above, axis=1)
    share = tf.math.divide_no_nan(left, tf.reduce_sum(tied, axis=1))
    share = tf.where(counts > 0, share, 0.0)
    # A product, not a choice: 0 * NaN is NaN, so a broken pixel cannot hide among the easy ones.
    return tf.reduce_sum(values * (above + tied * share[:, None]), axis=1)
