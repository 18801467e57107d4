"""Training targets of a batch of labels, made where the network is trained.

The host sends one int32 map instead of seven float maps. All shapes are static and every op compiles with XLA.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.config import TargetConfig
from deeplab2_lite.data.center_heatmap import heatmap_of_center_map
from deeplab2_lite.data.targets import thing_ranks
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.panoptic_losses import Targets


class _Means(NamedTuple):
    """Mean coordinates of all slots along one axis, in two parts that integers and float32 hold exactly.

    Attributes:
        floor: Its whole part, int32 [slots].
        fraction: The rest in [0, 1), float32 [slots].
        rounded: floor(mean + 1/2), int32 [slots].
    """

    floor: tf.Tensor
    fraction: tf.Tensor
    rounded: tf.Tensor


def make_targets_on_device(panoptic: tf.Tensor, info: DatasetInfo, config: TargetConfig) -> Targets:
    """Makes what `make_targets` makes, of a batch, on any device.

    Every pair of a thing class and an instance id has a slot for its sums, so that there is no limit on
    instances, and memory for `len(info.thing_ids) * info.label_divisor` slots an image.

    Args:
        panoptic: Panoptic ids, int32 [batch, height, width] of static shape, of classes in `info` or void.
        info: The label space.
        config: Width of the Gaussian, and what is a small instance.

    Returns:
        The targets with a leading batch axis; integers and weights equal those of `make_targets`, other floats
        up to float32's rounding.

    Raises:
        ValueError: The shape is not static.
    """
    if not panoptic.shape.is_fully_defined():
        raise ValueError(f"panoptic: expected a static shape, got {panoptic.shape}")
    semantic = panoptic // info.label_divisor
    rank = tf.gather(thing_ranks(info), tf.minimum(semantic, info.num_classes))
    instance_id = panoptic - semantic * info.label_divisor
    is_thing = rank >= 0
    is_instance = is_thing & tf.not_equal(instance_id, 0)
    is_void = tf.equal(semantic, info.ignore_label)

    batch, height, width = panoptic.shape
    slots = max(1, len(info.thing_ids)) * info.label_divisor
    image = tf.range(batch)[:, tf.newaxis]
    slot = image[..., tf.newaxis] * slots + rank * info.label_divisor + instance_id
    area, rows, columns = _measure(tf.where(is_instance, slot, -1), batch * slots)
    slot = tf.where(is_instance, slot, 0)

    is_small = is_instance & tf.gather(area < config.small_instance_area, slot)
    weight = tf.where(is_small, config.small_instance_weight, 1.0)
    dy = _offset(rows, slot, tf.range(height)[:, tf.newaxis])
    dx = _offset(columns, slot, tf.range(width))
    center = tf.reshape(image * height, [-1, 1]) + tf.reshape(rows.rounded, [batch, slots])
    center = tf.reshape(center, [-1]) * width + columns.rounded
    return Targets(
        semantic=semantic,
        semantic_weight=tf.where(is_void, 0.0, weight),
        center_heatmap=heatmap_of_center_map(
            tf.reshape(_mark(tf.where(area > 0, center, -1), batch * height * width), panoptic.shape),
            config.center_sigma,
        ),
        center_weight=tf.cast(~(is_void | (is_thing & ~is_instance)), tf.float32),
        center_offset=tf.where(is_instance[..., tf.newaxis], tf.stack([dy, dx], axis=-1), 0.0),
        offset_weight=tf.cast(is_instance, tf.float32),
    )


def _measure(slot: tf.Tensor, count: int) -> tuple[tf.Tensor, _Means, _Means]:
    """Returns the area and mean coordinates of each slot; pixels of slot -1 belong to none."""
    _, height, width = slot.shape
    # Coordinates from the middle on keep the sums of all but giant labels in 32 bits.
    sum_type = tf.int32 if height * width * (max(height, width) + 2) < 8 * 2**31 else tf.int64
    middle = (height // 2, width // 2)
    y = tf.range(height, dtype=sum_type)[:, tf.newaxis] - middle[0]
    x = tf.range(width, dtype=sum_type) - middle[1]
    addends = [tf.broadcast_to(values, slot.shape) for values in (tf.ones([], sum_type), y, x)]
    sums = tf.math.unsorted_segment_sum(tf.stack(addends, axis=-1), slot, count)
    area, *coordinates = tf.unstack(sums, axis=-1)
    rows, columns = (_mean(values, area, origin) for values, origin in zip(coordinates, middle, strict=True))
    return area, rows, columns


def _mean(sums: tf.Tensor, area: tf.Tensor, origin: int) -> _Means:
    divisor = tf.maximum(area, 1)
    floor = sums // divisor
    rest = sums - floor * divisor
    fraction = tf.cast(rest, tf.float32) / tf.cast(divisor, tf.float32)
    whole = tf.cast(floor, tf.int32) + origin
    return _Means(whole, fraction, whole + tf.cast(2 * rest >= divisor, tf.int32))


def _offset(means: _Means, slot: tf.Tensor, coordinate: tf.Tensor) -> tf.Tensor:
    # Their difference is exact, so that only the sum is rounded.
    return tf.cast(tf.gather(means.floor, slot) - coordinate, tf.float32) + tf.gather(means.fraction, slot)


def _mark(index: tf.Tensor, count: int) -> tf.Tensor:
    """Returns which of `count` places any index names, bool [count]; -1 names none."""
    return tf.math.unsorted_segment_sum(tf.ones_like(index), index, count) > 0
