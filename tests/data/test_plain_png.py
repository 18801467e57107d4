"""The fast decoder of plain RGB PNGs: Pillow's pixels or nothing, and Pillow's word on what is damaged."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deeplab2_lite.data import images
from deeplab2_lite.data.images import read_rgb_label
from deeplab2_lite.data.plain_png import decode_plain_png
from deeplab2_lite.errors import UserError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def header(height, width, depth=8, color=2, interlacing=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlacing))


def png(rows, height, width, pieces=1, before=b"", **kind):
    """A PNG of filtered rows, whose compressed bytes are spread over so many chunks."""
    compressed = zlib.compress(rows)
    length = -(-len(compressed) // pieces)
    parts = [compressed[i : i + length] for i in range(0, len(compressed), length)]
    data = b"".join(chunk(b"IDAT", part) for part in parts)
    return SIGNATURE + header(height, width, **kind) + before + data + chunk(b"IEND", b"")


def unfiltered(image):
    return b"".join(b"\0" + row.tobytes() for row in image)


def by_pillow(encoded):
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image)


@given(st.data())
def test_every_filter_gives_the_pixels_of_pillow(data):
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    share = data.draw(st.sampled_from([0.05, 0.3, 1]))  # of bytes that are not zero, as in label maps or as in noise
    values = random.integers(0, 256, (height, 3 * width)) * (random.random((height, 3 * width)) < share)
    filters = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    rows = b"".join(bytes([kind, *row]) for kind, row in zip(filters, values.tolist(), strict=True))
    encoded = png(rows, height, width, pieces=data.draw(st.integers(1, 4)))
    decoded = decode_plain_png(encoded)
    assert decoded.dtype == np.uint8 and decoded.shape == (height, width, 3)
    np.testing.assert_array_equal(decoded, by_pillow(encoded))


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"compress_level": 9}, {"optimize": True}])
def test_files_of_pillow(options):
    ids = np.kron(np.random.default_rng(1).integers(0, 2**24, (20, 30)), np.ones((16, 16), int))
    pixels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    for each in (pixels, np.random.default_rng(2).integers(0, 256, (300, 200, 3), dtype=np.uint8)):
        buffer = io.BytesIO()
        Image.fromarray(each).save(buffer, "PNG", **options)
        np.testing.assert_array_equal(decode_plain_png(buffer.getvalue()), each)


def test_what_is_not_plain_is_left_to_pillow(tmp_path):
    text = chunk(b"tEXt", b"key\0value")
    key = chunk(b"tRNS", struct.pack(">3H", *RGB[0, 0].tolist()))
    plain = unfiltered(RGB)
    interlaced = unfiltered(RGB[:1, :1])
    for name, encoded in (("text", png(plain, 5, 7, before=text)), ("key", png(plain, 5, 7, before=key))):
        assert decode_plain_png(encoded) is None
        path = tmp_path / f"{name}.png"
        path.write_bytes(encoded)
        np.testing.assert_array_equal(read_rgb_label(path), RGB)
    (tmp_path / "interlaced.png").write_bytes(png(interlaced, 1, 1, interlacing=1))
    assert decode_plain_png((tmp_path / "interlaced.png").read_bytes()) is None
    np.testing.assert_array_equal(read_rgb_label(tmp_path / "interlaced.png"), RGB[:1, :1])
    for mode in ("L", "P", "RGBA", "1"):
        buffer = io.BytesIO()
        Image.fromarray(RGB).convert(mode).save(buffer, "PNG")
        assert decode_plain_png(buffer.getvalue()) is None
    assert decode_plain_png(png(bytes(1 + 42), 1, 7, depth=16)) is None
    assert decode_plain_png(b"") is None and decode_plain_png(SIGNATURE) is None and decode_plain_png(b"text") is None


def damages():
    whole = png(unfiltered(RGB), 5, 7)
    flipped = bytearray(whole)
    flipped[60] ^= 1
    yield "flipped", bytes(flipped)
    yield "cut_in_pixels", whole[:70]
    yield "cut_in_header", whole[:20]
    yield "cut_at_end", whole[:-6]
    yield "no_pixels", SIGNATURE + header(5, 7) + chunk(b"IEND", b"")
    yield "no_header", SIGNATURE + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    yield "short_header", SIGNATURE + chunk(b"IHDR", bytes(4)) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    yield "few_pixels", png(unfiltered(RGB[:4]), 5, 7)
    yield "no_zlib", SIGNATURE + header(5, 7) + chunk(b"IDAT", b"nothing of that kind") + chunk(b"IEND", b"")
    yield "filter", png(b"\x05" + unfiltered(RGB)[1:], 5, 7)
    yield "no_size", png(b"", 0, 7)
    yield "huge", png(b"", 2**31 - 1, 2**31 - 1)
    yield "signature", whole[1:]


@pytest.mark.parametrize(("name", "encoded"), list(damages()), ids=[name for name, _ in damages()])
def test_damaged_files_read_as_by_pillow_alone(tmp_path, monkeypatch, name, encoded):
    path = tmp_path / f"{name}.png"
    path.write_bytes(encoded)

    def outcome():
        try:
            return read_rgb_label(path).tolist()
        except UserError as error:
            assert "\n" not in str(error) and str(error).startswith(f"{path}: ")
            return str(error)

    assert decode_plain_png(encoded) is None
    found = outcome()
    monkeypatch.setattr(images, "decode_plain_png", lambda encoded: None)
    assert outcome() == found


@given(st.data())
def test_no_damage_passes_for_another_image(data):
    whole = png(unfiltered(RGB), 5, 7, pieces=2)
    encoded = bytearray(whole)
    encoded[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    assert decode_plain_png(bytes(encoded)) is None
    assert decode_plain_png(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@given(st.data())
def test_odd_compressed_data_is_that_of_pillow_or_none(data):
    # As no storage damages it, for the checksum fits: what a broken encoder may write.
    compressed = bytearray(zlib.compress(unfiltered(RGB // 128)))
    compressed[data.draw(st.integers(0, len(compressed) - 1))] = data.draw(st.integers(0, 255))
    encoded = SIGNATURE + header(5, 7) + chunk(b"IDAT", bytes(compressed)) + chunk(b"IEND", b"")
    try:
        expected = by_pillow(encoded)
    except (OSError, SyntaxError):
        return
    decoded = decode_plain_png(encoded)
    assert decoded is None or (decoded == expected).all()


def test_the_limit_of_pillow_holds(monkeypatch):
    encoded = png(unfiltered(RGB), 5, 7)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)
    assert decode_plain_png(encoded) is None
    for limit in (35, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        np.testing.assert_array_equal(decode_plain_png(encoded), RGB)
