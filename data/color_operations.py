"""Colour operations of AutoAugment (Cubuk et al., arXiv 1805.09501, Table 6) that move no pixel.

Each is what Pillow's function of that name does to an image of whole grey levels; where Pillow truncates a
blend to whole levels, the result here keeps its fraction. All take and give float32 [height, width, 3].
"""

from __future__ import annotations

import tensorflow as tf


def auto_contrast(levels: tf.Tensor) -> tf.Tensor:
    """Stretches each channel from its least and greatest value to 0..255; one of a single value stays.

    Args:
        levels: Whole numbers in 0..255, float32 [height, width, 3].

    Returns:
        float32 [height, width, 3] in 0..255.
    """
    low, high = tf.reduce_min(levels, (0, 1)), tf.reduce_max(levels, (0, 1))
    # Multiplied first, so that the greatest value becomes 255 and no more.
    stretched = (levels - low) * 255.0 / tf.maximum(high - low, 1.0)
    return tf.where(high > low, stretched, levels)


def equalize(levels: tf.Tensor) -> tf.Tensor:
    """Maps each channel so that its histogram is as even as whole levels allow.

    Args:
        levels: Whole numbers in 0..255, float32 [height, width, 3].

    Returns:
        Whole numbers in 0..255, float32 [height, width, 3].
    """
    # One histogram of 3 x 256 bins, the channels one after the other.
    bins = tf.cast(levels, tf.int32) + tf.constant([0, 256, 512])
    counts = tf.reshape(tf.math.bincount(tf.reshape(bins, [-1]), minlength=768, maxlength=768), [3, 256])
    pixels = tf.reduce_sum(counts[0])
    brightest = tf.gather(counts, tf.cast(tf.reduce_max(levels, (0, 1)), tf.int32), batch_dims=1)
    step = ((pixels - brightest) // 255)[:, tf.newaxis]
    below = tf.cumsum(counts, axis=1, exclusive=True)
    even = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    # Fewer than 255 pixels below the brightest level leave nothing to spread.
    table = tf.where(step > 0, even, tf.range(256))
    return tf.gather(tf.cast(tf.reshape(table, [-1]), tf.float32), bins)


def invert(levels: tf.Tensor) -> tf.Tensor:
    """Makes the negative: 255 - level.

    Args:
        levels: Whole numbers in 0..255, float32 [height, width, 3].

    Returns:
        Likewise.
    """
    return 255.0 - levels


def posterize(levels: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Keeps the highest bits of each level and clears the others.

    Args:
        levels: Whole numbers in 0..255, float32 [height, width, 3].
        bits: How many, a whole number in 1..8; float32 scalar.

    Returns:
        Whole numbers in 0..255, float32 [height, width, 3].
    """
    step = tf.cast(tf.bitwise.left_shift(1, 8 - tf.cast(bits, tf.int32)), tf.float32)
    return tf.floor(levels / step) * step


def solarize(levels: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Makes the negative of the levels from a threshold up.

    Args:
        levels: Whole numbers in 0..255, float32 [height, width, 3].
        threshold: The least level that changes, float32 scalar; 256 changes none.

    Returns:
        Whole numbers in 0..255, float32 [height, width, 3].
    """
    return tf.where(levels < threshold, levels, 255.0 - levels)


def color(levels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Moves colours away from grey, or towards it.

    Args:
        levels: Whole numbers in 0..255, float32 [height, width, 3].
        factor: 0 gives the grey image, 1 the image, more than 1 stronger colours; float32 scalar.

    Returns:
        float32 [height, width, 3] in 0..255.
    """
    return _blend(_grey(levels), levels, factor)


def contrast(levels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Moves levels away from the mean grey of the image, or towards it.

    Args:
        levels: Whole numbers in 0..255, float32 [height, width, 3].
        factor: 0 gives an even grey, 1 the image, more than 1 more contrast; float32 scalar.

    Returns:
        float32 [height, width, 3] in 0..255.
    """
    grey = _grey(levels)
    # In integers: a float32 sum over an image is not exact.
    total, pixels = tf.reduce_sum(tf.cast(grey, tf.int64)), tf.size(grey, tf.int64)
    mean = (2 * total + pixels) // (2 * pixels)
    return _blend(tf.cast(mean, tf.float32), levels, factor)


def brightness(levels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies levels.

    Args:
        levels: Whole numbers in 0..255, float32 [height, width, 3].
        factor: 0 gives black, 1 the image, more than 1 a brighter one; float32 scalar.

    Returns:
        float32 [height, width, 3] in 0..255.
    """
    return _blend(tf.constant(0.0), levels, factor)


def sharpness(levels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Moves levels away from those of a smoothed image, or towards them.

    Smoothing takes 3x3 pixels, the middle one five times; the outermost pixels stay as they are.

    Args:
        levels: Whole numbers in 0..255, float32 [height, width, 3].
        factor: 0 gives the smoothed image, 1 the image, more than 1 a sharper one; float32 scalar.

    Returns:
        float32 [height, width, 3] in 0..255.
    """
    height, width = tf.unstack(tf.shape(levels)[:2])
    padded = tf.pad(levels, [[1, 1], [1, 1], [0, 0]])
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    smooth = tf.floor((sums + 4.0 * levels) / 13.0 + 0.5)
    row, column = tf.range(height)[:, tf.newaxis], tf.range(width)[tf.newaxis, :]
    is_inside = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    return _blend(tf.where(is_inside[:, :, tf.newaxis], smooth, levels), levels, factor)


def _grey(levels: tf.Tensor) -> tf.Tensor:
    """Returns the luma of ITU-R 601 in whole levels, [height, width, 1]."""
    # Sums of these weights by levels are whole numbers below 2**24: exact, with Pillow's rounding.
    weights = tf.constant([19595.0, 38470.0, 7471.0])
    weighted = levels * weights
    luma = weighted[:, :, :1] + weighted[:, :, 1:2] + weighted[:, :, 2:]
    return tf.floor((luma + 32768.0) / 65536.0)


def _blend(origin: tf.Tensor, levels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(origin + factor * (levels - origin), 0.0, 255.0)
