"""Reading users' images and label images so that no pixel is ever silently wrong.

Every odd image is either converted to what it shows (grey, palette, CMYK, opaque alpha, EXIF rotation)
or refused by name with what to do about it (16 bits, transparency, several pages, cut off). Label images bear
the orientation of their EXIF, too: image and label are compared as they are looked at.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplab2_lite.data.plain_png import decode_plain_png
from deeplab2_lite.data.record_format import encode_png
from deeplab2_lite.errors import UserError

HighDepth = Literal["refuse", "full_range", "per_image", "percentile"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")

_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_SAMPLE_FORMAT = 339
_WHITE_IS_ZERO = 0
_SIGNED = 2
_PERCENTILES = (0.1, 99.9)
_PNG_END = b"IEND\xaeB`\x82"
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


class StoredImage(NamedTuple):
    """An image as a record holds it.

    Attributes:
        encoded: PNG or JPEG of 8 bits a channel, upright.
        format: "png" or "jpeg".
        height: In pixels.
        width: In pixels.
        channels: 1 (grey) or 3 (RGB).
    """

    encoded: bytes
    format: str
    height: int
    width: int
    channels: int


def load_image_for_record(path: str | Path, high_depth: HighDepth = "refuse") -> StoredImage:
    """Reads an image, keeping its bytes where every decoder agrees on what they show.

    Args:
        path: An image file.
        high_depth: What to do with 16-bit grey images, see `read_rgb`.

    Returns:
        The original file if it is an 8-bit grey or RGB PNG or an upright JPEG; else a PNG made of it.

    Raises:
        UserError: The image cannot be read, or cannot be converted faithfully.
    """
    path = Path(path)
    return make_storable(path, _read_bytes(path), high_depth)


def make_storable(path: Path, encoded: bytes, high_depth: HighDepth = "refuse") -> StoredImage:
    """Does what `load_image_for_record` does with the content of an image file.

    Args:
        path: Where it is from, for the message.
        encoded: The content.
        high_depth: What to do with 16-bit grey images, see `read_rgb`.

    Returns:
        The content if it is an 8-bit grey or RGB PNG or an upright JPEG; else a PNG made of it.

    Raises:
        UserError: The image cannot be decoded, or cannot be converted faithfully.
    """
    with _opened(path, encoded) as image:
        if _is_plain(image, encoded):
            return StoredImage(encoded, image.format.lower(), image.height, image.width, len(image.getbands()))
        pixels = _to_rgb(path, image, encoded, high_depth)
    return StoredImage(encode_png(pixels), "png", pixels.shape[0], pixels.shape[1], 3)


def read_rgb(path: str | Path, high_depth: HighDepth = "refuse") -> np.ndarray:
    """Reads an image of any common kind as RGB, upright.

    Args:
        path: An image file.
        high_depth: 16-bit grey images are refused, or scaled to 8 bits: "full_range" maps 0..65535,
            "per_image" each image's own minimum and maximum, "percentile" its percentiles 0.1 and 99.9
            (beyond them it is black and white, so that a hot pixel does not darken all others), to 0..255.

    Returns:
        uint8 [height, width, 3].

    Raises:
        UserError: The image cannot be read, or cannot be converted faithfully.
    """
    path = Path(path)
    return decode_rgb(path, _read_bytes(path), high_depth)


def decode_rgb(path: Path, encoded: bytes, high_depth: HighDepth = "refuse") -> np.ndarray:
    """Does what `read_rgb` does with the content of an image file.

    Args:
        path: Where it is from, for the message.
        encoded: The content.
        high_depth: As for `read_rgb`.

    Returns:
        uint8 [height, width, 3].

    Raises:
        UserError: The image cannot be decoded, or cannot be converted faithfully.
    """
    with _opened(path, encoded) as image:
        return _to_rgb(path, image, encoded, high_depth)


def encoded_size(path: Path, encoded: bytes) -> tuple[int, int]:
    """Returns height and width that the head of an image file tells of, without decoding it.

    Args:
        path: Where it is from, for the message.
        encoded: The content.

    Returns:
        The size as stored, in pixels.

    Raises:
        UserError: It is no image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _readable(path), Image.open(io.BytesIO(encoded)) as image:
            return image.height, image.width


def read_instance_ids(path: str | Path) -> np.ndarray:
    """Reads a label image of one channel.

    Args:
        path: A PNG or TIFF of 1, 8, 16 or 32 bits; the indices of a palette image count as ids.

    Returns:
        The ids, int32 [height, width].

    Raises:
        UserError: It cannot be read, or is no map of non-negative integers.
    """
    path = Path(path)
    with _opened(path, _read_bytes(path)) as image:
        if image.format == "JPEG":
            raise UserError(f"{path}: labels must be stored without loss, as PNG or TIFF; this is a JPEG")
        if _tiff_value(image, _TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
            # Pillow turns some depths of them round, and others not.
            raise UserError(f"{path}: a TIFF in which white is 0, so that 0 may be no background; save it as a PNG")
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            raise UserError(f"{path}: expected one channel of integer ids (0 = background), got mode {image.mode}")
        ids = np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise UserError(f"{path}: expected ids from 0 (background) up, got {ids.min()}..{ids.max()}")
    return ids.astype(np.int32)


def read_rgb_label(path: str | Path) -> np.ndarray:
    """Reads a label image whose ids are spread over RGB, as COCO-panoptic PNGs are.

    Args:
        path: An RGB PNG of 8 bits a channel.

    Returns:
        The channels, uint8 [height, width, 3].

    Raises:
        UserError: It cannot be read, or is not RGB.
    """
    path = Path(path)
    encoded = _read_bytes(path)
    channels = decode_plain_png(encoded)
    if channels is not None:
        return channels
    with _opened(path, encoded) as image:
        if image.format != "PNG" or image.mode != "RGB" or _bit_depth(image, encoded) != 8:
            raise UserError(
                f"{path}: expected an 8-bit RGB PNG of segment ids, got {image.format} of mode {image.mode}"
            )
        return np.asarray(ImageOps.exif_transpose(image))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def _opened(path: Path, encoded: bytes) -> Iterator[Image.Image]:
    """Opens and fully decodes an image of one page."""
    with warnings.catch_warnings():
        # Of images half as large as what is refused, and of unreadable EXIF: they name no file.
        warnings.simplefilter("ignore")
        with _decoded(path, encoded) as image:
            yield image


def _decoded(path: Path, encoded: bytes) -> Image.Image:
    with _readable(path):
        image = Image.open(io.BytesIO(encoded))
        # MPO is a photograph whose further frames are previews.
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise UserError(f"{path}: expected a single image, got {image.n_frames} pages; store each as its own file")
        image.load()
        return image


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what Pillow says of a damaged image into one line."""
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image, or of a kind that Pillow does not read") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: more pixels than Pillow's limit of {2 * Image.MAX_IMAGE_PIXELS}; cut it") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise UserError(f"{path}: damaged or cut off ({' '.join(str(error).split())})") from None


def _is_plain(image: Image.Image, encoded: bytes) -> bool:
    is_upright = image.getexif().get(_EXIF_ORIENTATION, 1) == 1
    if image.mode not in ("L", "RGB") or "transparency" in image.info or not is_upright:
        return False
    if image.format == "PNG":
        # Pillow forgives a missing end, other decoders do not.
        return _bit_depth(image, encoded) == 8 and encoded.endswith(_PNG_END)
    return image.format == "JPEG"


def _to_rgb(path: Path, image: Image.Image, encoded: bytes, high_depth: HighDepth) -> np.ndarray:
    bits = _bit_depth(image, encoded)
    is_sixteen_bit_grey = image.mode.startswith("I;16") or (image.mode == "I" and bits == 16)
    _refuse_ambiguous(path, image, bits)
    image = ImageOps.exif_transpose(image)
    if is_sixteen_bit_grey:
        return np.asarray(Image.fromarray(_to_eight_bits(path, np.asarray(image), high_depth)).convert("RGB"))
    if bits > 8 or image.mode in ("I", "F"):
        raise UserError(f"{path}: {bits} bits a channel (mode {image.mode}); convert it to 8 bits a channel first")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise UserError(f"{path}: has transparent pixels; flatten it onto a background colour first")
    return np.asarray(image.convert("RGB"))


def _refuse_ambiguous(path: Path, image: Image.Image, bits: int) -> None:
    """Refuses what decoders show differently, and Pillow without a word."""
    if bits == 16 and _tiff_value(image, _TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise UserError(f"{path}: a TIFF of 16 bits in which white is 0; save it with black as 0 first")
    if bits <= 16 and _tiff_value(image, _TIFF_SAMPLE_FORMAT) == _SIGNED:
        raise UserError(f"{path}: holds signed numbers; expected unsigned ones, save it as such first")
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        raise UserError(f"{path}: a CMYK JPEG that does not say whether its inks are inverted; convert it to RGB first")


def _to_eight_bits(path: Path, values: np.ndarray, high_depth: HighDepth) -> np.ndarray:
    if high_depth == "refuse":
        raise UserError(
            f"{path}: 16 bits a pixel; expected 8, or for 'convert' and 'predict' alike --high_depth=full_range "
            "(0..65535 to 0..255), per_image (each image's minimum..maximum) or percentile (its percentiles 0.1..99.9)"
        )
    values = values.astype(np.float64)
    if high_depth == "full_range":
        low, high = 0.0, 65535.0
    else:
        low, high = np.percentile(values, (0, 100) if high_depth == "per_image" else _PERCENTILES)
    return np.rint((np.clip(values, low, high) - low) * (255.0 / max(high - low, 1.0))).astype(np.uint8)


def _tiff_value(image: Image.Image, tag: int) -> int | None:
    if image.format != "TIFF":
        return None
    value = image.tag_v2.get(tag)
    return value[0] if isinstance(value, tuple) else value


def _bit_depth(image: Image.Image, encoded: bytes) -> int:
    """Bits a channel as stored: Pillow hands 16-bit RGB out as 8-bit without a word."""
    if image.format == "PNG":
        # The signature (8), chunk length and type (8), width and height (8).
        return encoded[24]
    if image.format == "TIFF":
        return max(np.atleast_1d(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, 1)).tolist())
    if image.mode in ("I", "F"):
        return 32
    return 16 if image.mode.startswith("I;16") else 8
