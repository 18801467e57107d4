"""Images as clients send them, well and badly."""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from PIL import Image


def encode(image: np.ndarray, format_name: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format_name, **options)
    return file.getvalue()


def decode(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def example(encoded: bytes) -> bytes:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    return tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature})).SerializeToString()


def ids_of(png: bytes) -> np.ndarray:
    """The ids in a PNG as COCO writes them, pixel by pixel."""
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    return np.array([[int(r) + 256 * int(g) + 65536 * int(b) for r, g, b in row] for row in pixels])


def malformed(image: np.ndarray) -> dict[str, tuple[bytes, str]]:
    """Bytes that are no image, by name, and what is said of them."""
    png, jpeg, wide = encode(image), encode(image, "JPEG"), np.zeros((3, 20_000, 3), np.uint8)
    # A header that promises more than there is memory.
    bomb = png[:16] + (2**31 - 1).to_bytes(4, "big") * 2 + png[24:]
    too_large = "this model takes sides of 200 at most"
    return {
        "text": (b"GET / HTTP/1.1\r\n\r\n", "no image; expected JPEG, PNG, BMP, GIF or WebP"),
        "nothing": (b"", "no bytes"),
        "half a JPEG": (jpeg[: len(jpeg) // 2], "a JPEG that is cut off before its end"),
        "a JPEG's first bytes": (jpeg[:30], "a JPEG that is cut off before its end"),
        "half a PNG": (png[: len(png) // 2], "a PNG that is cut off before its end"),
        "a PNG's first bytes": (png[:10], "a PNG that is cut off before its end"),
        "a PNG damaged within": (png[:100] + bytes(200) + png[300:], "Invalid PNG data"),
        "a wide PNG": (encode(wide), "3 x 20000 pixels"),
        "a wide JPEG": (encode(wide, "JPEG"), "3 x 20000 pixels"),
        "a wide BMP": (encode(wide, "BMP"), "3 x 20000 pixels"),
        "a high GIF": (encode(wide.transpose(1, 0, 2), "GIF"), "20000 x 3 pixels"),
        "a wide WebP": (encode(wide[:, :16_000], "WEBP"), "3 x 16000 pixels"),
        "a bomb": (bomb, too_large),
    }
