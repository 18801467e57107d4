"""Random scale, crop, flip, rotation and colour jitter of a training image and its label.

Every draw is a function of a seed pair alone, so that an image at a given position of the training run
always looks the same, whatever ran before it and on however many threads.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, ClassificationConfig, DataConfig, PhotometricConfig, Size
from deeplab2_lite.data.resampling import crop_resized, pad_bottom_right, resize_window
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
    CROP_WINDOW = 10


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
    # Before the crop, so that the padding is always at the bottom and right, as in inference.
    image, label = _mirror_and_turn((image, panoptic[:, :, tf.newaxis]), seed, config.augmentation)
    panoptic = label[:, :, 0]
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


def augment_for_classification(
    image: tf.Tensor, seed: tf.Tensor, config: DataConfig, classification: ClassificationConfig
) -> tf.Tensor:
    """Makes a training crop of an image that is to be classified.

    A window of random area and shape (Szegedy et al., "Going Deeper with Convolutions", section 6) is resized
    to the crop, mirrored, turned and jittered. Where none fits into the image, the window is the image.

    Args:
        image: RGB, uint8 [height, width, 3].
        seed: A pair of integers, such as (seed of the run, position in it); int64 [2].
        config: Crop size, flips, rotation and jitter.
        classification: Area and shape of the window.

    Returns:
        RGB in 0..255, float32 [crop_height, crop_width, 3].
    """
    ratio = classification.max_aspect_ratio
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros([1, 0, 4]),
        _fold(seed, _Draw.CROP_WINDOW),
        min_object_covered=0.0,
        aspect_ratio_range=(1 / ratio, ratio),
        area_range=(classification.min_area, 1.0),
        use_image_if_no_bounding_boxes=True,
    )
    crop = resize_window(image, begin[:2], size[:2], config.crop_size)
    (crop,) = _mirror_and_turn((crop,), seed, config.augmentation)
    return tf.ensure_shape(_jitter(crop, seed, config.augmentation.photometric), [*config.crop_size, 3])


def central_crop(image: tf.Tensor, crop_size: Size, fraction: float) -> tf.Tensor:
    """Makes the crop of an image that evaluation classifies.

    Args:
        image: RGB, uint8 [height, width, 3].
        crop_size: Height and width of the crop.
        fraction: Share of the sides of the largest window of the crop's shape.

    Returns:
        The window in the middle of the image, resized: float32 [*crop_size, 3] in 0..255.
    """
    source = tf.cast(tf.shape(image)[:2], tf.float64)
    crop = tf.constant(crop_size, tf.float64)
    window = tf.cast(tf.round(crop * tf.reduce_min(source / crop) * fraction), tf.int32)
    window = tf.clip_by_value(window, 1, tf.shape(image)[:2])
    return resize_window(image, (tf.shape(image)[:2] - window) // 2, window, crop_size)


def _mirror_and_turn(maps: tuple[tf.Tensor, ...], seed: tf.Tensor, config: AugmentationConfig) -> tuple[tf.Tensor, ...]:
    """Mirrors and turns maps [height, width, channels] alike."""
    for wanted, draw, axis in (
        (config.flip_left_right, _Draw.FLIP_LEFT_RIGHT, 1),
        (config.flip_up_down, _Draw.FLIP_UP_DOWN, 0),
    ):
        if wanted:
            axes = tf.where(tf.range(3) == axis, tf.equal(_integer(seed, draw, 2), 1), False)
            maps = tuple(tf.raw_ops.Reverse(tensor=t, dims=axes) for t in maps)
    if config.rotate_90:
        turns = _integer(seed, _Draw.ROTATION, 4)
        maps = tuple(tf.image.rot90(t, turns) for t in maps)
    return maps


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
