"""Writing files whole or not at all, and finding the YAML files that travel with the package."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deeplab2_lite.errors import UserError


def packaged_configs() -> Path:
    """Returns the folder of packaged YAML files, in a checkout and in an installed wheel alike."""
    here = Path(__file__).resolve().parent
    # A wheel installs configs/ below the package; in a checkout it lies beside it.
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / "datasets").is_dir():
            return folder
    raise FileNotFoundError(f"no configs folder beside {here}: the installation is incomplete")


# The mask can only be read by setting it, which another thread must not see.
_UMASK_LOCK = threading.Lock()


@contextlib.contextmanager
def atomic_path(path: str | Path, suffix: str = ".tmp") -> Iterator[Path]:
    """Yields a temporary path in the same folder, renamed to `path` when the block succeeds.

    Args:
        path: The file to write. Its folder must exist.
        suffix: Of the temporary path, for writers that go by it.

    Yields:
        The temporary path; it is removed if the block raises.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; give what an ordinary open() would have given.
        with _UMASK_LOCK:
            umask = os.umask(0)
            os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder beside another, which it replaces when the block succeeds.

    Args:
        folder: What to write, with all that is in it; made, or replaced as a whole.

    Yields:
        The temporary folder; it is removed if the block raises.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def writing_to(path: Path, flag: str = "--output") -> Iterator[None]:
    """Turns what the system says of a command's output into one line.

    Args:
        path: What the flag names.
        flag: That says where the output goes.

    Yields:
        Nothing.

    Raises:
        UserError: Something in the block could not be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{flag}: {error.filename or path}: cannot be written ({error.strerror or error})") from None


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        UserError: It cannot be read, or is no JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def write_text_atomically(path: str | Path, text: str) -> Path:
    """Writes text to a file, whole or not at all, and returns its path."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
