"""Refusing malformed requests within the graph, in one line, before memory is taken for them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def refuse_unless(condition: tf.Tensor, *message: str | tf.Tensor) -> tf.Operation:
    """Stops the graph where a condition does not hold.

    Args:
        condition: bool [].
        *message: Parts of the message: text, or numbers [] that are put in.

    Returns:
        The operation, which whatever must not run without the condition depends on.
    """
    return tf.debugging.Assert(condition, [tf.strings.join([_text(part) for part in message])])


def checked_images(images: tf.Tensor, max_side: int | None) -> tf.Tensor:
    """Passes on a batch of images, unless it is none.

    Args:
        images: uint8 [batch, height, width, 3].
        max_side: The most pixels of a side; None takes any.

    Returns:
        The same.
    """
    shape, text = _shape_at_run_time(images)
    # As many numbers as are needed, whatever comes.
    batch, height, width, channels = tf.unstack(tf.concat([shape, tf.zeros([4], tf.int32)], 0)[:4], num=4)
    is_batch = tf.equal(tf.size(shape), 4) & tf.equal(channels, 3)
    checks = [
        refuse_unless(is_batch, "images: expected uint8 [batch, height, width, 3], got ", text),
        refuse_unless(batch > 0, "images: an empty batch; expected at least one image"),
        refuse_unless(tf.minimum(height, width) > 0, "images: an image without pixels, ", text),
    ]
    if max_side is not None:
        checks.append(_refuse_larger("images", height, width, max_side))
    with tf.control_dependencies(checks):
        return tf.identity(images)


def checked_list(values: tf.Tensor, what: str) -> tf.Tensor:
    """Passes on a batch of strings, unless it is of another rank.

    Args:
        values: string [batch].
        what: Name of the input, for messages.

    Returns:
        The same.
    """
    shape, text = _shape_at_run_time(values)
    check = refuse_unless(tf.equal(tf.size(shape), 1), what, ": expected strings [batch], got ", text)
    with tf.control_dependencies([check]):
        return tf.identity(values)


def checked_size(size: tf.Tensor, max_side: int | None, name: str | tf.Tensor) -> tf.Tensor:
    """Passes on the size of an image, unless it is too large or nothing.

    Args:
        size: Height and width, int32 [2].
        max_side: The most pixels of a side; None takes any.
        name: Of the image, for messages.

    Returns:
        The same.
    """
    height, width = tf.unstack(size)
    checks = [refuse_unless(tf.reduce_min(size) > 0, name, ": an image without pixels")]
    if max_side is not None:
        checks.append(_refuse_larger(name, height, width, max_side))
    with tf.control_dependencies(checks):
        return tf.identity(size)


def checked_sizes(sizes: tf.Tensor, what: str) -> tf.Tensor:
    """Passes on the sizes of a batch, unless it is empty or they differ.

    Args:
        sizes: Heights and widths, int32 [batch, 2].
        what: Of which input they are, for messages.

    Returns:
        The same.
    """
    with tf.control_dependencies([refuse_unless(tf.shape(sizes)[0] > 0, what, ": an empty batch; expected an image")]):
        sizes = tf.identity(sizes)
    first, differs = sizes[0], tf.reduce_any(sizes != sizes[:1], axis=1)
    # The first that differs; the first of all if none does.
    position = tf.reduce_min(tf.concat([tf.cast(tf.where(differs)[:, 0], tf.int32), [tf.shape(sizes)[0]]], 0))
    other = sizes[tf.minimum(position, tf.shape(sizes)[0] - 1)]
    message = ["the images of a batch must have one size; ", *_size_text(first), " and ", *_size_text(other), " pixels"]
    with tf.control_dependencies([refuse_unless(~tf.reduce_any(differs), what, ": ", *message)]):
        return tf.identity(sizes)


def _refuse_larger(name: str | tf.Tensor, height: tf.Tensor, width: tf.Tensor, max_side: int) -> tf.Operation:
    size = _size_text(tf.stack([height, width]))
    limit = f" pixels (height x width); this model takes sides of {max_side} at most"
    return refuse_unless(tf.maximum(height, width) <= max_side, name, ": ", *size, limit)


def _size_text(size: tf.Tensor) -> Sequence[str | tf.Tensor]:
    return size[0], " x ", size[1]


def _text(part: str | tf.Tensor) -> str | tf.Tensor:
    return part if isinstance(part, str) or part.dtype == tf.string else tf.strings.as_string(part)


def _shape_at_run_time(tensor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a shape, and its text."""
    # A signature's shape is a promise that servers do not keep. Behind this operation neither tracing nor TensorFlow's
    # optimizer takes it for granted.
    shape = tf.shape(tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=tf.TensorShape(None)))
    return shape, tf.strings.join(["[", tf.strings.reduce_join(tf.strings.as_string(shape), separator=", "), "]"])
