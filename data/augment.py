"""Random scale, crop, flip, rotation and colour jitter of a training image and its label.

Every draw is a function of a seed pair alone, so that an image at a given position of the training run
always looks the same, whatever ran before it and on however many threads.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, DataConfig, PhotometricConfig
from deeplab2_lite.data.resampling import crop_resized, pad_bottom_right
from deeplab2_lite.preprocessing import IMAGE_PADDING, longest_side_size

# The same generator on every device: the default one depends on it.
_GENERATOR = "philox"


class Augmented(NamedTuple):
    """A training crop.

    Attributes:
        image: RGB in 0..255, float32 [crop_height, crop_width, 3].
        panoptic: Panoptic ids, int32 [crop_height, crop_width].
    """

    image: tf.Tensor
    panoptic: tf.Tensor


class _Draw(enum.IntEnum):
    """What a random number is for; each has its own stream."""

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


def augment(image: tf.Tensor, panoptic: tf.Tensor, seed: tf.Tensor, config: DataConfig, void_id: int) -> Augmented:
    """Makes a training crop of an image (paper section 4).

    The image is mirrored and turned, resized once (longest side and random scale together, bilinearly; the
    label by nearest neighbour on the same grid), cropped at a place drawn uniformly, and jittered. A crop
    that is larger than the image is filled up at the bottom and right: 127.5 in the image, void in the label.

    Args:
        image: RGB, uint8 [height, width, 3].
        panoptic: Panoptic ids, int32 [height, width].
        seed: A pair of integers, such as (seed of the run, position in it); int64 [2].
        config: Crop size, longest side and augmentation.
        void_id: Panoptic id of void.

    Returns:
        The crop, of static shape.
    """
    image, panoptic = _mirror_and_turn(image, panoptic, seed, config.augmentation)
    size = longest_side_size(tf.shape(image)[:2], config.longest_side)
    size = _scaled_size(size, _draw_scale(seed, config.augmentation))
    crop = tf.constant(config.crop_size, tf.int32)
    room = tf.maximum(size - crop, 0)
    origin = tf.stack([_integer(seed, _Draw.CROP_Y, room[0] + 1), _integer(seed, _Draw.CROP_X, room[1] + 1)])
    image, panoptic = crop_resized(image, panoptic, size, origin, tf.minimum(size, crop))
    image = _jitter(image, seed, config.augmentation.photometric)
    return Augmented(
        pad_bottom_right(image, config.crop_size, IMAGE_PADDING), pad_bottom_right(panoptic, config.crop_size, void_id)
    )


def _mirror_and_turn(
    image: tf.Tensor, panoptic: tf.Tensor, seed: tf.Tensor, config: AugmentationConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    # Before the crop, so that the padding is always at the bottom and right, as in inference.
    label = panoptic[:, :, tf.newaxis]
    for wanted, draw, axis in (
        (config.flip_left_right, _Draw.FLIP_LEFT_RIGHT, 1),
        (config.flip_up_down, _Draw.FLIP_UP_DOWN, 0),
    ):
        if wanted:
            axes = tf.where(tf.range(3) == axis, tf.equal(_integer(seed, draw, 2), 1), False)
            image, label = (tf.raw_ops.Reverse(tensor=t, dims=axes) for t in (image, label))
    if config.rotate_90:
        turns = _integer(seed, _Draw.ROTATION, 4)
        image, label = tf.image.rot90(image, turns), tf.image.rot90(label, turns)
    return image, label[:, :, 0]


def _draw_scale(seed: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    if config.scale_step == 0:
        return _uniform(seed, _Draw.SCALE, config.min_scale, config.max_scale, tf.float64)
    # The slack keeps a maximum that is a whole number of steps away but for rounding.
    steps = math.floor((config.max_scale - config.min_scale) / config.scale_step + 1e-6)
    scales = [config.min_scale + i * config.scale_step for i in range(steps + 1)]
    return tf.gather(tf.constant(scales, tf.float64), _integer(seed, _Draw.SCALE, len(scales)))


def _scaled_size(size: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    scaled = tf.cast(tf.floor(tf.cast(size, tf.float64) * scale + 0.5), tf.int32)
    return tf.maximum(scaled, 1)


def _jitter(image: tf.Tensor, seed: tf.Tensor, config: PhotometricConfig) -> tf.Tensor:
    if config == PhotometricConfig(0.0, 0.0, 0.0, 0.0):
        return image
    image /= 255.0
    if config.brightness:
        image += _uniform(seed, _Draw.BRIGHTNESS, -config.brightness, config.brightness)
    if config.contrast:
        factor = _uniform(seed, _Draw.CONTRAST, 1 - config.contrast, 1 + config.contrast)
        image = tf.image.adjust_contrast(image, factor)
    # Saturation and hue are defined on valid colours alone.
    image = tf.clip_by_value(image, 0.0, 1.0)
    if config.saturation:
        factor = _uniform(seed, _Draw.SATURATION, 1 - config.saturation, 1 + config.saturation)
        image = tf.image.adjust_saturation(image, factor)
    if config.hue:
        image = tf.image.adjust_hue(image, _uniform(seed, _Draw.HUE, -config.hue, config.hue))
    return tf.clip_by_value(image, 0.0, 1.0) * 255.0


def _integer(seed: tf.Tensor, draw: _Draw, count: int | tf.Tensor) -> tf.Tensor:
    """Draws from 0..count-1, int32."""
    return tf.random.stateless_uniform([], _fold(seed, draw), 0, count, tf.int32, _GENERATOR)


def _uniform(seed: tf.Tensor, draw: _Draw, low: float, high: float, dtype: tf.DType = tf.float32) -> tf.Tensor:
    return tf.random.stateless_uniform([], _fold(seed, draw), low, high, dtype, _GENERATOR)


def _fold(seed: tf.Tensor, draw: _Draw) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, tf.constant(int(draw), tf.int64), alg=_GENERATOR)
