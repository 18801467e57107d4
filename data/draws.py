"""Random numbers that follow from a seed pair and from what they are for, and from nothing else."""

from __future__ import annotations

import enum

import tensorflow as tf

# The same generator on every device: the default one depends on it.
_GENERATOR = "philox"


class Draw(enum.IntEnum):
    """What a random number is for; each has its own stream, which no other setting moves."""

    FLIP_LEFT_RIGHT = 0
    FLIP_UP_DOWN = 1
    ROTATION = 2
    SCALE = 3
    CROP_Y = 4
    CROP_X = 5
    BRIGHTNESS = 6
    CONTRAST = 7
    SATURATION = 8
    HUE = 9
    CROP_WINDOW = 10
    SUB_POLICY = 11
    FIRST_OPERATION = 12
    SECOND_OPERATION = 13
    ROTATION_ANGLE = 14
    ELASTIC = 15


def draw_integer(seed: tf.Tensor, draw: Draw, count: int | tf.Tensor) -> tf.Tensor:
    """Draws from 0..count-1.

    Args:
        seed: A pair of integers, int64 [2].
        draw: What for.
        count: How many values there are.

    Returns:
        int32 scalar.
    """
    return tf.random.stateless_uniform([], stream(seed, draw), 0, count, tf.int32, _GENERATOR)


def draw_uniform(seed: tf.Tensor, draw: Draw, low: float, high: float, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Draws a number from an interval.

    Args:
        seed: A pair of integers, int64 [2].
        draw: What for.
        low: Smallest value.
        high: Upper end, which is never drawn.
        dtype: Of the result.

    Returns:
        A scalar.
    """
    return tf.random.stateless_uniform([], stream(seed, draw), low, high, dtype, _GENERATOR)


def draw_normal(seed: tf.Tensor, draw: Draw, shape: list[int]) -> tf.Tensor:
    """Draws numbers of mean 0 and standard deviation 1.

    Args:
        seed: A pair of integers, int64 [2].
        draw: What for.
        shape: Of the result.

    Returns:
        float32 [*shape].
    """
    return tf.random.stateless_normal(shape, stream(seed, draw), alg=_GENERATOR)


def stream(seed: tf.Tensor, draw: Draw) -> tf.Tensor:
    """Returns the seed of a purpose's own random numbers, int64 [2]."""
    return tf.random.experimental.stateless_fold_in(seed, tf.constant(int(draw), tf.int64), alg=_GENERATOR)
