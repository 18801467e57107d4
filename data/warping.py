"""Turning a training crop by any angle and bending it, in the same one sampling that scales it.

The middle of pixel i lies at i + 1/2, in the crop and in the source alike, as for `crop_resized`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, Size
from deeplab2_lite.data.draws import Draw, draw_uniform
from deeplab2_lite.data.elastic import draw_displacement


class Warp(NamedTuple):
    """How a crop is bent and turned.

    Attributes:
        angle: Radians, counter-clockwise as `tf.image.rot90`, about the middle of the crop; float64 scalar.
        displacement: How far from its own place each pixel of the crop looks, (dy, dx) in pixels of the crop
            before it is turned; float32 [2, crop_height, crop_width], or None for not at all.
    """

    angle: tf.Tensor
    displacement: tf.Tensor | None


class Warped(NamedTuple):
    """A crop that was warped.

    Attributes:
        image: float32 [crop_height, crop_width, 3]; outside of the source it holds the source's mirror image.
        panoptic: int32 [crop_height, crop_width]; likewise.
        is_inside: Which pixels come from the source, bool [crop_height, crop_width].
    """

    image: tf.Tensor
    panoptic: tf.Tensor
    is_inside: tf.Tensor


def is_warping(config: AugmentationConfig) -> bool:
    """Tells whether crops are turned by any angle or bent at all."""
    return config.max_rotation > 0 or config.elastic.magnitude > 0


def draw_warp(seed: tf.Tensor, config: AugmentationConfig, crop_size: Size) -> Warp:
    """Draws how a crop is bent and turned.

    Args:
        seed: A pair of integers, such as (seed of the run, position in it); int64 [2].
        config: The largest angle, and the elastic displacement.
        crop_size: Height and width of the crop.

    Returns:
        The warp.
    """
    most = math.radians(config.max_rotation)
    angle = tf.zeros([], tf.float64)
    if most > 0:
        angle = draw_uniform(seed, Draw.ROTATION_ANGLE, -most, most, tf.float64)
    is_elastic = config.elastic.magnitude > 0
    return Warp(angle, draw_displacement(seed, config.elastic, crop_size) if is_elastic else None)


def crop_warped(
    image: tf.Tensor, panoptic: tf.Tensor, size: tf.Tensor, origin: tf.Tensor, crop_size: Size, warp: Warp
) -> Warped:
    """Cuts a window out of a resized image and label, bent and turned, sampling the source once.

    A pixel of the crop is displaced, turned about the middle of the window, and looks at that point of the resized
    image: bilinearly in the image (the outermost half pixel has the border's colour, as in `crop_resized`), and at
    the source pixel which the point lies in for the label.

    Args:
        image: [height, width, 3], uint8 or floating point.
        panoptic: int32 [height, width].
        size: Height and width to resize to, int32 [2].
        origin: First row and column of the window in the resized image, int32 [2]; the window may reach beyond it.
        crop_size: Height and width of the window.
        warp: How to bend and turn it.

    Returns:
        The crop, of static shape.
    """
    source = tf.shape(panoptic)
    rows, columns = _source_points(source, size, origin, crop_size, warp)
    height, width = (tf.cast(source[axis], tf.float32) for axis in (0, 1))
    is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    # Colour operations look at a crop as a whole: what is mirrored hardly changes an image's mean and histogram.
    rows, columns = _mirrored(rows, height), _mirrored(columns, width)
    return Warped(_bilinear(image, source, rows, columns), _nearest(panoptic, source, rows, columns), is_inside)


def _source_points(
    source: tf.Tensor, size: tf.Tensor, origin: tf.Tensor, crop_size: Size, warp: Warp
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where each pixel of the crop looks at in the source: rows and columns, each float32 [crop_height, crop_width]."""
    # Scalars in float64, so that a quarter turn is one.
    scale = tf.cast(source, tf.float64) / tf.cast(size, tf.float64)
    middle = scale * (tf.cast(origin, tf.float64) + tf.constant(crop_size, tf.float64) / 2)
    scale, middle, cosine, sine = (
        tf.cast(v, tf.float32) for v in (scale, middle, tf.cos(warp.angle), tf.sin(warp.angle))
    )
    down, right = (tf.range(length, dtype=tf.float32) + (0.5 - length / 2) for length in crop_size)
    down, right = down[:, tf.newaxis], right[tf.newaxis, :]
    if warp.displacement is not None:
        down, right = down + warp.displacement[0], right + warp.displacement[1]
    rows = (scale[0] * cosine) * down + (scale[0] * sine) * right + middle[0]
    columns = (scale[1] * cosine) * right - (scale[1] * sine) * down + middle[1]
    return rows, columns


def _mirrored(points: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Brings points into [0, length]: those a little outside by mirroring, those far outside to the border."""
    distances = tf.abs(points)
    return tf.clip_by_value(tf.minimum(distances, 2 * length - distances), 0.0, length)


def _bilinear(image: tf.Tensor, source: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    top, bottom, down = _neighbours(rows, source[0])
    left, right, across = _neighbours(columns, source[1])
    pixels = tf.reshape(image, [-1, 3])
    down, across = down[..., tf.newaxis], across[..., tf.newaxis]

    def row(first: tf.Tensor) -> tf.Tensor:
        before, after = (tf.cast(tf.gather(pixels, first + column), tf.float32) for column in (left, right))
        return before + across * (after - before)

    upper, lower = row(top * source[1]), row(bottom * source[1])
    return upper + down * (lower - upper)


def _neighbours(points: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The pixels whose middles lie before and after points, int32, and how far after the first these lie, float32."""
    last = tf.cast(length - 1, tf.float32)
    points = tf.clip_by_value(points - 0.5, 0.0, last)
    before = tf.floor(points)
    return tf.cast(before, tf.int32), tf.cast(tf.minimum(before + 1, last), tf.int32), points - before


def _nearest(panoptic: tf.Tensor, source: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    row, column = (
        tf.minimum(tf.cast(points, tf.int32), source[axis] - 1) for axis, points in enumerate((rows, columns))
    )
    return tf.gather(tf.reshape(panoptic, [-1]), row * source[1] + column)
