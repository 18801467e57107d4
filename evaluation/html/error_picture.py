"""Draws the errors of an image: every kind has a colour and a pattern of its own."""

from __future__ import annotations

import numpy as np

from deeplab2_lite.evaluation.html.segment_errors import PixelError

# A palette that colour-blind eyes tell apart (Okabe and Ito, "Color Universal Design", 2008).
_COLORS = {
    PixelError.OUTLINE: (230, 159, 0),
    PixelError.FALSE_POSITIVE: (213, 94, 0),
    PixelError.FALSE_NEGATIVE: (0, 114, 178),
    PixelError.WRONG_CLASS: (170, 51, 119),
    PixelError.POOR_OVERLAP: (0, 158, 115),
}
_VOID = (138, 142, 148)
_PERIOD, _LINE = 10, 3

ERROR_NAMES = {
    PixelError.MATCHED: ("right", "a segment and its match"),
    PixelError.FALSE_NEGATIVE: ("missed", "a true segment that was not found"),
    PixelError.FALSE_POSITIVE: ("spurious", "a predicted segment that is not there"),
    PixelError.WRONG_CLASS: ("wrong class", "a missed segment under a spurious one of another class"),
    PixelError.POOR_OVERLAP: ("poor overlap", "the class is right, but no IoU above 0.5: merged, split or ill-shaped"),
    PixelError.OUTLINE: ("outline", "a segment that was found reaches too far here, or not far enough"),
    PixelError.IGNORED: ("void or crowd", "not counted"),
}


def draw_errors(pixels: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    """Draws a map of errors.

    Args:
        pixels: `PixelError`, uint8 [height, width].
        image: RGB, uint8 [height, width, 3], shown as a pale grey ground; None leaves the ground flat.

    Returns:
        uint8 [height, width, 3].
    """
    grey = np.full(pixels.shape, 127.0) if image is None else image.astype(np.float32) @ (0.299, 0.587, 0.114)
    picture = np.repeat((175 + 0.3 * grey)[..., None], 3, axis=2)
    ignored = pixels == PixelError.IGNORED
    picture[ignored] = 0.75 * np.array(_VOID) + 0.25 * grey[ignored, None]
    for kind, color in _COLORS.items():
        here = pixels == kind
        # Lines are the plain colour, between them it is lighter, with the image's shades.
        picture[here] = 0.55 * np.array(color) + 0.45 * (90 + 0.6 * grey[here, None])
        if kind != PixelError.OUTLINE:  # the least of errors: it must not outshine the others
            picture[here & _pattern(kind, pixels.shape)] = color
    return np.round(np.clip(picture, 0, 255)).astype(np.uint8)


def error_swatch(kind: PixelError, size: int = 28) -> np.ndarray:
    """Returns a square of a kind's colour and pattern for a legend, uint8 [size, size, 3]."""
    return draw_errors(np.full((size, size), kind, np.uint8))


def _pattern(kind: PixelError, shape: tuple[int, ...]) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    rising, falling = (x + y) % _PERIOD < _LINE, (x - y) % _PERIOD < _LINE
    if kind == PixelError.FALSE_POSITIVE:
        return rising
    if kind == PixelError.FALSE_NEGATIVE:
        return falling
    if kind == PixelError.WRONG_CLASS:
        return rising | falling
    return np.broadcast_to(y % _PERIOD < _LINE, shape)
