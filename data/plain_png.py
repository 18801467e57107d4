"""PNGs of plain RGB, as label maps are stored in, decoded several times faster than Pillow does it.

The decoder is that of kornia-rs. It sees only files whose every byte has been accounted for; all others are Pillow's,
which knows every kind and says what is wrong.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from kornia_rs.io import decode_image_png_u8
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BEGINNING = _SIGNATURE + b"\0\0\0\x0dIHDR"  # the header is of 13 bytes
_RGB_OF_EIGHT_BITS = (8, 2, 0, 0, 0)  # bits, colour, compression, filters and interlacing
_CHUNK_FRAME = 12  # bytes around the content of a chunk: its length, its name and its checksum


def decode_plain_png(encoded: bytes) -> np.ndarray | None:
    """Decodes a PNG that is nothing but 8-bit RGB pixels.

    Args:
        encoded: Content of a file, whatever it holds.

    Returns:
        The channels, uint8 [height, width, 3]; None for any other kind of file, for a PNG with further chunks
        (transparency, animation, text), a checksum that does not fit or more pixels than Pillow's limit, and for one
        that cannot be decoded. The checksum of pixels within the compressed data, which says no more than those of the
        chunks, is not looked at.
    """
    size = _plain_size(encoded)
    if size is None:
        return None
    try:
        return decode_image_png_u8(encoded, size, "rgb")
    except Exception:  # its errors have no type of their own
        return None


def _plain_size(encoded: bytes) -> tuple[int, int] | None:
    """Returns height and width of a PNG that has a header, pixels and an end, all of them whole; else None."""
    names = []
    position = len(_SIGNATURE)
    if not encoded.startswith(_BEGINNING):
        return None
    while position + _CHUNK_FRAME <= len(encoded):
        length, name = struct.unpack_from(">I4s", encoded, position)
        end = position + _CHUNK_FRAME + length
        if end > len(encoded):
            return None
        (checksum,) = struct.unpack_from(">I", encoded, end - 4)
        if zlib.crc32(memoryview(encoded)[position + 4 : end - 4]) != checksum:
            return None
        names.append(name)
        position = end
    pixels = len(names) - 2
    if position != len(encoded) or pixels < 1 or names != [b"IHDR", *[b"IDAT"] * pixels, b"IEND"]:
        return None
    width, height, *kind = struct.unpack_from(">IIBBBBB", encoded, len(_BEGINNING))
    is_small = Image.MAX_IMAGE_PIXELS is None or 0 < width * height <= Image.MAX_IMAGE_PIXELS
    return (height, width) if tuple(kind) == _RGB_OF_EIGHT_BITS and is_small else None
