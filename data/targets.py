"""Training targets of one label: classes, centre heatmap, centre offsets and their weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.config import TargetConfig
from deeplab2_lite.dataset_info import DatasetInfo


class Targets(NamedTuple):
    """What the network is to learn of one image, at the resolution of its label.

    Batches put a leading axis before each.

    Attributes:
        semantic: Class ids, void is the data set's `ignore_label`; int32 [height, width].
        semantic_weight: 0 on void, `small_instance_weight` on small instances, else 1; float32 [height, width].
        center_heatmap: Gaussians of peak 1 round the centres; float32 [height, width].
        center_weight: 0 on void and crowd, else 1; float32 [height, width].
        center_offset: From each pixel of an instance to its centre, (dy, dx) in pixels, 0 elsewhere;
            float32 [height, width, 2].
        offset_weight: 1 on the pixels of instances, else 0; float32 [height, width].
    """

    semantic: tf.Tensor
    semantic_weight: tf.Tensor
    center_heatmap: tf.Tensor
    center_weight: tf.Tensor
    center_offset: tf.Tensor
    offset_weight: tf.Tensor


class _Instances(NamedTuple):
    """The instances of a label.

    Attributes:
        pixels: (y, x) of all their pixels, int64 [pixels, 2].
        segment: The instance of each such pixel, int32 [pixels].
        area: Pixels of each, int64 [instances].
        center: Mean (y, x) of each, float64 [instances, 2].
    """

    pixels: tf.Tensor
    segment: tf.Tensor
    area: tf.Tensor
    center: tf.Tensor


def make_targets(panoptic: tf.Tensor, info: DatasetInfo, config: TargetConfig) -> Targets:
    """Makes the training targets of a label after scaling and cropping (paper section 3.1).

    A thing class with instance id 0 is crowd: it has a class, but no centre and no offset. The centre of
    an instance is the mean of its visible pixels; its Gaussian stands on the pixel floor(centre + 1/2)
    and ends `int(3 * sigma) + 1` pixels from it on each axis; Gaussians that overlap take the maximum.

    Args:
        panoptic: Panoptic ids, int32 [height, width], of classes in `info` or void.
        info: The label space.
        config: Width of the Gaussian, and what is a small instance.

    Returns:
        The targets, in pixels of `panoptic`.
    """
    semantic = panoptic // info.label_divisor
    is_void = tf.equal(semantic, info.ignore_label)
    is_thing = tf.gather(_thing_table(info), tf.minimum(semantic, info.num_classes))
    is_instance = is_thing & tf.not_equal(panoptic % info.label_divisor, 0)
    instances = _find_instances(panoptic, is_instance)
    without_center = is_void | (is_thing & ~is_instance)
    size = tf.shape(panoptic)
    return Targets(
        semantic=semantic,
        semantic_weight=_semantic_weight(is_void, instances, config),
        center_heatmap=tf.ensure_shape(_center_heatmap(size, instances.center, config.center_sigma), panoptic.shape),
        center_weight=tf.cast(~without_center, tf.float32),
        center_offset=tf.ensure_shape(_center_offset(size, instances), [*panoptic.shape, 2]),
        offset_weight=tf.cast(is_instance, tf.float32),
    )


def _thing_table(info: DatasetInfo) -> tf.Tensor:
    # One entry more than classes stands for void.
    return tf.constant([c.isthing for c in info.classes] + [False])


def _find_instances(panoptic: tf.Tensor, is_instance: tf.Tensor) -> _Instances:
    pixels = tf.where(is_instance)
    ids, segment = tf.unique(tf.gather_nd(panoptic, pixels))
    count = tf.size(ids)
    # Sums of coordinates can pass 2^31.
    area = tf.math.unsorted_segment_sum(tf.ones_like(segment, tf.int64), segment, count)
    sums = tf.math.unsorted_segment_sum(pixels, segment, count)
    center = tf.cast(sums, tf.float64) / tf.cast(area, tf.float64)[:, tf.newaxis]
    return _Instances(pixels, segment, area, center)


def _semantic_weight(is_void: tf.Tensor, instances: _Instances, config: TargetConfig) -> tf.Tensor:
    is_small = instances.area < config.small_instance_area
    weight = tf.where(is_small, config.small_instance_weight, 1.0)
    labelled = tf.cast(~is_void, tf.float32)
    return tf.tensor_scatter_nd_update(labelled, instances.pixels, tf.gather(weight, instances.segment))


def _center_offset(size: tf.Tensor, instances: _Instances) -> tf.Tensor:
    offset = tf.gather(instances.center, instances.segment) - tf.cast(instances.pixels, tf.float64)
    return tf.scatter_nd(
        instances.pixels, tf.cast(offset, tf.float32), tf.cast(tf.concat([size, [2]], axis=0), tf.int64)
    )


def _center_heatmap(size: tf.Tensor, center: tf.Tensor, sigma: float) -> tf.Tensor:
    radius = int(3 * sigma) + 1
    reach = np.arange(-radius, radius + 1)
    squared_distance = reach[:, np.newaxis] ** 2 + reach**2
    gaussian = np.exp(-squared_distance / (2 * sigma**2)).astype(np.float32).ravel()
    # On a canvas with a margin every window is whole; the margin is cut off at the end.
    height, width = size[0], size[1]
    canvas_width = width + 2 * radius
    window = tf.reshape((reach[:, np.newaxis] + radius) * canvas_width + (reach + radius), [-1])
    pixel = tf.cast(tf.floor(center + 0.5), tf.int32)
    corner = pixel[:, 0] * canvas_width + pixel[:, 1]
    canvas = tf.tensor_scatter_nd_max(
        tf.zeros([(height + 2 * radius) * canvas_width]),
        tf.reshape(corner[:, tf.newaxis] + window, [-1, 1]),
        tf.tile(gaussian, tf.shape(corner)),
    )
    canvas = tf.reshape(canvas, [-1, canvas_width])
    return canvas[radius : radius + height, radius : radius + width]
