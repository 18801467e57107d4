"""Which images a submission must hold, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from deeplab2_lite.data.images import SUFFIXES
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.submission.formats import SubmissionFormat
from deeplab2_lite.files import read_json

_EXIF_ORIENTATION = 0x0112
# The values that stand for a quarter turn, which `read_rgb` undoes.
_QUARTER_TURNS = (5, 6, 7, 8)
_CITYSCAPES_ENDING = "_leftImg8bit.png"


class ExpectedImage(NamedTuple):
    """An image of which the server asks for a prediction.

    Attributes:
        key: What the names of its files begin with.
        image_id: In a panoptic JSON.
        size: Height and width in pixels.
        path: The image; None where a list of images alone tells of it.
    """

    key: str
    image_id: int | str
    size: tuple[int, int]
    path: Path | None


def expected_images(
    form: SubmissionFormat, folder: Path | None, image_info: Path | None
) -> dict[str, ExpectedImage] | None:
    """Lists the images that a submission must hold.

    Args:
        form: The format.
        folder: Of the images, in it or in folders below.
        image_info: A JSON with a list `images`, as of COCO's test sets; only these count, and must all be in `folder`.

    Returns:
        The images by key, in order of their keys; None if nothing tells.

    Raises:
        UserError: A name is of no image of the data set, two images are one, one is missing or cannot be read, or the
            sizes are not those of the data set or of the list.
    """
    if image_info is None:
        if folder is None:
            return None
        images = {key: _expected(form, key, path) for key, path in _find(form, folder).items()}
    else:
        images = _read_image_info(form, image_info)
        if folder is not None:
            images = _with_paths(images, _find(form, folder, only=set(images)), image_info, folder)
    for image in images.values():
        if form.size not in (None, image.size):
            where = image.path or f"{image_info}: image {image.image_id!r}"
            raise UserError(f"{where}: is {_by(image.size)} pixels; expected {_by(form.size)}, as all of the data set")
    return dict(sorted(images.items()))


def _find(form: SubmissionFormat, folder: Path, only: set[str] | None = None) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"--input: no such folder: {folder}")
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    # A folder of all of Cityscapes holds labels, too, whose names begin alike.
    if form.preset == "cityscapes" and any(path.name.endswith(_CITYSCAPES_ENDING) for path in paths):
        paths = [path for path in paths if path.name.endswith(_CITYSCAPES_ENDING)]
    found: dict[str, Path] = {}
    for path in paths:
        key = form.key_of(path.name)
        if only is not None and key not in only:
            continue
        if key is None:
            raise UserError(f"{path}: not named as the images of '{form.preset}' are, which {form.name} asks for")
        if key in found:
            raise UserError(f"{path}: is of the same image as {found[key]}; expected one of them in --input")
        found[key] = path
    if not found:
        raise UserError(f"--input: no images of '{form.preset}' in {folder} or below")
    return found


def _expected(form: SubmissionFormat, key: str, path: Path) -> ExpectedImage:
    return ExpectedImage(key, form.image_id_of(key), _size_of(path), path)


def _size_of(path: Path) -> tuple[int, int]:
    """Height and width as `read_rgb` gives them, from the head of the file alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Of a PNG, Pillow would decode all; none of a data set's is turned.
            turned = image.format != "PNG" and image.getexif().get(_EXIF_ORIENTATION, 1) in _QUARTER_TURNS
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not an image, or damaged ({' '.join(str(error).split())})") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: more pixels than Pillow's limit of {2 * Image.MAX_IMAGE_PIXELS}") from None
    return (width, height) if turned else (height, width)


def _read_image_info(form: SubmissionFormat, path: Path) -> dict[str, ExpectedImage]:
    content = read_json(path)
    rows = content.get("images") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"--image_info: {path}: no list 'images'; expected a JSON such as image_info_test-dev2017.json")
    images: dict[str, ExpectedImage] = {}
    for index, row in enumerate(rows):
        image = _image_from_row(form, f"--image_info: {path}: images[{index}]", row)
        if image.key in images:
            raise UserError(f"--image_info: {path}: lists the image '{image.key}' twice")
        images[image.key] = image
    return images


def _image_from_row(form: SubmissionFormat, where: str, row: Any) -> ExpectedImage:
    types = {"id": int if form.integer_ids else str, "file_name": str, "height": int, "width": int}
    for key, kind in types.items():
        if not isinstance(row, Mapping) or type(row.get(key)) is not kind:
            raise UserError(f"{where}: {key}: expected {'an integer' if kind is int else 'text'}")
    key = form.key_of(Path(row["file_name"]).name)
    if key is None:
        raise UserError(f"{where}: file_name: '{row['file_name']}' is not named as the images of '{form.preset}' are")
    return ExpectedImage(key, row["id"], (row["height"], row["width"]), None)


def _with_paths(
    images: Mapping[str, ExpectedImage], paths: Mapping[str, Path], image_info: Path, folder: Path
) -> dict[str, ExpectedImage]:
    for key, image in images.items():
        if key not in paths:
            raise UserError(f"--input: no image '{key}' in {folder} or below, which {image_info} lists")
        if (size := _size_of(paths[key])) != image.size:
            raise UserError(f"{paths[key]}: is {_by(size)} pixels; {image_info} says {_by(image.size)}")
    return {key: image._replace(path=paths[key]) for key, image in images.items()}


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
