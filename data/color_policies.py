"""AutoAugment policies without the operations that move pixels, as data.

A policy is a tuple of sub-policies, of which one is drawn for each image; a sub-policy is one or two operations,
each done with its own probability, one after the other.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class ColorOperation(enum.IntEnum):
    """What is done to the colours; the functions of `color_operations.py`, in its order."""

    NOTHING = 0
    AUTO_CONTRAST = 1
    EQUALIZE = 2
    INVERT = 3
    POSTERIZE = 4
    SOLARIZE = 5
    COLOR = 6
    CONTRAST = 7
    BRIGHTNESS = 8
    SHARPNESS = 9


class Step(NamedTuple):
    """One operation of a sub-policy.

    Attributes:
        operation: What is done.
        probability: How often.
        argument: Of the operation: bits, threshold or factor; None where it takes none.
    """

    operation: ColorOperation
    probability: float
    argument: float | None = None


SubPolicy = tuple[Step] | tuple[Step, Step]

# With these arguments, an operation leaves the image as it is.
_NEUTRAL = {
    ColorOperation.POSTERIZE: 8.0,
    ColorOperation.SOLARIZE: 256.0,
    ColorOperation.COLOR: 1.0,
    ColorOperation.CONTRAST: 1.0,
    ColorOperation.BRIGHTNESS: 1.0,
    ColorOperation.SHARPNESS: 1.0,
}


def scaled_argument(step: Step, magnitude: float) -> float:
    """Returns the argument of an operation that is done less strongly.

    Args:
        step: The operation with its full argument.
        magnitude: From 0, where the image stays as it is, to 1, the full argument.

    Returns:
        The argument, a whole number of bits for posterize; 0 for an operation that takes none.
    """
    if step.argument is None:
        return 0.0
    argument = (1 - magnitude) * _NEUTRAL[step.operation] + magnitude * step.argument
    return float(round(argument)) if step.operation is ColorOperation.POSTERIZE else argument


def _auto_contrast(probability: float) -> Step:
    return Step(ColorOperation.AUTO_CONTRAST, probability)


def _equalize(probability: float) -> Step:
    return Step(ColorOperation.EQUALIZE, probability)


def _invert(probability: float) -> Step:
    return Step(ColorOperation.INVERT, probability)


def _posterize(probability: float, bits: float) -> Step:
    return Step(ColorOperation.POSTERIZE, probability, bits)


def _solarize(probability: float, threshold: float) -> Step:
    return Step(ColorOperation.SOLARIZE, probability, threshold)


def _color(probability: float, factor: float) -> Step:
    return Step(ColorOperation.COLOR, probability, factor)


def _contrast(probability: float, factor: float) -> Step:
    return Step(ColorOperation.CONTRAST, probability, factor)


def _brightness(probability: float, factor: float) -> Step:
    return Step(ColorOperation.BRIGHTNESS, probability, factor)


def _sharpness(probability: float, factor: float) -> Step:
    return Step(ColorOperation.SHARPNESS, probability, factor)


# Cubuk et al., arXiv 1805.09501, Table 9. Magnitudes of 0..10 there, over the ranges of Table 6: bits from 8 down
# to 4, thresholds from 256 down to 0, factors from 0.1 up to 1.9. Rotations and shears are left out, and what
# stood beside them stays.
_IMAGENET: tuple[SubPolicy, ...] = (
    (_posterize(0.4, 5),),
    (_solarize(0.6, 128), _auto_contrast(0.6)),
    (_equalize(0.8), _equalize(0.6)),
    (_posterize(0.6, 5), _posterize(0.6, 6)),
    (_equalize(0.4), _solarize(0.2, 154)),
    (_equalize(0.4),),
    (_solarize(0.6, 180), _equalize(0.6)),
    (_posterize(0.8, 6), _equalize(1.0)),
    (_solarize(0.6, 52),),
    (_equalize(0.6), _posterize(0.4, 6)),
    (_color(0.4, 0.1),),
    (_equalize(0.6),),
    (_equalize(0.0), _equalize(0.8)),
    (_invert(0.6), _equalize(1.0)),
    (_color(0.6, 0.82), _contrast(1.0, 1.54)),
    (_color(1.0, 0.46),),
    (_color(0.8, 1.54), _solarize(0.8, 77)),
    (_sharpness(0.4, 1.36), _invert(0.6)),
    (_equalize(1.0),),
    (_color(0.4, 0.1), _equalize(0.6)),
    (_equalize(0.4), _solarize(0.2, 154)),
    (_solarize(0.6, 128), _auto_contrast(0.6)),
    (_invert(0.6), _equalize(1.0)),
    (_color(0.6, 0.82), _contrast(1.0, 1.54)),
    (_equalize(0.8), _equalize(0.6)),
)

# Public code's for Panoptic-DeepLab with MobileNetV3: what its "simple" policy comes to at its magnitude scale of 0.2.
_PANOPTIC_DEEPLAB: tuple[SubPolicy, ...] = (
    (_sharpness(0.4, 0.352), _brightness(0.2, 0.46)),
    (_equalize(0.0), _contrast(0.2, 0.46)),
    (_sharpness(0.2, 0.424), _color(0.2, 0.424)),
    (_solarize(0.2, 35), _equalize(0.6)),
    (_sharpness(0.2, 0.136), _equalize(0.2)),
)

POLICIES: dict[str, tuple[SubPolicy, ...]] = {"imagenet": _IMAGENET, "panoptic_deeplab": _PANOPTIC_DEEPLAB}
