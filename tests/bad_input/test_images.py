"""Images of every kind, as `convert` stores them and `predict` sees them: shown rightly, or refused by name.

What a truncated file, pages or a decompression bomb end in, `tests/data/converters/test_corrupted_sources.py` shows for
every converter.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite import cli, predictor
from deeplab2_lite.dataset_info import load_dataset_info

HEIGHT, WIDTH = 16, 24
# Flat blocks, so that JPEG keeps them.
BLOCKS = np.array(
    [[[200, 40, 90], [20, 160, 60], [250, 250, 5]], [[0, 0, 0], [255, 255, 255], [90, 90, 200]]], np.uint8
)
RGB = np.kron(BLOCKS, np.ones((8, 8, 1), np.uint8))
GREY = RGB[..., 0]
DEEP = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 37 + 1000).reshape(HEIGHT, WIDTH)
IDS = (np.arange(HEIGHT * WIDTH) // 48).astype(np.uint8).reshape(HEIGHT, WIDTH)


def repeat(channel):
    return np.repeat(np.asarray(channel)[..., None], 3, axis=2)


def scaled(low, high):
    return repeat(np.rint((np.clip(DEEP.astype(float), low, high) - low) * (255 / (high - low))).astype(np.uint8))


def palette():
    image = Image.fromarray((np.arange(HEIGHT * WIDTH) % 4).astype(np.uint8).reshape(HEIGHT, WIDTH), "L").convert("P")
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255, 9, 9, 9])
    return image


def ycck() -> bytes:
    """A JPEG as Adobe writes it, its inks as luminance and colour differences; Pillow writes plain CMYK alone."""
    cmyk = np.asarray(Image.fromarray(RGB).convert("CMYK"))
    luminance = np.asarray(Image.fromarray(cmyk[..., :3]).convert("YCbCr"))
    # Pillow stores the inverse of what it is given; black stays as in CMYK.
    planes = np.concatenate([255 - luminance, cmyk[..., 3:]], axis=2)
    buffer = io.BytesIO()
    Image.frombytes("CMYK", (WIDTH, HEIGHT), planes.tobytes()).save(buffer, "JPEG", quality=98)
    content = bytearray(buffer.getvalue())
    transform = content.index(b"Adobe") + 11
    assert content[transform] == 0
    content[transform] = 2
    return bytes(content)


def saved(image, name, **options):
    def write(folder: Path) -> Path:
        path = folder / name
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
        return path

    return write


RGBA = Image.fromarray(RGB).convert("RGBA")
SEE_THROUGH = RGBA.copy()
SEE_THROUGH.putpixel((0, 0), (1, 2, 3, 254))
INVERTED = {262: 0}
SIGNED = {339: 2}
SHOWN = {
    "grey": (saved(GREY, "x.png"), repeat(GREY), 0),
    "grey_jpeg": (saved(GREY, "x.jpg", quality=98), repeat(GREY), 2),
    "one_bit": (saved(Image.fromarray(GREY > 99), "x.png"), repeat((GREY > 99) * np.uint8(255)), 0),
    "palette": (saved(palette(), "x.png"), np.asarray(palette().convert("RGB")), 0),
    "palette_gif": (saved(palette(), "x.gif"), np.asarray(palette().convert("RGB")), 0),
    "cmyk_jpeg": (saved(Image.fromarray(RGB).convert("CMYK"), "x.jpg", quality=98), RGB, 4),
    "cmyk_tiff": (saved(Image.fromarray(RGB).convert("CMYK"), "x.tif"), RGB, 0),
    "ycck_jpeg": (saved(ycck(), "x.jpg"), RGB, 6),
    "opaque_alpha": (saved(RGBA, "x.png"), RGB, 0),
    "opaque_grey_alpha": (saved(Image.fromarray(GREY).convert("LA"), "x.png"), repeat(GREY), 0),
    "upper_case_ending": (saved(RGB, "X.PNG"), RGB, 0),
    "space_and_umlaut": (saved(RGB, "ein Bild ü.bmp"), RGB, 0),
}
REFUSED = {
    "transparent": (saved(SEE_THROUGH, "x.png"), "has transparent pixels; flatten it"),
    "palette_transparency": (saved(palette(), "x.png", transparency=2), "has transparent pixels; flatten it"),
    "sixteen_bit_png": (
        saved(DEEP, "x.png"),
        "16 bits a pixel; expected 8, or for 'convert' and 'predict' alike --high",
    ),
    "sixteen_bit_tiff": (
        saved(DEEP, "x.tif"),
        "16 bits a pixel; expected 8, or for 'convert' and 'predict' alike --hi",
    ),
    "signed_tiff": (saved(DEEP, "x.tif", tiffinfo=SIGNED), "holds signed numbers; expected unsigned ones"),
    "white_is_zero": (saved(DEEP, "x.tif", tiffinfo=INVERTED), "a TIFF of 16 bits in which white is 0"),
    "integers": (saved(DEEP.astype(np.int32), "x.tif"), "32 bits a channel"),
    "floats": (saved(DEEP.astype(np.float32), "x.tif"), "32 bits a channel"),
    "animation": (
        saved(RGB, "x.gif", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        "expected a single image",
    ),
    "cut_jpeg": (lambda folder: cut(saved(RGB, "x.jpg")(folder)), "damaged or cut off"),
    "no_image": (saved(b"This is text.", "x.png"), "not an image"),
    "zero_bytes": (saved(b"", "x.png"), "not an image"),
}


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-20])
    return path


class Seen:
    """Stands in for a model that finds nothing, and keeps the pixels that it was given."""

    has_heads = False
    images: list[np.ndarray] = []  # noqa: RUF012

    def __init__(self, models, overrides):
        self.info = load_dataset_info("shapes")

    def observe(self, image, heads=True):
        from deeplab2_lite.observation import Observation
        from deeplab2_lite.postprocessing.instances import InstanceTable
        from deeplab2_lite.postprocessing.segmentation import PanopticResult

        self.images.append(image)
        zeros, none = np.zeros(image.shape[:2], np.int32), np.zeros(0, np.int32)
        table = InstanceTable(none > 0, none, none, np.zeros((0, 2), np.int32), none, none, np.zeros((0, 4), np.int32))
        return Observation(PanopticResult(zeros, zeros, zeros, table), np.zeros(0, np.float32), None)


@pytest.fixture(autouse=True)
def seen(monkeypatch):
    monkeypatch.setattr(predictor, "Predictor", Seen)
    monkeypatch.setattr(Seen, "images", [])
    return Seen.images


def data_set(root: Path, write, ids=IDS, **options) -> Path:
    """A data set of one image with its mask; returns the image."""
    for name in ("images", "masks"):
        (root / "train" / name).mkdir(parents=True)
    path = write(root / "train" / "images")
    saved(ids, f"{path.stem}.png", **options)(root / "train" / "masks")
    return path


def convert(root: Path, *words: str) -> int:
    command = ["convert", "instance_masks", f"--input={root}", f"--output={root / 'records'}", "--splits", "train"]
    return cli.main([*command, "--num_processes=1", *words])


def predict(root: Path, path: Path, *words: str) -> int:
    return cli.main(["predict", "--model=any", f"--input={path}", f"--output={root / 'out'}", *words])


def record(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pixels and panoptic ids that training gets."""
    import tensorflow as tf

    from deeplab2_lite.data.record_index import open_records, record_reader
    from deeplab2_lite.data.records import parse_record

    read = record_reader(open_records(root / "records", "train"))
    parsed = parse_record(read(tf.constant(0, tf.int64)), load_dataset_info(root / "records"))
    return parsed.image.numpy(), parsed.panoptic.numpy()


def only_line(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.mark.parametrize("kind", SHOWN)
def test_what_an_image_shows_is_what_training_and_prediction_see(kind, tmp_path, seen):
    write, expected, tolerance = SHOWN[kind]
    path = data_set(tmp_path, write)
    assert convert(tmp_path) == 0 and predict(tmp_path, path) == 0
    image, _ = record(tmp_path)
    assert np.abs(image.astype(int) - expected).max() <= tolerance
    np.testing.assert_array_equal(seen[0], image)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_shown_rightly_is_refused_by_name(kind, tmp_path, seen, capsys):
    write, message = REFUSED[kind]
    path = data_set(tmp_path, write)
    assert convert(tmp_path) == 2
    assert only_line(capsys).startswith(f"error: {path}: {message}")
    assert not list(tmp_path.glob("records/*.tfrecord")) and not (tmp_path / "records/dataset_info.yaml").exists()
    assert predict(tmp_path, path) == 2
    assert only_line(capsys).startswith(f"error: {path}: {message}")
    assert not list(tmp_path.glob("out/*.json")) and not list(tmp_path.glob("out/*/*"))


@pytest.mark.parametrize(
    ("high_depth", "expected"),
    [
        ("full_range", scaled(0, 65535)),
        ("per_image", scaled(DEEP.min(), DEEP.max())),
        ("percentile", scaled(*np.percentile(DEEP, (0.1, 99.9)))),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_come_to_eight_alike_in_training_and_prediction(suffix, high_depth, expected, tmp_path, seen):
    path = data_set(tmp_path, saved(DEEP, f"x.{suffix}"))
    words = [f"--high_depth={high_depth}"]
    assert convert(tmp_path, *words) == 0 and predict(tmp_path, path, *words) == 0
    np.testing.assert_array_equal(record(tmp_path)[0], expected)
    np.testing.assert_array_equal(seen[0], expected)


UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(np.swapaxes(x, 0, 1), 2),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_images_are_turned_as_exif_says_and_labels_are_of_the_upright_image(orientation, tmp_path, seen):
    turn, exif = UPRIGHT[orientation], Image.Exif()
    exif[0x0112] = orientation
    path = data_set(tmp_path, saved(RGB, "x.png", exif=exif), np.ascontiguousarray(turn(IDS)))
    assert convert(tmp_path) == 0 and predict(tmp_path, path) == 0
    image, panoptic = record(tmp_path)
    np.testing.assert_array_equal(image, turn(RGB))
    np.testing.assert_array_equal(seen[0], turn(RGB))
    np.testing.assert_array_equal(panoptic, np.where(turn(IDS) > 0, 1000 + turn(IDS).astype(int), 0))


def test_a_label_of_the_image_as_stored_is_refused_where_sizes_tell(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    data_set(tmp_path, saved(RGB, "x.png", exif=exif))
    assert convert(tmp_path) == 2
    assert "masks/x.png: 16x24 pixels, but its image" in only_line(capsys)


def test_labels_in_which_white_is_zero_are_refused(tmp_path, capsys):
    path = data_set(tmp_path, saved(RGB, "x.png"))
    (tmp_path / "train/masks/x.png").unlink()
    Image.fromarray(IDS).save(tmp_path / "train/masks" / f"{path.stem}.tif", tiffinfo=INVERTED)
    assert convert(tmp_path) == 2
    assert "x.tif: a TIFF in which white is 0" in only_line(capsys)


def test_large_images_and_unreadable_exif_cost_no_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)
    path = data_set(tmp_path, saved(RGB, "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"))
    assert convert(tmp_path) == 0 and predict(tmp_path, path) == 0
    assert capsys.readouterr().err == ""
