"""Random changes of a training image's colours, which leave every pixel where it is."""

from __future__ import annotations

from functools import partial

import tensorflow as tf

from deeplab2_lite.config import PhotometricConfig
from deeplab2_lite.data import color_operations as operations
from deeplab2_lite.data.color_policies import POLICIES, ColorOperation, Step, SubPolicy, scaled_argument
from deeplab2_lite.data.draws import Draw, draw_integer, draw_uniform

_NOTHING = Step(ColorOperation.NOTHING, 0.0)


def change_colors(image: tf.Tensor, seed: tf.Tensor, config: PhotometricConfig) -> tf.Tensor:
    """Changes colours at random: the policy's operations, then jitter.

    Args:
        image: RGB in 0..255, float32 [height, width, 3].
        seed: A pair of integers, such as (seed of the run, position in it); int64 [2].
        config: What to do; by default nothing, and the image is returned as it is.

    Returns:
        RGB in 0..255, float32 [height, width, 3].
    """
    if config.policy is not None:
        image = _follow_policy(image, seed, POLICIES[config.policy], config.policy_magnitude)
    if config.brightness or config.contrast or config.saturation or config.hue:
        image = _jitter(image, seed, config)
    return image


def apply_operation(image: tf.Tensor, operation: tf.Tensor, argument: tf.Tensor) -> tf.Tensor:
    """Does one colour operation; the others are not computed.

    Args:
        image: RGB in 0..255, float32 [height, width, 3]; rounded to whole levels, unless nothing is done.
        operation: Which `ColorOperation`, int32 scalar.
        argument: Its bits, threshold or factor, float32 scalar; any number where it takes none.

    Returns:
        RGB in 0..255, float32 [height, width, 3].
    """

    def levels() -> tf.Tensor:
        # Interpolation leaves values a hair off a whole level, and operations with steps would tear them apart.
        return tf.clip_by_value(tf.round(image), 0.0, 255.0)

    plain = (operations.auto_contrast, operations.equalize, operations.invert)
    with_argument = (
        operations.posterize,
        operations.solarize,
        operations.color,
        operations.contrast,
        operations.brightness,
        operations.sharpness,
    )
    # In the order of ColorOperation.
    branches = [lambda: image]
    branches += [partial(lambda function: function(levels()), function) for function in plain]
    branches += [partial(lambda function: function(levels(), argument), function) for function in with_argument]
    return tf.switch_case(operation, branches)


def _follow_policy(image: tf.Tensor, seed: tf.Tensor, policy: tuple[SubPolicy, ...], magnitude: float) -> tf.Tensor:
    drawn = draw_integer(seed, Draw.SUB_POLICY, len(policy))
    for place, draw in enumerate((Draw.FIRST_OPERATION, Draw.SECOND_OPERATION)):
        steps = [sub_policy[place] if place < len(sub_policy) else _NOTHING for sub_policy in policy]
        is_done = draw_uniform(seed, draw, 0.0, 1.0) < tf.gather([step.probability for step in steps], drawn)
        operation = tf.gather([int(step.operation) for step in steps], drawn)
        argument = tf.gather([scaled_argument(step, magnitude) for step in steps], drawn)
        image = apply_operation(image, tf.where(is_done, operation, int(ColorOperation.NOTHING)), argument)
    return image


def _jitter(image: tf.Tensor, seed: tf.Tensor, config: PhotometricConfig) -> tf.Tensor:
    image /= 255.0
    if config.brightness:
        image += draw_uniform(seed, Draw.BRIGHTNESS, -config.brightness, config.brightness)
    if config.contrast:
        factor = draw_uniform(seed, Draw.CONTRAST, 1 - config.contrast, 1 + config.contrast)
        image = tf.image.adjust_contrast(image, factor)
    # Saturation and hue are defined on valid colours alone.
    image = tf.clip_by_value(image, 0.0, 1.0)
    if config.saturation:
        factor = draw_uniform(seed, Draw.SATURATION, 1 - config.saturation, 1 + config.saturation)
        image = tf.image.adjust_saturation(image, factor)
    if config.hue:
        image = tf.image.adjust_hue(image, draw_uniform(seed, Draw.HUE, -config.hue, config.hue))
    return tf.clip_by_value(image, 0.0, 1.0) * 255.0
