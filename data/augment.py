"""Random scale, crop, flip, rotation and colour changes of a training image and its label.

Every draw is a function of a seed pair alone, so that an image at a given position of the training run
always looks the same, whatever ran before it and on however many threads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, ClassificationConfig, DataConfig, Size
from deeplab2_lite.data.draws import Draw, draw_integer, draw_uniform, stream
from deeplab2_lite.data.photometric import change_colors
from deeplab2_lite.data.resampling import crop_resized, pad_bottom_right, resize_window
from deeplab2_lite.data.warping import crop_warped, draw_warp, is_warping
from deeplab2_lite.intensity import stretch_intensity
from deeplab2_lite.preprocessing import IMAGE_PADDING, longest_side_size


class Augmented(NamedTuple):
    """A training crop.

    Attributes:
        image: RGB in 0..255, float32 [crop_height, crop_width, 3].
        panoptic: Panoptic ids, int32 [crop_height, crop_width].
    """

    image: tf.Tensor
    panoptic: tf.Tensor


def augment(image: tf.Tensor, panoptic: tf.Tensor, seed: tf.Tensor, config: DataConfig, void_id: int) -> Augmented:
    """Makes a training crop of an image (paper section 4).

    Intensities are stretched as in inference; the image is mirrored and turned, resized once (longest side and
    random scale together, bilinearly; the label by nearest neighbour on the same grid), cropped at a place drawn
    uniformly, and changed in colour. A crop that is larger than the image is filled up at the bottom and right:
    127.5 in the image, void in the label. Where crops are turned by any angle or bent, that is done in the same
    resize, the image lies in the middle of a larger crop, and all that is not of the image is filled.

    Args:
        image: RGB, uint8 [height, width, 3].
        panoptic: Panoptic ids, int32 [height, width].
        seed: A pair of integers, such as (seed of the run, position in it); int64 [2].
        config: Crop size, longest side, intensity percentiles and augmentation.
        void_id: Panoptic id of void.

    Returns:
        The crop, of static shape.
    """
    if config.intensity_percentiles is not None:
        # Of the whole image, as inference sees it.
        image = stretch_intensity(image[tf.newaxis], config.intensity_percentiles)[0]
    # Before the crop, so that the padding is always at the bottom and right, as in inference.
    image, panoptic = _mirror_and_turn((image, panoptic), seed, config.augmentation)
    size = longest_side_size(tf.shape(image)[:2], config.longest_side)
    size = _scaled_size(size, _draw_scale(seed, config.augmentation))
    crop = tf.constant(config.crop_size, tf.int32)
    room = tf.maximum(size - crop, 0)
    origin = tf.stack([draw_integer(seed, Draw.CROP_Y, room[0] + 1), draw_integer(seed, Draw.CROP_X, room[1] + 1)])
    if is_warping(config.augmentation):
        # In a corner, a smaller image would be turned out of the window.
        origin -= tf.maximum(crop - size, 0) // 2
        return _warp(image, panoptic, seed, size, origin, config, void_id)
    image, panoptic = crop_resized(image, panoptic, size, origin, tf.minimum(size, crop))
    image = change_colors(image, seed, config.augmentation.photometric)
    return Augmented(
        pad_bottom_right(image, config.crop_size, IMAGE_PADDING), pad_bottom_right(panoptic, config.crop_size, void_id)
    )


def augment_for_classification(
    image: tf.Tensor, seed: tf.Tensor, config: DataConfig, classification: ClassificationConfig
) -> tf.Tensor:
    """Makes a training crop of an image that is to be classified.

    A window of random area and shape (Szegedy et al., "Going Deeper with Convolutions", section 6) is resized
    to the crop, mirrored, turned and changed in colour. Where none fits into the image, the window is the image.

    Args:
        image: RGB, uint8 [height, width, 3].
        seed: A pair of integers, such as (seed of the run, position in it); int64 [2].
        config: Crop size, flips, rotation and colour changes.
        classification: Area and shape of the window.

    Returns:
        RGB in 0..255, float32 [crop_height, crop_width, 3].
    """
    ratio = classification.max_aspect_ratio
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros([1, 0, 4]),
        stream(seed, Draw.CROP_WINDOW),
        min_object_covered=0.0,
        aspect_ratio_range=(1 / ratio, ratio),
        area_range=(classification.min_area, 1.0),
        use_image_if_no_bounding_boxes=True,
    )
    crop = resize_window(image, begin[:2], size[:2], config.crop_size)
    (crop,) = _mirror_and_turn((crop,), seed, config.augmentation)
    return tf.ensure_shape(change_colors(crop, seed, config.augmentation.photometric), [*config.crop_size, 3])


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


def _warp(
    image: tf.Tensor,
    panoptic: tf.Tensor,
    seed: tf.Tensor,
    size: tf.Tensor,
    origin: tf.Tensor,
    config: DataConfig,
    void_id: int,
) -> Augmented:
    warp = draw_warp(seed, config.augmentation, config.crop_size)
    image, panoptic, is_inside = crop_warped(image, panoptic, size, origin, config.crop_size, warp)
    image = change_colors(image, seed, config.augmentation.photometric)
    return Augmented(
        tf.ensure_shape(tf.where(is_inside[..., tf.newaxis], image, IMAGE_PADDING), [*config.crop_size, 3]),
        tf.ensure_shape(tf.where(is_inside, panoptic, void_id), config.crop_size),
    )


def _mirror_and_turn(maps: tuple[tf.Tensor, ...], seed: tf.Tensor, config: AugmentationConfig) -> tuple[tf.Tensor, ...]:
    """Mirrors and turns maps, [height, width] or [height, width, channels], alike."""
    for wanted, draw, axis in (
        (config.flip_left_right, Draw.FLIP_LEFT_RIGHT, 1),
        (config.flip_up_down, Draw.FLIP_UP_DOWN, 0),
    ):
        if wanted:
            axes = tf.where(tf.range(3) == axis, tf.equal(draw_integer(seed, draw, 2), 1), False)
            maps = tuple(tf.raw_ops.Reverse(tensor=t, dims=axes[: t.shape.rank]) for t in maps)
    if config.rotate_90:
        turns = draw_integer(seed, Draw.ROTATION, 4)
        maps = tuple(_turn(t, turns) for t in maps)
    return maps


def _turn(tensor: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    if tensor.shape.rank == 2:
        return tf.image.rot90(tensor[:, :, tf.newaxis], turns)[:, :, 0]
    return tf.image.rot90(tensor, turns)


def _draw_scale(seed: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    if config.scale_step == 0:
        return draw_uniform(seed, Draw.SCALE, config.min_scale, config.max_scale, tf.float64)
    # The slack keeps a maximum that is a whole number of steps away but for rounding.
    steps = math.floor((config.max_scale - config.min_scale) / config.scale_step + 1e-6)
    scales = [config.min_scale + i * config.scale_step for i in range(steps + 1)]
    return tf.gather(tf.constant(scales, tf.float64), draw_integer(seed, Draw.SCALE, len(scales)))


def _scaled_size(size: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    scaled = tf.cast(tf.floor(tf.cast(size, tf.float64) * scale + 0.5), tf.int32)
    return tf.maximum(scaled, 1)
