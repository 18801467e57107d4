"""Matching the images and labels of a data set's download, where their names are a stem and an ending of their kind."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from absl import logging

from deeplab2_lite.errors import UserError


class NamedFiles(NamedTuple):
    """Files of one kind.

    Attributes:
        where: The folder, or the list, that names them.
        ending: What follows the stem in their names.
        by_stem: The files, in the order of their paths.
    """

    where: Path
    ending: str
    by_stem: Mapping[str, Path]


def find_files(folder: Path, ending: str, pattern: str = "") -> NamedFiles:
    """Finds the files of a folder whose names end alike.

    Args:
        folder: Where to look.
        ending: Of their names, such as "_leftImg8bit.png".
        pattern: Of the folders in between, such as "*/".

    Returns:
        The files.

    Raises:
        UserError: There is no such folder, or no such file in it, or two have the same name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected files {pattern}*{ending} in it")
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(f"{pattern}*{ending}")):
        # Archives made on a Mac hold a hidden twin of each file.
        if path.name.startswith("."):
            continue
        stem = path.name.removesuffix(ending)
        if stem in found:
            raise UserError(f"{path}: has the same name as {found[stem]}; expected one of them")
        found[stem] = path
    if not found:
        raise UserError(f"{folder}: there is nothing in it to convert; expected files {pattern}*{ending}")
    return NamedFiles(folder, ending, found)


def paired_stems(images: NamedFiles, labels: NamedFiles, only_pairs: bool = False) -> list[str]:
    """Returns the stems of which there are both an image and a label.

    Args:
        images: The images.
        labels: The labels.
        only_pairs: Leave out what stands alone, instead of refusing it.

    Returns:
        The stems, in the order of the images.

    Raises:
        UserError: An image or a label stands alone.
    """
    for kind, own, others, other_kind in (("image", images, labels, "label"), ("label", labels, images, "image")):
        alone = [stem for stem in own.by_stem if stem not in others.by_stem]
        if alone and not only_pairs:
            raise UserError(
                f"{own.by_stem[alone[0]]}: has no {other_kind} in {others.where} (expected {alone[0]}{others.ending}); "
                f"--only_pairs leaves out such {kind}s"
            )
        if alone:
            logging.warning("%s: %d %ss without %s are left out", own.where, len(alone), kind, other_kind)
    return [stem for stem in images.by_stem if stem in labels.by_stem]


def add_only_pairs_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--only_pairs`."""
    parser.add_argument(
        "--only_pairs",
        action="store_true",
        help="leave out images without labels and labels without images, instead of refusing them",
    )
