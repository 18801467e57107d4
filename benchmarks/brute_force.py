"""The merge as public code does it: a distance for each pair of centre and pixel, and passes over the whole image
for each instance. One image at a time."""

from __future__ import annotations

import tensorflow as tf

from deeplab2_lite.postprocessing import Heads, upsample_heads


def segment_batch(heads: Heads, settings: dict, size: tuple[int, int] | None = None) -> tf.Tensor:
    """Panoptic ids int32 [batch, height, width] from heads of full resolution, or upsampled to `size` first."""
    if size is not None:
        heads = upsample_heads(heads, *size)
    images = zip(*(tf.unstack(head) for head in heads), strict=True)
    return tf.stack([_segment(*image, **settings) for image in images])


def _segment(
    logits: tf.Tensor,
    heatmap: tf.Tensor,
    offset: tf.Tensor,
    thing_ids: tuple[int, ...],
    label_divisor: int,
    ignore_label: int,
    stuff_area_limit: int,
) -> tf.Tensor:
    height, width, num_classes = logits.shape
    semantic = tf.argmax(logits, axis=-1, output_type=tf.int32)
    is_thing = tf.reduce_any(semantic[..., tf.newaxis] == tf.constant(thing_ids), axis=-1)
    window_max = tf.nn.max_pool2d(heatmap[tf.newaxis], 7, 1, "SAME")[0]
    peaks = tf.where((heatmap == window_max) & (heatmap > 0.1), heatmap, 0.0)[..., 0]
    scores, index = tf.math.top_k(tf.reshape(peaks, [-1]), 200)
    index = tf.boolean_mask(index, scores > 0)
    void = ignore_label * label_divisor
    panoptic = tf.fill([height, width], void)
    for class_id in set(range(num_classes)) - set(thing_ids):
        mask = semantic == class_id
        if tf.reduce_sum(tf.cast(mask, tf.int32)) >= stuff_area_limit:
            panoptic = tf.where(mask, class_id * label_divisor, panoptic)
    if len(index) == 0:
        return panoptic

    y = tf.reshape(offset[..., 0] + tf.range(height, dtype=tf.float32)[:, tf.newaxis], [1, -1])
    x = tf.reshape(offset[..., 1] + tf.range(width, dtype=tf.float32), [1, -1])
    center_y, center_x = (tf.cast(part, tf.float32)[:, tf.newaxis] for part in (index // width, index % width))
    distance = tf.square(y - center_y) + tf.square(x - center_x)
    instance = tf.reshape(tf.argmin(distance, axis=0, output_type=tf.int32), [height, width])
    used = [0] * num_classes
    for i in range(len(index)):
        mask = is_thing & (instance == i)
        if not tf.reduce_any(mask):
            continue
        votes = tf.math.bincount(tf.boolean_mask(semantic, mask), minlength=num_classes)
        class_id = int(tf.argmax(votes))
        used[class_id] += 1
        panoptic = tf.where(mask, class_id * label_divisor + used[class_id], panoptic)
    return panoptic
