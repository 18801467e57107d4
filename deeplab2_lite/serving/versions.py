"""Numbered versions of a model in one folder, as TF Serving polls them."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def publish(write: Callable[[Path], object], folder: Path) -> Path:
    """Writes a SavedModel as the next version of a model.

    TF Serving loads the highest number that it finds. So the version appears under it when it is whole, and has no
    number before.

    Args:
        write: Writes to the folder that it is given, which is not there yet.
        folder: Of all versions: BASE/NAME; made if it is not there.

    Returns:
        The version's folder: BASE/NAME/1, or the number after the highest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".export."))
    try:
        whole = temporary / "saved_model"
        write(whole)
        return _rename_to_next(whole, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def next_version(folder: Path) -> int:
    """Returns the number after the highest version in a folder; 1 if there is none."""
    return 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)


def _rename_to_next(source: Path, folder: Path) -> Path:
    while True:
        target = folder / str(next_version(folder))
        try:
            return source.rename(target)
        except OSError as error:
            # Another export was faster, and a folder with something in it is never replaced.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
