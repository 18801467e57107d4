"""Training targets of one label: classes, centre heatmap, centre offsets and their weights.

A label is runs of one id along its rows: some 20,000 of them where a street has two million pixels. Whatever is
summed or looked up is so for runs, and pixels are touched only to be written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.config import TargetConfig
from deeplab2_lite.data.center_heatmap import heatmap_of_centers
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.panoptic_losses import Targets

# Kinds of segments, in an order that makes each weight a comparison.
_VOID, _CROWD, _STUFF, _LARGE_INSTANCE, _SMALL_INSTANCE = range(5)
_KIND_BITS = 3

# Steps of runs of floats that do not change: one that float32 cannot hold at all, and one that it cannot tell
# from 0 beside a pixel's size, while float64 can beside 2^14 pixels.
_VANISHING_STEP, _NEGLIGIBLE_STEP = 2.0**-200, 2.0**-38


class _Runs(NamedTuple):
    """Maximal runs of one id along the rows of a label, in scan order; each int64 [runs], `segment` int32."""

    row: tf.Tensor
    column: tf.Tensor
    length: tf.Tensor
    segment: tf.Tensor


class _Segments(NamedTuple):
    """All pixels of one id: stuff, crowd, void or an instance.

    Attributes:
        semantic: int32 [segments].
        kind: int32 [segments].
        center: Mean (y, x), float64 [segments, 2].
    """

    semantic: tf.Tensor
    kind: tf.Tensor
    center: tf.Tensor

    @property
    def is_instance(self) -> tf.Tensor:
        """bool [segments]."""
        return self.kind >= _LARGE_INSTANCE


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
    size = tf.shape(panoptic)
    ids, runs = _find_runs(panoptic)
    segments = _measure(ids, runs, info, config)
    semantic, is_at_least = _paint(size, panoptic.shape[1], runs, segments, info)
    is_small = is_at_least(_SMALL_INSTANCE)
    centers = tf.boolean_mask(segments.center, segments.is_instance)
    targets = Targets(
        semantic=semantic,
        semantic_weight=is_at_least(_CROWD) - is_small + config.small_instance_weight * is_small,
        center_heatmap=heatmap_of_centers(size, centers, config.center_sigma),
        center_weight=is_at_least(_STUFF),
        center_offset=_center_offset(size, runs, segments),
        offset_weight=is_at_least(_LARGE_INSTANCE),
    )
    shape = panoptic.shape
    return Targets(*(tf.ensure_shape(t, [*shape, 2] if t is targets.center_offset else shape) for t in targets))


def thing_ranks(info: DatasetInfo) -> np.ndarray:
    """Numbers the thing classes of a label space.

    Args:
        info: The label space.

    Returns:
        The place of each class among the things, -1 of stuff; int32 [classes + 1], where the last stands for void.
    """
    ranks = np.full(info.num_classes + 1, -1, np.int32)
    ranks[list(info.thing_ids)] = np.arange(len(info.thing_ids))
    return ranks


def _find_runs(panoptic: tf.Tensor) -> tuple[tf.Tensor, _Runs]:
    """Returns the ids of the label, int32 [segments], and its runs."""
    size = tf.shape(panoptic)
    flat = tf.reshape(panoptic, [-1])
    changes = tf.concat([[True], tf.not_equal(flat[1:], flat[:-1])], axis=0)
    is_start = tf.reshape(changes, size) | tf.equal(tf.range(size[1]), 0)
    start = tf.reshape(tf.where(tf.reshape(is_start, [-1])), [-1])
    end = tf.concat([start[1:], [tf.size(flat, tf.int64)]], axis=0)
    width = tf.cast(size[1], tf.int64)
    row = start // width
    ids, segment = tf.unique(tf.gather(flat, start))
    return ids, _Runs(row, start - row * width, end - start, segment)


def _measure(ids: tf.Tensor, runs: _Runs, info: DatasetInfo, config: TargetConfig) -> _Segments:
    count = tf.size(ids)
    # Sums of coordinates can pass 2^31. Twice the mean of a run's columns is a whole number.
    twice = tf.stack([2 * runs.row, 2 * runs.column + runs.length - 1], axis=1) * runs.length[:, tf.newaxis]
    area = tf.math.unsorted_segment_sum(runs.length, runs.segment, count)
    sums = tf.math.unsorted_segment_sum(twice, runs.segment, count)
    center = tf.cast(sums, tf.float64) / tf.cast(2 * area, tf.float64)[:, tf.newaxis]

    semantic = ids // info.label_divisor
    is_thing = tf.gather(thing_ranks(info), tf.minimum(semantic, info.num_classes)) >= 0
    is_instance = is_thing & tf.not_equal(ids % info.label_divisor, 0)
    other = tf.where(tf.equal(semantic, info.ignore_label), _VOID, tf.where(is_thing, _CROWD, _STUFF))
    instance = tf.where(area < config.small_instance_area, _SMALL_INSTANCE, _LARGE_INSTANCE)
    return _Segments(semantic, tf.where(is_instance, instance, other), center)


def _paint(
    size: tf.Tensor, static_width: int | None, runs: _Runs, segments: _Segments, info: DatasetInfo
) -> tuple[tf.Tensor, Callable[[int], tf.Tensor]]:
    """Returns the class of each pixel, and a function that says in 0.0 and 1.0 where its kind is at least so high."""
    # Kind and class from the highest bits of a code to the lowest. It is the lower half of the integers of a range,
    # which count in the upper half.
    classes = 1 << info.ignore_label.bit_length()
    is_short = classes << _KIND_BITS <= 2**16 and static_width is not None and static_width < 2**15
    code_type, range_type = (tf.uint16, tf.int32) if is_short else (tf.int32, tf.int64)
    kind, semantic, length = (tf.cast(part, range_type) for part in (segments.kind, segments.semantic, runs.length))
    start = tf.gather(kind * classes + semantic, runs.segment)
    step = tf.fill(tf.shape(start), tf.constant(1 << 8 * code_type.size, range_type))
    code = tf.reshape(tf.cast(_ranges(start, start + step * length, step), code_type), size)
    return tf.cast(code & (classes - 1), tf.int32), lambda kind: tf.cast(code >= kind * classes, tf.float32)


def _center_offset(size: tf.Tensor, runs: _Runs, segments: _Segments) -> tf.Tensor:
    is_instance = tf.gather(segments.is_instance, runs.segment)
    center = tf.gather(segments.center, runs.segment)
    dy = _offsets(center[:, 0], runs.row, _NEGLIGIBLE_STEP, runs.length, is_instance)
    dx = _offsets(center[:, 1], runs.column, -1.0, runs.length, is_instance)
    # Complex numbers interleave both ten times as fast as tf.stack.
    return tf.reshape(tf.bitcast(tf.complex(dy, dx), tf.float32), tf.concat([size, [2]], axis=0))


def _offsets(
    center: tf.Tensor, coordinate: tf.Tensor, step: float, length: tf.Tensor, is_instance: tf.Tensor
) -> tf.Tensor:
    """Writes `center - coordinate` and its steps along each run, 0 in runs of no instance; float32 [pixels]."""
    start = (center - tf.cast(coordinate, tf.float64)) * tf.cast(is_instance, tf.float64)
    step = tf.gather(tf.constant([_VANISHING_STEP, step], tf.float64), tf.cast(is_instance, tf.int32))
    # float64 keeps the rounding of each step far below float32's, and half a step keeps the limit clear of it.
    limit = start + step * (tf.cast(length, tf.float64) - 0.5)
    return tf.cast(_ranges(start, limit, step), tf.float32)


def _ranges(start: tf.Tensor, limit: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """Joins the ranges [start, limit) of each run. No other op repeats values so fast."""
    return tf.raw_ops.RaggedRange(starts=start, limits=limit, deltas=step, Tsplits=tf.int64).rt_dense_values
