"""Encoded images of requests: their sizes are read from their first bytes, before any pixel is decoded."""

from __future__ import annotations

import tensorflow as tf

from deeplab2_lite.serving.requests import checked_size, checked_sizes, refuse_unless

# As many bytes as the headers of PNG, BMP, GIF and WebP need; that of JPEG has any length.
_HEADER = 30
_JPEG, _PNG, _BMP, _GIF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF8"
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND"


def decode_images(encoded: tf.Tensor, max_side: int | None, what: str) -> tf.Tensor:
    """Decodes images of one size, and refuses what is none.

    Args:
        encoded: string [batch]; JPEG, PNG, BMP, GIF (its first frame) or WebP.
        max_side: The most pixels of a side, by the header; None takes any.
        what: Name of the input, for messages.

    Returns:
        uint8 [batch, height, width, 3].
    """
    numbers = tf.range(tf.size(encoded))

    def read(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        name = tf.strings.join([what, "[", tf.strings.as_string(pair[1]), "]"])
        return checked_size(read_size(pair[0], name), max_side, name)

    sizes = tf.map_fn(read, (encoded, numbers), fn_output_signature=tf.TensorSpec([2], tf.int32))
    with tf.control_dependencies([checked_sizes(sizes, what)]):
        encoded = tf.identity(encoded)
    signature = tf.TensorSpec([None, None, 3], tf.uint8)
    return tf.map_fn(_decode, encoded, fn_output_signature=signature, parallel_iterations=8)


def read_size(encoded: tf.Tensor, name: str | tf.Tensor) -> tf.Tensor:
    """Reads the size of an image from its header.

    Args:
        encoded: string [].
        name: Of the image, for messages.

    Returns:
        Height and width, int32 [2]; the graph stops where the format is none of those, or the end is missing.
    """
    padded = tf.strings.join([encoded, tf.constant(b"\0" * _HEADER)])
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(padded, 0, _HEADER), tf.uint8), tf.int32)
    is_jpeg, is_png, is_bmp, is_gif = (_starts(header, magic) for magic in (_JPEG, _PNG, _BMP, _GIF))
    is_webp = _starts(header, b"RIFF") & _starts(header[8:], b"WEBP")
    is_known = is_jpeg | is_png | is_bmp | is_gif | is_webp
    length = tf.strings.length(encoded)
    checks = [
        refuse_unless(length > 0, name, ": no bytes; expected an encoded image"),
        refuse_unless((length == 0) | is_known, name, ": no image; expected JPEG, PNG, BMP, GIF or WebP"),
        refuse_unless(_holds_end(encoded, is_jpeg, _JPEG_END), name, ": a JPEG that is cut off before its end"),
        refuse_unless(_holds_end(encoded, is_png, _PNG_END), name, ": a PNG that is cut off before its end"),
    ]
    with tf.control_dependencies(checks):
        encoded, header = tf.identity(encoded), tf.identity(header)
    cases = [
        (is_jpeg, lambda: tf.image.extract_jpeg_shape(encoded)[:2]),
        (is_png, lambda: tf.stack([_big_endian(header[20:24]), _big_endian(header[16:20])])),
        (is_bmp, lambda: tf.abs(tf.stack([_little_endian(header[22:26]), _little_endian(header[18:22])]))),
        (is_gif, lambda: tf.stack([_little_endian(header[8:10]), _little_endian(header[6:8])])),
    ]
    return tf.ensure_shape(tf.case(cases, default=lambda: _webp_size(header)), [2])


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    # The default method of JPEG differs from what other decoders, and the converters, give.
    is_jpeg = tf.io.is_jpeg(encoded)
    image = tf.cond(
        is_jpeg,
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(image, [None, None, 3])


def _starts(header: tf.Tensor, magic: bytes) -> tf.Tensor:
    return tf.reduce_all(header[: len(magic)] == tf.constant(list(magic)))


def _holds_end(encoded: tf.Tensor, is_format: tf.Tensor, end: bytes) -> tf.Tensor:
    """Whether the mark of a format's end is anywhere: some cameras write more behind it, and decoders find the rest."""

    def search() -> tf.Tensor:
        values = tf.io.decode_raw(encoded, tf.uint8)
        count = tf.maximum(tf.size(values) - len(end) + 1, 0)
        found = tf.ones([count], tf.bool)
        for offset, byte in enumerate(end):
            found &= values[offset : offset + count] == tf.constant(byte, tf.uint8)
        return tf.reduce_any(found)

    return tf.cond(is_format, search, lambda: tf.constant(True))


def _little_endian(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.bitwise.left_shift(values, 8 * tf.range(tf.size(values))))


def _big_endian(values: tf.Tensor) -> tf.Tensor:
    return _little_endian(tf.reverse(values, [0]))


def _webp_size(header: tf.Tensor) -> tf.Tensor:
    """Height and width by the first chunk: extended, lossless, or else lossy."""
    mask = 0x3FFF
    bits = _little_endian(header[21:25])
    lossless = tf.stack([tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 14), mask), bits & mask]) + 1
    lossy = tf.stack([_little_endian(header[28:30]), _little_endian(header[26:28])]) & mask
    extended = tf.stack([_little_endian(header[27:30]), _little_endian(header[24:27])]) + 1
    kind = header[15]
    return tf.where(kind == ord("X"), extended, tf.where(kind == ord("L"), lossless, lossy))
