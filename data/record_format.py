"""The TFRecord schema without TensorFlow, so that the processes of a conversion start in a moment.

One record is a serialized `tf.train.Example`: the image as PNG or JPEG, and its panoptic ids as an RGB
PNG, little end first (`id = R + 256 G + 65536 B`).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

from deeplab2_lite.dataset_info import MAX_PANOPTIC_ID

IMAGE_KEY = "image/encoded"
FILENAME_KEY = "image/filename"
IMAGE_FORMAT_KEY = "image/format"
HEIGHT_KEY = "image/height"
WIDTH_KEY = "image/width"
CHANNELS_KEY = "image/channels"
LABEL_KEY = "image/segmentation/class/encoded"
LABEL_FORMAT_KEY = "image/segmentation/class/format"
CLASS_LABEL_KEY = "image/class/label"
CLASS_NAME_KEY = "image/class/text"

PANOPTIC_PNG = "panoptic_png"


def encode_panoptic(panoptic: np.ndarray) -> bytes:
    """Encodes panoptic ids as an RGB PNG.

    Args:
        panoptic: Integers [height, width] in 0..2^24-1.

    Returns:
        The PNG.

    Raises:
        ValueError: It is no integer map, or an id does not fit into three bytes.
    """
    if panoptic.ndim != 2 or not np.issubdtype(panoptic.dtype, np.integer) or panoptic.size == 0:
        raise ValueError(f"expected integers [height, width], got {panoptic.dtype} {panoptic.shape}")
    if panoptic.min() < 0 or panoptic.max() > MAX_PANOPTIC_ID:
        raise ValueError(f"expected ids in 0..{MAX_PANOPTIC_ID}, got {panoptic.min()}..{panoptic.max()}")
    little_endian = np.ascontiguousarray(panoptic, dtype="<u4")
    channels = little_endian.view(np.uint8).reshape(*panoptic.shape, 4)[:, :, :3]
    return _encode_rgb_label(channels)


def decode_panoptic(encoded: bytes) -> np.ndarray:
    """Decodes what `encode_panoptic` wrote, or any COCO-panoptic PNG.

    Args:
        encoded: An RGB PNG of 8 bits a channel.

    Returns:
        The ids, int32 [height, width].

    Raises:
        ValueError: The PNG is not RGB.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        if image.mode != "RGB":
            raise ValueError(f"expected an RGB PNG of panoptic ids, got mode {image.mode}")
        return panoptic_from_channels(np.asarray(image))


def panoptic_from_channels(channels: np.ndarray) -> np.ndarray:
    """Returns `R + 256 G + 65536 B` as int32 [...] from uint8 [..., 3]."""
    ids = channels.astype(np.int32)
    return ids[..., 0] | ids[..., 1] << 8 | ids[..., 2] << 16


def encode_png(image: np.ndarray) -> bytes:
    """Encodes uint8 [height, width, 3] or [height, width] as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def _encode_rgb_label(channels: np.ndarray) -> bytes:
    # Each row as its difference from the one above: filters chosen row by row, as Pillow writes them, make labels
    # larger and their decoding twice as long.
    height, width, _ = channels.shape
    rows = channels.reshape(height, 3 * width)
    up_filter = 2
    filtered = np.full((height, 1 + 3 * width), up_filter, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    depth, rgb = 8, 2
    header = struct.pack(">IIBBBBB", width, height, depth, rgb, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, content) for kind, content in chunks)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_record(image_bytes: bytes, image_format: str, filename: str, panoptic: np.ndarray, channels: int = 3) -> bytes:
    """Builds one record of the schema.

    Args:
        image_bytes: The image, PNG or JPEG, of 8 bits a channel.
        image_format: "png" or "jpeg".
        filename: Name of the image, which messages, submissions and pictures bear.
        panoptic: Panoptic ids [height, width], of the image's size.
        channels: Channels of the stored image, 1 or 3.

    Returns:
        A serialized `tf.train.Example`.
    """
    height, width = panoptic.shape
    return serialize_example(
        {
            IMAGE_KEY: image_bytes,
            FILENAME_KEY: filename.encode(),
            IMAGE_FORMAT_KEY: image_format.encode(),
            HEIGHT_KEY: height,
            WIDTH_KEY: width,
            CHANNELS_KEY: channels,
            LABEL_KEY: encode_panoptic(panoptic),
            LABEL_FORMAT_KEY: PANOPTIC_PNG.encode(),
        }
    )


def serialize_example(features: Mapping[str, bytes | int]) -> bytes:
    """Serializes features as a `tf.train.Example`, one bytes or int64 value each, in the order given.

    Args:
        features: Values by key; integers are not negative.

    Returns:
        The message in protocol buffer wire format.
    """
    # Example.features = 1; Features.feature = 1, a map of key = 1 and value = 2.
    entries = b"".join(
        _field(1, _field(1, key.encode()) + _field(2, _feature(value))) for key, value in features.items()
    )
    return _field(1, entries)


def _feature(value: bytes | int) -> bytes:
    # Feature.bytes_list = 1 and Feature.int64_list = 3, whose values = 1 (packed for integers).
    if isinstance(value, bytes):
        return _field(1, _field(1, value))
    return _field(3, _field(1, _varint(value)))


def _field(number: int, payload: bytes) -> bytes:
    length_delimited = 2
    return _varint(number << 3 | length_delimited) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
