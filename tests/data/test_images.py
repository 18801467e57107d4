"""Users' images: each kind is read as what it shows, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite.data.images import load_image_for_record, read_instance_ids, read_rgb, read_rgb_label
from deeplab2_lite.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = (np.arange(35).reshape(5, 7) * 1700).astype(np.uint16)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6  # to be turned 90 degrees clockwise


def save(tmp_path, name, image, **options):
    path = tmp_path / name
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def png16(tmp_path, name, channels):
    """An RGB PNG of 16 bits a channel, which Pillow cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = channels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path = tmp_path / name
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_plain_images_keep_their_bytes(tmp_path):
    for name, image, kind, channels in (
        ("rgb.png", RGB, "png", 3),
        ("grey.png", RGB[..., 0], "png", 1),
        ("rgb.jpg", RGB, "jpeg", 3),
        ("grey.jpg", RGB[..., 0], "jpeg", 1),
    ):
        path = save(tmp_path, name, image)
        stored = load_image_for_record(path)
        assert stored.encoded == path.read_bytes()
        assert stored[1:] == (kind, 5, 7, channels)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("opaque.png", Image.fromarray(RGB).convert("RGBA")),
        ("grey_alpha.png", Image.fromarray(RGB[..., 0]).convert("LA")),
        ("palette.png", Image.fromarray(RGB).quantize(16)),
        ("bits.png", Image.fromarray(RGB[..., 0] > 99)),
        ("rgb.tif", Image.fromarray(RGB)),
        ("rgb.bmp", Image.fromarray(RGB)),
    ],
)
def test_lossless_kinds_show_the_same(tmp_path, name, image):
    path = save(tmp_path, name, image)
    stored = load_image_for_record(path)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_rgb(path), expected)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored.encoded))), expected)
    assert stored[1:] == ("png", 5, 7, 3)


def test_cmyk_jpeg_is_converted(tmp_path):
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    path = save(tmp_path, "cmyk.jpg", Image.fromarray(flat).convert("CMYK"), quality=95)
    assert load_image_for_record(path).format == "png"
    assert np.abs(read_rgb(path).astype(int) - flat).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_rotation_is_applied(tmp_path, suffix):
    path = save(tmp_path, f"turned.{suffix}", RGB, exif=ROTATED)
    stored = load_image_for_record(path)
    assert (stored.height, stored.width) == (7, 5)
    np.testing.assert_array_equal(read_rgb(path), np.rot90(RGB, -1))
    deep = save(tmp_path, f"deep.{suffix}", DEEP, exif=ROTATED)
    np.testing.assert_array_equal(read_instance_ids(deep), np.rot90(DEEP, -1))
    np.testing.assert_array_equal(read_rgb(deep, "full_range")[..., 0], np.rint(np.rot90(DEEP, -1) / 257))


def test_rotated_jpeg_is_stored_upright(tmp_path):
    path = save(tmp_path, "turned.jpg", RGB, exif=ROTATED, quality=100, subsampling=0)
    plain = save(tmp_path, "plain.jpg", RGB, quality=100, subsampling=0)
    np.testing.assert_array_equal(read_rgb(path), np.rot90(read_rgb(plain), -1))
    assert load_image_for_record(path).format == "png"


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_refused_or_scaled(tmp_path, suffix):
    path = save(tmp_path, f"deep.{suffix}", DEEP)
    with pytest.raises(UserError, match=rf"deep\.{suffix}: 16 bits a pixel; .*--high_depth=full_range"):
        read_rgb(path)
    np.testing.assert_array_equal(read_rgb(path, "full_range")[..., 2], np.rint(DEEP / 257))
    np.testing.assert_array_equal(read_rgb(path, "per_image")[..., 1], np.rint(DEEP * (255 / DEEP.max())))


def test_constant_sixteen_bit_image_is_scaled_without_a_division_by_zero(tmp_path):
    path = save(tmp_path, "flat.png", np.full((3, 3), 777, np.uint16))
    assert not read_rgb(path, "per_image").any()


def test_what_cannot_be_read_faithfully_is_refused(tmp_path):
    see_through = Image.fromarray(RGB).convert("RGBA")
    see_through.putpixel((0, 0), (1, 2, 3, 254))
    cases = [
        (save(tmp_path, "alpha.png", see_through), "transparent pixels"),
        (save(tmp_path, "key.png", RGB, transparency=tuple(RGB[0, 0].tolist())), "transparent pixels"),
        (save(tmp_path, "int32.tif", DEEP.astype(np.int32)), "32 bits a channel"),
        (save(tmp_path, "float.tif", DEEP.astype(np.float32)), "32 bits a channel"),
        (png16(tmp_path, "deep_rgb.png", RGB.astype(np.uint16) * 257), "16 bits a channel"),
        (save(tmp_path, "pages.tif", RGB, save_all=True, append_images=[Image.fromarray(RGB)]), "got 2 pages"),
        (tmp_path / "absent.png", "cannot be read"),
    ]
    text = tmp_path / "text.png"
    text.write_text("hello")
    cases.append((text, "not an image"))
    for path, message in cases:
        with pytest.raises(UserError, match=rf"{path.name}: .*{message}"):
            load_image_for_record(path, "full_range")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_cut_off_images_are_refused(tmp_path, suffix):
    big = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, f"cut.{suffix}", big)
    whole = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match=rf"cut\.{suffix}: damaged or cut off"):
            load_image_for_record(path)


def test_png_without_its_end_is_not_kept_as_it_is(tmp_path):
    path = save(tmp_path, "end.png", RGB)
    path.write_bytes(path.read_bytes()[:-12])
    stored = load_image_for_record(path)
    assert stored.encoded.endswith(b"IEND\xaeB`\x82")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored.encoded))), RGB)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_instance_ids_are_exact(tmp_path, dtype):
    ids = np.array([[0, 1, 7], [200, 255, 0]]).astype(dtype)
    if dtype != np.uint8:
        ids[0, 0] = 65535
    path = save(tmp_path, "ids.tif" if dtype == np.int32 else "ids.png", ids)
    np.testing.assert_array_equal(read_instance_ids(path), ids)
    assert read_instance_ids(path).dtype == np.int32


def test_palette_indices_are_ids(tmp_path):
    image = Image.fromarray(np.array([[0, 3], [2, 1]], np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0] * 4)
    np.testing.assert_array_equal(read_instance_ids(save(tmp_path, "p.png", image)), np.asarray(image))


def test_bad_label_images_are_refused(tmp_path):
    negative = save(tmp_path, "negative.tif", np.array([[0, -1]], np.int32))
    for path, message in (
        (save(tmp_path, "rgb.png", RGB), "got mode RGB"),
        (save(tmp_path, "float.tif", DEEP.astype(np.float32)), "got mode F"),
        (save(tmp_path, "lossy.jpg", RGB[..., 0]), "without loss"),
        (negative, "got -1..0"),
    ):
        with pytest.raises(UserError, match=rf"{path.name}: .*{message}"):
            read_instance_ids(path)
    for path in (save(tmp_path, "g.png", RGB[..., 0]), png16(tmp_path, "deep.png", RGB.astype(np.uint16))):
        with pytest.raises(UserError, match=rf"{path.name}: expected an 8-bit RGB PNG"):
            read_rgb_label(path)
