"""Instance scores: objectness times class confidence (paper section 3.3)."""

from __future__ import annotations

import tensorflow as tf

from deeplab2_lite.errors import UserError
from deeplab2_lite.postprocessing.merging import segment_ids
from deeplab2_lite.postprocessing.segmentation import PanopticResult


def score_instances(result: PanopticResult, semantic_probabilities: tf.Tensor) -> tf.Tensor:
    """Multiplies each instance's centre score by the mean probability of its class over its mask.

    Args:
        result: What `panoptic_segmentation` gave.
        semantic_probabilities: [batch, height, width, classes], floating point; values that are not finite
            count as 0.

    Returns:
        float32 [batch, top_k]; 0 for invalid rows.

    Raises:
        UserError: The probabilities do not fit the result's maps.
    """
    instance, table = result.instance, result.instances
    semantic_probabilities = tf.convert_to_tensor(semantic_probabilities)
    expected = instance.shape.concatenate([None])
    if not semantic_probabilities.shape.is_compatible_with(expected):
        raise UserError(
            f"score_instances: semantic_probabilities: expected shape {expected}, got {semantic_probabilities.shape}"
        )
    top_k = table.valid.shape[1]
    class_of = tf.pad(tf.maximum(table.class_id, 0), [[0, 0], [1, 0]])
    pixel_class = tf.gather(class_of, instance, batch_dims=1)
    probability = tf.cast(tf.gather(semantic_probabilities, pixel_class, batch_dims=3), tf.float32)
    probability = tf.where(tf.math.is_finite(probability), probability, 0.0)

    # Sums of sums by rows: adding a million values to one float32 would lose per cents.
    batch, height, _ = tf.unstack(tf.shape(instance))
    ids, number = segment_ids(instance, top_k + 1)
    ids = ids * height + tf.range(height)[:, tf.newaxis]
    by_row = tf.math.unsorted_segment_sum(probability, ids, number * height)
    total = tf.reduce_sum(tf.reshape(by_row, [batch, top_k + 1, height]), axis=-1)[:, 1:]
    mean = total / tf.cast(tf.maximum(table.area, 1), tf.float32)
    return tf.where(table.valid, table.center_score * mean, 0.0)
