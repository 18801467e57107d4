"""The folder of a run's checkpoints: which are there, which go, and what a killed run left.

Folders named by a step are whole checkpoints. They come and go by a rename, so that a reader in another
process sees all of one or nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from deeplab2_lite.errors import UserError

_WRITING, _DELETING = ".writing-", ".deleting-"
# The last is Orbax's own, of before there were names of ours.
_LEFTOVER = re.compile(rf"({re.escape(_WRITING)}|{re.escape(_DELETING)})\d+(\.\d+)?|\d+\.orbax-checkpoint-tmp.*")


def find_steps(folder: Path) -> list[int]:
    """Returns the steps of all checkpoints, ascending.

    Args:
        folder: Need not exist.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(int(entry.name) for entry in entries if entry.name.isdigit() and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def surplus_steps(steps: Collection[int], newest: int, max_to_keep: int, keep: Collection[int]) -> list[int]:
    """Returns the steps that can go.

    Args:
        steps: All that are there.
        newest: Written last; it stays, also where a run started again from an earlier step.
        max_to_keep: The last ones, that stay.
        keep: Others that stay.

    Returns:
        Those of `steps` that need not stay, ascending.
    """
    last = sorted(steps)[max(0, len(steps) - max_to_keep) :]
    return sorted(set(steps) - set(last) - set(keep) - {newest})


def remove(folder: Path, step: int) -> None:
    """Removes a checkpoint, for readers at once; what cannot be removed now is left for `clean`."""
    # Two of a step are there where a killed run left one half removed.
    hidden = folder / f"{_DELETING}{step}"
    shutil.rmtree(hidden, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / str(step)).rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def clean(folder: Path) -> None:
    """Removes what a killed run left half written or half removed. Nobody else may be writing."""
    with contextlib.suppress(FileNotFoundError):
        for path in list(folder.iterdir()):
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def set_aside(folder: Path, step: int) -> Path:
    """Renames a checkpoint so that its step can be written anew.

    Args:
        folder: Of the checkpoints.
        step: The checkpoint's.

    Returns:
        Its new path, `damaged-STEP`, with a number where that is taken.

    Raises:
        OSError: It cannot be renamed.
    """
    path = folder / f"damaged-{step}"
    number = 1
    while path.exists():
        number += 1
        path = folder / f"damaged-{step}-{number}"
    return (folder / str(step)).rename(path)


@contextlib.contextmanager
def whole_checkpoint(folder: Path, step: int) -> Iterator[Path]:
    """Yields an empty folder, which becomes the checkpoint when the block succeeds and all is on the disk.

    Args:
        folder: Of the checkpoints; must exist.
        step: The checkpoint's, of which there is none yet.

    Yields:
        The temporary folder; it is removed if the block raises.

    Raises:
        OSError: It cannot be made or renamed, or the system could not write after all.
    """
    # Of a name of its own: where one could not be written, Orbax's threads may still be making files in it.
    hidden = folder / f"{_WRITING}{step}.{time.monotonic_ns()}"
    try:
        hidden.mkdir()
        yield hidden
        # What a power cut takes must not be what older checkpoints are removed for.
        for path in [*hidden.rglob("*"), hidden]:
            _flush(path)
        hidden.rename(folder / str(step))
        _flush(folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _flush(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        # Some systems open no folders.
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
