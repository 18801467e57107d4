"""How an image of any size becomes the network's input: the one rule of evaluation, prediction and export."""

from __future__ import annotations

import tensorflow as tf

# The middle of 0..255, which the network's normalization maps to 0.
IMAGE_PADDING = 127.5


def longest_side_size(size: tf.Tensor, longest_side: int | None) -> tf.Tensor:
    """Returns the size of an image whose longer side is resized to `longest_side` (paper section 4).

    Args:
        size: Height and width, int32 [2].
        longest_side: Pixels of the longer side after resizing; None keeps the size.

    Returns:
        Height and width, int32 [2]; the shorter side is rounded half up, and at least 1.
    """
    if longest_side is None:
        return size
    size = tf.cast(size, tf.int64)
    longest = tf.reduce_max(size)
    # floor(size * longest_side / longest + 1/2) without rounding errors.
    return tf.cast(tf.maximum((2 * size * longest_side + longest) // (2 * longest), 1), tf.int32)


def resize_longest_side(images: tf.Tensor, longest_side: int | None) -> tf.Tensor:
    """Resizes images bilinearly, without antialiasing, as training images are.

    Args:
        images: [batch, height, width, 3], any type, 0..255.
        longest_side: Pixels of the longer side; None leaves the images as they are.

    Returns:
        float32 [batch, new height, new width, 3].
    """
    images = tf.cast(images, tf.float32)
    if longest_side is None:
        return images
    return tf.image.resize(images, longest_side_size(tf.shape(images)[1:3], longest_side))


def pad_to_stride(images: tf.Tensor, output_stride: int) -> tf.Tensor:
    """Pads images at the bottom and right with grey to the next multiple of the output stride plus 1.

    Args:
        images: float32 [batch, height, width, 3] in 0..255.
        output_stride: Of the network.

    Returns:
        float32 [batch, k * output_stride + 1, l * output_stride + 1, 3]; static if the input is.
    """
    static = images.shape[1:3]
    size = static.as_list() if static.is_fully_defined() else tf.unstack(tf.shape(images)[1:3])
    # -(-a // b) rounds up; Python integers and tensors alike.
    bottom, right = (-(-(side - 1) // output_stride) * output_stride + 1 - side for side in size)
    return tf.pad(images, [[0, 0], [0, bottom], [0, right], [0, 0]], constant_values=IMAGE_PADDING)


def grey_outside(images: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Puts grey where images in a batch of fixed size hold padding.

    Args:
        images: float32 [batch, height, width, 3].
        sizes: int32 [batch, 2], height and width of each true image in the upper left corner.

    Returns:
        float32 [batch, height, width, 3].
    """
    rows = tf.range(tf.shape(images)[1])[None, :] < sizes[:, :1]
    columns = tf.range(tf.shape(images)[2])[None, :] < sizes[:, 1:]
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    return tf.where(inside, images, IMAGE_PADDING)
