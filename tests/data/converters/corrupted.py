"""Small data sets of every layout that the converters read, and ways to spoil a file of theirs."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 6, 8


def photograph(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def label(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def blocks(left: int, right: int, dtype: type = np.uint8) -> np.ndarray:
    values = np.full((HEIGHT, WIDTH), left, dtype)
    values[:, WIDTH // 2 :] = right
    return values


# ---- data sets: each writes a sound one, and returns the words of `deeplab2-lite convert`


def instance_masks(root: Path) -> list[str]:
    for stem in ("a", "b"):
        photograph(root / "train" / "images" / f"{stem}.png")
        label(root / "train" / "masks" / f"{stem}.png", blocks(0, 300, np.uint16))
    return ["instance_masks", "--input", str(root), "--splits", "train"]


def semantic_maps(root: Path) -> list[str]:
    for stem in ("a", "b"):
        photograph(root / "train" / "images" / f"{stem}.jpg")
        label(root / "train" / "labels" / f"{stem}.png", blocks(0, 1))
    return ["semantic_maps", "--input", str(root), "--splits", "train", "--classes", "soil", "water"]


def image_folders(root: Path) -> list[str]:
    for name in ("ant", "bee"):
        photograph(root / "train" / name / "a.jpg")
    return ["image_folders", "--input", str(root), "--splits", "train"]


def coco_panoptic(root: Path) -> list[str]:
    annotations = []
    for stem in ("a", "b"):
        photograph(root / "train2017" / f"{stem}.jpg")
        ids = np.stack([blocks(7, 9), blocks(0, 1), blocks(0, 0)], axis=-1)
        label(root / "annotations" / "panoptic_train2017" / f"{stem}.png", ids)
        segments = [{"id": 7, "category_id": 3, "iscrowd": 0}, {"id": 9 + 256, "category_id": 5, "iscrowd": 0}]
        annotations.append({"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments})
    content = {
        "images": [{"id": stem, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH} for stem in ("a", "b")],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat", "isthing": 1}, {"id": 5, "name": "floor", "isthing": 0}],
    }
    write_json(root / "annotations" / "panoptic_train2017.json", content)
    return ["coco_panoptic", "--input", str(root), "--splits", "train"]


def coco_instances(root: Path) -> list[str]:
    for stem in ("a", "b"):
        photograph(root / "train2017" / f"{stem}.jpg")
    polygon = [[1, 1, 5, 1, 5, 4, 1, 4]]
    content = {
        "images": [
            {"id": i, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH} for i, stem in enumerate("ab")
        ],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 3, "iscrowd": 0, "segmentation": polygon} for i in range(2)
        ],
        "categories": [{"id": 3, "name": "cat"}],
    }
    write_json(root / "annotations" / "instances_train2017.json", content)
    return ["coco_instances", "--input", str(root), "--splits", "train"]


def labelme(root: Path) -> list[str]:
    for stem in ("a", "b"):
        photograph(root / "train" / f"{stem}.png")
        shape = {"label": "cat", "points": [[1, 1], [4, 3]], "group_id": None, "shape_type": "rectangle"}
        content = {
            "version": "5.5.0",
            "shapes": [shape],
            "imagePath": f"{stem}.png",
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        write_json(root / "train" / f"{stem}.json", content)
    return ["labelme", "--input", str(root), "--splits", "train"]


def cityscapes(root: Path) -> list[str]:
    for frame in ("ulm_000000_000019", "ulm_000001_000019"):
        photograph(root / "leftImg8bit" / "train" / "ulm" / f"{frame}_leftImg8bit.png")
        ids = root / "gtFine" / "train" / "ulm" / f"{frame}_gtFine_instanceIds.png"
        label(ids, blocks(7, 26001, np.uint16))
    return ["cityscapes", "--input", str(root), "--splits", "train"]


def mapillary_vistas(root: Path) -> list[str]:
    for stem in ("a", "b"):
        photograph(root / "training" / "images" / f"{stem}.jpg")
        label(root / "training" / "v1.2" / "instances" / f"{stem}.png", blocks(256 + 1, 512, np.uint16))
    names = [("void", False, False), ("car", True, True), ("road", False, True)]
    labels = [
        {"name": f"x--{name}", "readable": name, "instances": things, "evaluate": evaluated, "color": [i, i, i]}
        for i, (name, things, evaluated) in enumerate(names)
    ]
    write_json(root / "config_v1.2.json", {"labels": labels})
    return ["mapillary_vistas", "--input", str(root), "--splits", "train"]


LAYOUTS: dict[str, Callable[[Path], list[str]]] = {
    function.__name__: function
    for function in (
        instance_masks,
        semantic_maps,
        image_folders,
        coco_panoptic,
        coco_instances,
        labelme,
        cityscapes,
        mapillary_vistas,
    )
}


# ---- ways to spoil any file


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _deleted(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def _circular(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _text(path: Path) -> None:
    path.write_text("This is no image, and no JSON.")


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(2000))


ANY_FILE = {
    "empty": _empty,
    "half": _half,
    "deleted": _deleted,
    "folder": _folder,
    "dangling": _dangling,
    "circular": _circular,
    "text": _text,
    "noise": _noise,
}


# ---- ways to spoil an image


def _saved(image: Image.Image, image_format: str, path: Path, **options: Any) -> None:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    path.write_bytes(buffer.getvalue())


def _bomb(path: Path) -> None:
    """A PNG of a few bytes that says it has 10^10 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def _flipped_bits(path: Path) -> None:
    """A PNG or JPEG whose compressed pixels are damaged in their middle."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    for i in range(middle, middle + 20):
        content[i] ^= 0xFF
    path.write_bytes(bytes(content))


def _transparent(path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    _saved(Image.fromarray(pixels), "PNG", path)


def _pages(path: Path) -> None:
    page = Image.new("L", (WIDTH, HEIGHT))
    _saved(page, "TIFF", path, save_all=True, append_images=[page])


def _floats(path: Path) -> None:
    _saved(Image.fromarray(np.zeros((HEIGHT, WIDTH), np.float32)), "TIFF", path)


def _other_size(path: Path) -> None:
    with Image.open(path) as image:
        resized = image.resize((WIDTH, HEIGHT + 1), Image.Resampling.NEAREST)
        image_format = image.format
    _saved(resized, image_format, path)


def _sixteen_bits(path: Path) -> None:
    _saved(Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16)), "PNG", path)


IMAGES = {
    "bomb": _bomb,
    "transparent": _transparent,
    "pages": _pages,
    "floats": _floats,
    "other_size": _other_size,
    "sixteen_bits": _sixteen_bits,
}


def _lossy(path: Path) -> None:
    _saved(Image.new("L", (WIDTH, HEIGHT)), "JPEG", path)


def _coloured(path: Path) -> None:
    _saved(Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)), "PNG", path)


def _grey(path: Path) -> None:
    _saved(Image.new("L", (WIDTH, HEIGHT), 7), "PNG", path)


def _wrong_id(path: Path) -> None:
    """Ids beyond all that the layout knows."""
    with Image.open(path) as image:
        if image.mode == "RGB":
            other: Image.Image = Image.new("RGB", image.size, (250, 250, 250))
        elif image.mode == "L":
            other = Image.new("L", image.size, 200)
        else:
            other = Image.fromarray(np.full((HEIGHT, WIDTH), 64_999, np.uint16))
    _saved(other, "PNG", path)


MAPS = {
    "bomb": _bomb,
    "flipped_bits": _flipped_bits,
    "transparent": _transparent,
    "pages": _pages,
    "floats": _floats,
    "other_size": _other_size,
    "lossy": _lossy,
}
ID_MAPS = {**MAPS, "coloured": _coloured, "wrong_id": _wrong_id}
COLOUR_MAPS = {**MAPS, "grey": _grey, "wrong_id": _wrong_id, "sixteen_bits": _sixteen_bits}


# ---- ways to spoil JSON


def _edited(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content)))

    return spoil


def with_value(key: str, value: Any) -> Callable[[Path], None]:
    """Replaces a value of the outermost object."""
    return _edited(lambda content: {**content, key: value})


def _without(key: str) -> Callable[[Path], None]:
    return _edited(lambda content: {k: v for k, v in content.items() if k != key})


def _deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def _other_encoding(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"', b"\x93", 1))


def json_faults(keys: list[str], lists: list[str]) -> dict[str, Callable[[Path], None]]:
    """Faults of a JSON of one object.

    Args:
        keys: Keys that it must have.
        lists: Those of them whose values are lists of objects.
    """
    faults: dict[str, Callable[[Path], None]] = {
        "deep": _deep,
        "other_encoding": _other_encoding,
        "a_list": _edited(lambda content: [content]),
        "null": _edited(lambda content: None),
        "a_number": _edited(lambda content: 5),
    }
    for key in keys:
        faults[f"without_{key}"] = _without(key)
        faults[f"{key}_text"] = with_value(key, "text")
        faults[f"{key}_number"] = with_value(key, 1.5)
    for key in lists:
        faults[f"{key}_of_numbers"] = with_value(key, [1, 2])
        faults[f"{key}_of_nothing"] = with_value(key, [{}])
        faults[f"{key}_of_lists"] = with_value(key, [[]])
    return faults


def in_first(key: str, field: str, value: Any) -> Callable[[Path], None]:
    """Replaces a field in the first entry of a list; `...` removes it."""

    def change(content: Any) -> Any:
        first = dict(content[key][0])
        if value is ...:
            del first[field]
        else:
            first[field] = value
        return {**content, key: [first, *content[key][1:]]}

    return _edited(change)


def doubled(key: str) -> Callable[[Path], None]:
    """Lists the first entry of a list once more."""
    return _edited(lambda content: {**content, key: [content[key][0], *content[key]]})
