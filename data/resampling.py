"""Resizing and cropping an image and its label in one go, on one sampling grid."""

from __future__ import annotations

import tensorflow as tf


def crop_resized(
    image: tf.Tensor, panoptic: tf.Tensor, size: tf.Tensor, origin: tf.Tensor, crop: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts a window out of a resized image and label, sampling the window's pixels alone.

    Pixel i of n output pixels looks at (i + 1/2) * m / n - 1/2 of the m input pixels, as `tf.image.resize` does:
    bilinearly in the image, without antialiasing, and at the pixel which that point lies in for the label.

    Args:
        image: [height, width, 3], uint8 or floating point.
        panoptic: int32 [height, width].
        size: Height and width to resize to, int32 [2].
        origin: First row and column of the window in the resized image, int32 [2].
        crop: Height and width of the window, int32 [2]; it lies inside the resized image.

    Returns:
        The image, float32 [crop_height, crop_width, 3], and the label, int32 [crop_height, crop_width].
    """
    source = tf.shape(panoptic)

    def sample() -> tuple[tf.Tensor, tf.Tensor]:
        return _interpolated_window(image, source, size, origin, crop), _nearest_window(
            panoptic, source, size, origin, crop
        )

    def cut() -> tuple[tf.Tensor, tf.Tensor]:
        window = tf.slice(image, tf.concat([origin, [0]], 0), tf.concat([crop, [3]], 0))
        return tf.cast(window, tf.float32), tf.slice(panoptic, origin, crop)

    # At its own size sampling finds each pixel as it is, many times slower.
    return tf.cond(tf.reduce_all(tf.equal(size, source)), cut, sample)


def resize_window(image: tf.Tensor, origin: tf.Tensor, size: tf.Tensor, target: tuple[int, int]) -> tf.Tensor:
    """Cuts a window out of an image and resizes it bilinearly, with antialiasing.

    Args:
        image: [height, width, 3], uint8 or floating point.
        origin: First row and column of the window, int32 [2].
        size: Its height and width, int32 [2].
        target: Height and width to resize to.

    Returns:
        float32 [*target, 3].
    """
    window = tf.slice(image, tf.concat([origin, [0]], 0), tf.concat([size, [3]], 0))
    return tf.image.resize(window, target, antialias=True)


def pad_bottom_right(tensor: tf.Tensor, size: tuple[int, int], value: float) -> tf.Tensor:
    """Fills a map up to a static size.

    Args:
        tensor: [height, width, ...], no larger than `size`.
        size: Height and width of the result.
        value: What to fill with.

    Returns:
        The map, [*size, ...], in the upper left corner of the result.
    """
    missing = tf.constant(size, tf.int32) - tf.shape(tensor)[:2]
    paddings = [[0, missing[0]], [0, missing[1]]] + [[0, 0]] * (tensor.shape.rank - 2)
    padded = tf.pad(tensor, paddings, constant_values=tf.cast(value, tensor.dtype))
    return tf.ensure_shape(padded, [*size, *tensor.shape[2:]])


def _interpolated_window(
    image: tf.Tensor, source: tf.Tensor, size: tf.Tensor, origin: tf.Tensor, crop: tf.Tensor
) -> tf.Tensor:
    # Both axes are sampled as rows of memory, between two transpositions: sampling columns takes several times as long.
    rows = _interpolated_rows(tf.reshape(image, [source[0], -1]), source[0], size[0], origin[0], crop[0])
    columns = tf.reshape(tf.transpose(rows), [source[1], -1])
    columns = _interpolated_rows(columns, source[1], size[1], origin[1], crop[1])
    return tf.reshape(tf.transpose(tf.reshape(columns, [3 * crop[1], crop[0]])), [crop[0], crop[1], 3])


def _interpolated_rows(
    rows: tf.Tensor, source: tf.Tensor, size: tf.Tensor, first: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
    """Resizes [source, length] to [size, length], of which it computes `count` rows from the `first` on."""
    # Unlike a resize followed by a slice, this never computes the rows that the crop drops.
    return tf.raw_ops.ScaleAndTranslate(
        images=rows[tf.newaxis, :, tf.newaxis],
        size=tf.stack([count, 1]),
        scale=tf.stack([tf.cast(size / source, tf.float32), 1.0]),
        translation=tf.stack([-tf.cast(first, tf.float32), 0.0]),
        kernel_type="triangle",
        antialias=False,
    )[0, :, 0]


def _nearest_window(
    panoptic: tf.Tensor, source: tf.Tensor, size: tf.Tensor, origin: tf.Tensor, crop: tf.Tensor
) -> tf.Tensor:
    rows, columns = (_nearest(source[axis], size[axis], origin[axis], crop[axis]) for axis in (0, 1))
    # As above.
    return tf.transpose(tf.gather(tf.transpose(tf.gather(panoptic, rows)), columns))


def _nearest(source: tf.Tensor, size: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    # floor((i + 1/2) * source / size) in integers, so that no pixel is off by rounding.
    source, size, position = (tf.cast(v, tf.int64) for v in (source, size, first + tf.range(count)))
    return (2 * position + 1) * source // (2 * size)
