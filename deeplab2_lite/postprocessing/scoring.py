"""Instance scores: objectness times class confidence (paper section 3.3)."""

from __future__ import annotations

import tensorflow as tf

from deeplab2_lite.errors import UserError
from deeplab2_lite.postprocessing.merging import segment_ids
from deeplab2_lite.postprocessing.segmentation import InstanceResult, PanopticResult
from deeplab2_lite.postprocessing.upsampling import Upsampling, map_stripes


def score_instances(result: PanopticResult | InstanceResult, semantic_probabilities: tf.Tensor) -> tf.Tensor:
    """Multiplies each instance's centre score by the mean probability of its class over its mask.

    Args:
        result: What `panoptic_segmentation` or `instance_segmentation` gave.
        semantic_probabilities: [batch, height, width, classes], floating point; values that are not finite
            count as 0.

    Returns:
        float32 [batch, top_k]; 0 for invalid rows.

    Raises:
        UserError: The probabilities do not fit the result's maps.
    """
    semantic_probabilities = tf.convert_to_tensor(semantic_probabilities)
    expected = result.instance.shape.concatenate([None])
    if not semantic_probabilities.shape.is_compatible_with(expected):
        raise UserError(
            f"score_instances: semantic_probabilities: expected shape {expected}, got {semantic_probabilities.shape}"
        )
    probability = tf.gather(semantic_probabilities, _class_of_pixels(result), batch_dims=3)
    return _mean_scores(result, tf.cast(probability, tf.float32))


def score_instances_by_logits(
    result: PanopticResult | InstanceResult, semantic_logits: tf.Tensor, upsampling: Upsampling | None = None
) -> tf.Tensor:
    """Scores instances as `score_instances` does with the softmax of logits, of which it holds some rows at a time.

    Args:
        result: What `panoptic_segmentation` or `instance_segmentation` gave.
        semantic_logits: [batch, height, width, classes], floating point.
        upsampling: The resolution of the result, if theirs is lower.

    Returns:
        float32 [batch, top_k]; 0 for invalid rows.
    """
    classes = _class_of_pixels(result)

    def stripe_probability(logits: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        instance = tf.gather(result.instance, rows, axis=1)

        def probability() -> tf.Tensor:
            class_of_pixel = tf.gather(classes, rows, axis=1)
            return tf.gather(tf.nn.softmax(logits), class_of_pixel, batch_dims=3)

        # Most rows of most images show no instance.
        return tf.cond(tf.reduce_any(instance > 0), probability, lambda: tf.zeros_like(instance, tf.float32))

    return _mean_scores(result, map_stripes(stripe_probability, semantic_logits, upsampling, tf.float32))


def _class_of_pixels(result: PanopticResult | InstanceResult) -> tf.Tensor:
    """The class of each pixel's instance; of pixels without any 0."""
    class_of = tf.pad(tf.maximum(result.instances.class_id, 0), [[0, 0], [1, 0]])
    ids, _ = segment_ids(result.instance, class_of.shape[1])
    return tf.gather(tf.reshape(class_of, [-1]), ids)


def _mean_scores(result: PanopticResult | InstanceResult, probability: tf.Tensor) -> tf.Tensor:
    """Centre score times mean over the mask of [batch, height, width]."""
    instance, table = result.instance, result.instances
    top_k = table.valid.shape[1]
    probability = tf.where(tf.math.is_finite(probability), probability, 0.0)
    # Sums of sums by rows: adding a million values to one float32 would lose per cents.
    batch, height, _ = tf.unstack(tf.shape(instance))
    ids, number = segment_ids(instance, top_k + 1)
    ids = ids * height + tf.range(height)[:, tf.newaxis]
    by_row = tf.math.unsorted_segment_sum(probability, ids, number * height)
    total = tf.reduce_sum(tf.reshape(by_row, [batch, top_k + 1, height]), axis=-1)[:, 1:]
    mean = total / tf.cast(tf.maximum(table.area, 1), tf.float32)
    return tf.where(table.valid, table.center_score * mean, 0.0)
