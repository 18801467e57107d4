"""Two folders of images and label images that bear the same name but for any suffix, as pairs."""

from __future__ import annotations

from pathlib import Path

from deeplab2_lite.data.images import SUFFIXES
from deeplab2_lite.errors import UserError


def pair_by_stem(images: Path, labels: Path, label_kind: str, layout: str) -> list[tuple[Path, Path]]:
    """Pairs the files of two folders by name.

    Args:
        images: Folder of images.
        labels: Folder of label images.
        label_kind: What a label image is called in messages, such as "mask".
        layout: What was expected where a folder is missing, such as "{split}/images and {split}/masks".

    Returns:
        Image and label, in the order of their names.

    Raises:
        UserError: A folder is missing or empty, or an image or label stands alone or double.
    """
    image_files, label_files = (_files_by_stem(folder, layout) for folder in (images, labels))
    for stem, path in image_files.items():
        if stem not in label_files:
            raise UserError(f"{path}: has no {label_kind}; expected {labels / stem}.png")
    for stem, path in label_files.items():
        if stem not in image_files:
            raise UserError(f"{path}: has no image; expected {images / stem}.png (or {', '.join(SUFFIXES[1:])})")
    if not image_files:
        raise UserError(f"{images}: no images; expected {layout} with files ending in {', '.join(SUFFIXES)}")
    return [(image_files[stem], label_files[stem]) for stem in sorted(image_files)]


def _files_by_stem(folder: Path, layout: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected {layout}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in found:
            raise UserError(f"{path}: has the same name as {found[path.stem].name}; expected one of them")
        found[path.stem] = path
    return found
