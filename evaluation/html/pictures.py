"""The pictures of a report: the panels of an image, as data URIs that keep to a budget of bytes."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.html.error_picture import draw_errors
from deeplab2_lite.evaluation.html.segment_errors import SegmentErrors
from deeplab2_lite.evaluation.metrics.overlaps import check_same_shape
from deeplab2_lite.segment_drawing import enlarge_labels
from deeplab2_lite.visualize import overlay_panoptic

# No panel is wider or higher than this.
LONGEST_SIDE = 640
_QUALITIES = (88, 75, 60, 40)
_FEW_COLORS = 256
_SMALLEST_SIDE = 32


class Sample(NamedTuple):
    """An image to be shown.

    Attributes:
        name: File name, as the report's `images` have it.
        image: RGB, uint8 [height, width, 3]; None where it is not at hand.
        truth: Panoptic ids, int32 [height, width].
        prediction: Likewise; class id * label_divisor if there are no instances.
    """

    name: str
    image: np.ndarray | None
    truth: np.ndarray
    prediction: np.ndarray


class Picture(NamedTuple):
    """An encoded picture.

    Attributes:
        uri: `data:` URI.
        width: In pixels.
        height: In pixels.
    """

    uri: str
    width: int
    height: int


def check_sample(sample: Sample) -> None:
    """Raises UserError, which names the sample, unless its image and its maps are of one size."""
    check_same_shape(sample.truth, sample.prediction, f"{sample.name}: prediction")
    expected = (*sample.truth.shape, 3)
    if sample.image is not None and (sample.image.dtype != np.uint8 or sample.image.shape != expected):
        raise UserError(
            f"{sample.name}: image: expected uint8 {list(expected)} as its truth, "
            f"got {sample.image.dtype} {list(sample.image.shape)}"
        )


def draw_panels(sample: Sample, errors: SegmentErrors, info: DatasetInfo) -> dict[str, np.ndarray]:
    """Draws the panels of an image.

    Args:
        sample: The image.
        errors: Its errors.
        info: The label space.

    Returns:
        uint8 RGB pictures of one size by title: image (where there is one), truth, prediction and error. Large
        ones are reduced to `LONGEST_SIDE`, small ones enlarged by a whole factor as far as it allows.
    """
    maps = [sample.truth, sample.prediction, errors.pixels]
    image, (truth, prediction, pixels) = _fit(sample.image, maps)
    ground = np.full((*truth.shape, 3), 127, np.uint8) if image is None else image
    alpha = 0.85 if image is None else 0.55
    panels = {} if image is None else {"image": image}
    for title, panoptic in (("truth", truth), ("prediction", prediction)):
        panels[title] = overlay_panoptic(ground, panoptic, info, alpha=alpha, scale=1)
    panels["error"] = draw_errors(pixels, image)
    return panels


def encode_picture(picture: np.ndarray, max_bytes: int) -> Picture:
    """Encodes a picture: one of few colours as PNG, any other as JPEG.

    Args:
        picture: RGB, uint8 [height, width, 3].
        max_bytes: The most that it may take; quality is lowered, then the size halved, until it fits.

    Returns:
        The picture, with the size in pixels that it was given in.
    """
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    kind, encoded = "png", b""
    if image.getcolors(_FEW_COLORS) is not None:
        encoded = _encode(image, "PNG", optimize=True)
    if not encoded or len(encoded) > max_bytes:
        kind, encoded = "jpeg", _encode_jpeg(image, max_bytes)
    return Picture(f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}", width, height)


def _encode_jpeg(image: Image.Image, max_bytes: int) -> bytes:
    while True:
        for quality in _QUALITIES:
            # No colour subsampling: thin coloured lines are what the panels are about.
            encoded = _encode(image, "JPEG", quality=quality, subsampling=0, optimize=True)
            if len(encoded) <= max_bytes or max(image.size) <= _SMALLEST_SIDE:
                return encoded
        image = image.reduce(2)


def _encode(image: Image.Image, image_format: str, **settings: int | bool) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=image_format, **settings)
    return stream.getvalue()


def _fit(image: np.ndarray | None, maps: list[np.ndarray]) -> tuple[np.ndarray | None, list[np.ndarray]]:
    """Brings an image and its label maps to the size of a panel."""
    height, width = maps[0].shape
    longest = max(height, width)
    if longest > LONGEST_SIDE:
        size = tuple(max(1, round(side * LONGEST_SIDE / longest)) for side in (height, width))
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(np.int64)
            for new, old in zip(size, (height, width), strict=True)
        )
        maps = [labels[rows[:, None], columns] for labels in maps]
    else:
        scale = max(1, LONGEST_SIDE // max(1, longest))
        size = (height * scale, width * scale)
        maps = [enlarge_labels(labels, scale) for labels in maps]
    if image is not None and image.shape[:2] != size:
        image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS))
    return image, maps
