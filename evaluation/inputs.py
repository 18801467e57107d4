"""What `--input` of the commands names: images, folders of images, globs, and videos."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from deeplab2_lite.data.images import SUFFIXES
from deeplab2_lite.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")


class Inputs(NamedTuple):
    """What is to be segmented.

    Attributes:
        images: Files, in the order in which they were named, those of a folder or glob by name.
        videos: Likewise.
    """

    images: list[Path]
    videos: list[Path]


def find_inputs(words: Sequence[str]) -> Inputs:
    """Lists the images and videos that a user names.

    Args:
        words: Each an image or video, a folder (what lies in it, not below it), or a glob such as "photos/**/*.jpg".

    Returns:
        The files; each once, however often it is named.

    Raises:
        UserError: A word names nothing, or two files have the same stem, so that their results would overwrite each
            other.
    """
    found = list(dict.fromkeys(path for word in words for path in _files_of(word)))
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise UserError(f"--input: {stems[path.stem]} and {path.name} have the same stem; rename one")
        stems[path.stem] = path
    videos = [path for path in found if _is_video(path)]
    return Inputs([path for path in found if not _is_video(path)], videos)


def find_images(path: Path) -> list[Path]:
    """Lists the images that a path names.

    Args:
        path: An image file, or a folder.

    Returns:
        Files in order of name.

    Raises:
        UserError: There are none, or two of the same stem.
    """
    inputs = find_inputs([str(path)])
    if inputs.videos:
        raise UserError(f"--input: {inputs.videos[0]} is a video; expected images")
    return inputs.images


def _files_of(word: str) -> list[Path]:
    path = Path(word)
    # A file may have the name of a pattern.
    if path.is_file():
        return [path]
    if path.is_dir():
        return _readable(path.iterdir(), f"no images or videos in {path}")
    if glob.has_magic(word):
        return _readable(map(Path, glob.glob(word, recursive=True)), f"no images or videos match {word}")
    raise UserError(f"--input: no such file or folder: {path}")


def _readable(paths: Iterable[Path], nothing: str) -> list[Path]:
    endings = (*SUFFIXES, *VIDEO_SUFFIXES)
    found = sorted(
        path for path in paths if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise UserError(f"--input: {nothing}; expected files ending in {', '.join(endings)}")
    return found


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES
