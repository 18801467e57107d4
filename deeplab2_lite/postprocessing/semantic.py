"""The semantic map: each pixel's class of greatest score, from logits at full or at lower resolution."""

from __future__ import annotations

import tensorflow as tf

from deeplab2_lite.postprocessing.compilation import is_compiled_by_xla
from deeplab2_lite.postprocessing.upsampling import Upsampling, map_stripes


def semantic_segmentation(semantic_logits: tf.Tensor, upsampling: Upsampling | None = None) -> tf.Tensor:
    """Takes the class of the greatest score, the smaller id on a tie.

    Upsampled logits are never held as a whole: 19 classes at 1025 x 2049 take 160 MB.

    Args:
        semantic_logits: [batch, height, width, classes], floating point, classes static; any scores, since
            they are only compared. NaN counts as -inf.
        upsampling: The resolution to bring them to, bilinearly as `upsample_heads` does; None takes them as
            they are.

    Returns:
        Class ids, int32 [batch, height, width]; 0 where no score is above -inf.
    """
    if upsampling is None:
        return greatest_class(semantic_logits)
    return map_stripes(lambda stripe, _: greatest_class(stripe), semantic_logits, upsampling, tf.int32)


def class_probability(
    semantic_logits: tf.Tensor, semantic: tf.Tensor, upsampling: Upsampling | None = None
) -> tf.Tensor:
    """Says how sure the network is of each pixel's class.

    Args:
        semantic_logits: As for `semantic_segmentation`.
        semantic: Class ids, int32 [batch, height, width] at the resolution of the result.
        upsampling: As for `semantic_segmentation`.

    Returns:
        The softmax at the class, float32 [batch, height, width]; NaN where a logit is not finite.
    """

    def stripe_probability(logits: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
        return tf.gather(probabilities, tf.gather(semantic, rows, axis=1), batch_dims=3)

    return map_stripes(stripe_probability, semantic_logits, upsampling, tf.float32)


def greatest_class(scores: tf.Tensor) -> tf.Tensor:
    """Takes the class of the greatest score, the smaller id on a tie.

    Args:
        scores: [..., classes], classes static; NaN counts as -inf.

    Returns:
        int32 [...]; 0 where no score is above -inf.
    """
    # tf.argmax promises neither the first of equals nor the same answer to NaN everywhere.
    if is_compiled_by_xla():
        # One fused pass; top_k would sort.
        return _by_comparisons(scores)
    # A sum is finite only if all terms are, and costs next to nothing. In half precision it would overflow.
    finite = tf.math.is_finite(tf.reduce_sum(tf.cast(scores, tf.float32)))
    return tf.cond(finite, lambda: _by_top_k(scores), lambda: _by_comparisons(scores))


def _by_top_k(scores: tf.Tensor) -> tf.Tensor:
    """For scores without NaN: top_k promises the first of equals, and is faster than tf.argmax."""
    return tf.math.top_k(scores, k=1).indices[..., 0]


def _by_comparisons(scores: tf.Tensor) -> tf.Tensor:
    # A comparison with NaN is false, so it never wins.
    greatest = tf.fill(tf.shape(scores)[:-1], tf.constant(float("-inf"), scores.dtype))
    winner = tf.zeros_like(greatest, tf.int32)
    for class_id in range(scores.shape[-1]):
        score = scores[..., class_id]
        wins = score > greatest
        greatest = tf.where(wins, score, greatest)
        winner = tf.where(wins, class_id, winner)
    return tf.ensure_shape(winner, scores.shape[:-1])
