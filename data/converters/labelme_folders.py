"""Where labelme's files and their images lie, and how one folder of them becomes training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from absl import logging

from deeplab2_lite.data.converters.labelme_files import LabelmeFile
from deeplab2_lite.data.images import SUFFIXES
from deeplab2_lite.errors import UserError

VAL_FRACTION = 0.1


def find_labelme_files(
    folder: Path, splits: Sequence[str] | None = None, val_fraction: float | None = None
) -> dict[str, list[Path]]:
    """Finds the JSON files of each split.

    Args:
        folder: Holds `{split}/*.json`, or JSON files.
        splits: Names of the splits; None takes one folder if it holds JSON files, else train and val.
        val_fraction: Share of one folder's files that become "val"; None takes 0.1.

    Returns:
        The files by split, in the order of their names.

    Raises:
        UserError: There is no such folder, or no JSON file in it, or the fraction is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected images and the JSON files of labelme")
    if splits is None and (single := _json_files(folder)):
        return divide(single, VAL_FRACTION if val_fraction is None else val_fraction)
    if val_fraction is not None:
        raise UserError(f"--val_fraction: divides JSON files in {folder}, but it is to hold a folder for each split")
    found = {}
    for split in splits or ("train", "val"):
        if not (folder / split).is_dir():
            raise UserError(f"{folder / split}: no such folder; expected JSON files of labelme in it or in {folder}")
        found[split] = _json_files(folder / split)
        if not found[split]:
            raise UserError(f"{folder / split}: holds no JSON file; expected those of labelme")
    return found


def divide(paths: Sequence[Path], val_fraction: float) -> dict[str, list[Path]]:
    """Divides files into training and validation by a hash of their names.

    It does not depend on the machine or the order, and a new file moves hardly any other.

    Args:
        paths: The files.
        val_fraction: Share of "val", rounded; one file at least if it is above 0, and never all.

    Returns:
        "train" and "val", the latter only where it has a file, each in the given order.

    Raises:
        UserError: The fraction is not in [0, 1).
    """
    if not 0 <= val_fraction < 1:
        raise UserError(f"--val_fraction: expected a share from 0 to below 1, got {val_fraction}")
    wanted = int(len(paths) * val_fraction + 0.5)
    count = min(max(wanted, int(val_fraction > 0)), len(paths) - 1)
    ranked = sorted(paths, key=lambda path: hashlib.sha256(path.stem.encode()).digest())
    chosen = set(ranked[:count])
    splits = {"train": [p for p in paths if p not in chosen], "val": [p for p in paths if p in chosen]}
    return {split: files for split, files in splits.items() if files}


def images_beside(paths: Sequence[Path]) -> dict[Path, Path]:
    """Finds the images that bear the names of labelme's files.

    Args:
        paths: The JSON files.

    Returns:
        The image beside a JSON file, for those that have one.
    """
    files = {path.with_suffix(""): path for path in paths}
    found: dict[Path, Path] = {}
    for folder in {path.parent for path in paths}:
        for image in _image_files(folder):
            if image.with_suffix("") in files:
                found.setdefault(files[image.with_suffix("")], image)
    return found


def find_image(source: LabelmeFile, beside: Mapping[Path, Path]) -> Path | None:
    """Finds the image of a labelme file: where it says, else beside it, else within it.

    Args:
        source: The file.
        beside: Images of the same stem by JSON file.

    Returns:
        The image file; None if the image is in the JSON file alone.

    Raises:
        UserError: It is nowhere.
    """
    named = source.path.parent / source.image_name
    if named.is_file():
        return named
    if source.path in beside:
        return beside[source.path]
    if not source.image_data:
        raise UserError(f"{source.path}: its image is missing; expected {named}, or imageData")
    return None


def warn_of_unlabelled(paths: Sequence[Path], used: Container[Path]) -> None:
    """Says how many images beside labelme's files have none.

    Args:
        paths: The JSON files.
        used: Their images.
    """
    for folder in sorted({path.parent for path in paths}):
        unused = [path for path in _image_files(folder) if path not in used]
        if unused:
            logging.warning("%s: %d images without a JSON file are left out, %s first", folder, len(unused), unused[0])


def _json_files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.suffix.lower() == ".json" and not p.name.startswith(".")]


def _image_files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
