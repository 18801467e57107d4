"""The files of a submission, in a folder or in a zip, and how a folder becomes a zip."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from deeplab2_lite.errors import UserError
from deeplab2_lite.files import atomic_path

# The earliest that a zip can say: the same files give the same bytes, whenever they were written.
_TIME = (1980, 1, 1, 0, 0, 0)


class DamagedFile(Exception):
    """A file of a submission cannot be read; the message says why, without its name."""


class SubmissionFiles(Protocol):
    """Files by their paths from the root, with slashes."""

    names: tuple[str, ...]

    def read(self, name: str) -> bytes:
        """Returns a file's content, or raises DamagedFile."""
        ...


class FolderFiles:
    """The files below a folder."""

    def __init__(self, folder: str | Path) -> None:
        """Lists them.

        Args:
            folder: The root.
        """
        self._folder = Path(folder)
        self.names = tuple(
            sorted(path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if path.is_file())
        )

    def read(self, name: str) -> bytes:
        """Returns a file's content, or raises DamagedFile."""
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise DamagedFile(f"cannot be read ({error.strerror or error})") from None


class ZippedFiles:
    """The files of an open zip."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        """Lists them.

        Args:
            archive: Open for reading.
        """
        self._archive = archive
        self.names = tuple(info.filename for info in archive.infolist() if not info.is_dir())

    def read(self, name: str) -> bytes:
        """Returns a file's content, or raises DamagedFile."""
        try:
            return self._archive.read(name)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            # A RuntimeError tells that it is encrypted.
            raise DamagedFile(f"cannot be read from the zip ({' '.join(str(error).split())})") from None


class OpenSubmission(NamedTuple):
    """A submission that exists.

    Attributes:
        files: Its files.
        stem: Of the zip's name; None of a folder.
    """

    files: SubmissionFiles
    stem: str | None


@contextlib.contextmanager
def open_submission(path: Path) -> Iterator[OpenSubmission]:
    """Opens a zip or a folder for as long as the block lasts.

    Args:
        path: Either.

    Yields:
        Its files.

    Raises:
        UserError: Nothing is there, or it is no zip.
    """
    if path.is_dir():
        yield OpenSubmission(FolderFiles(path), None)
        return
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; expected a submission's zip, or a folder of its files")
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a zip file, or cut off ({' '.join(str(error).split())})") from None
    with archive:
        yield OpenSubmission(ZippedFiles(archive), path.stem)


def names_twice(names: Iterable[str]) -> list[str]:
    """Returns the names that occur more than once, as a zip allows."""
    return [name for name, count in Counter(names).items() if count > 1]


def leaves_root(name: str) -> bool:
    """Whether a path leads out of the archive."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name


def write_zip(folder: Path, names: Iterable[str], path: Path) -> None:
    """Packs files of a folder, whole or not at all; the same files give the same bytes.

    Args:
        folder: Their root.
        names: Their paths from there, with slashes.
        path: The zip; its folder must exist.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(names):
            info = zipfile.ZipInfo(name, _TIME)
            # What differs between systems otherwise.
            info.create_system = 3
            info.external_attr = 0o644 << 16
            # PNGs are compressed already.
            info.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
            archive.writestr(info, (folder / name).read_bytes())
