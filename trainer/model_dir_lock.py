"""One training process a model folder: a lock that the kernel lets go of when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

from deeplab2_lite.errors import UserError

try:
    import fcntl
except ImportError:
    # Windows: nothing keeps two processes out of one folder there.
    fcntl = None

LOCK_FILE = ".training.lock"
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class ModelDirLock:
    """Holds a model folder for this process; of several workers that train together, one takes it."""

    def __init__(self, model_dir: str | Path) -> None:
        """Takes nothing yet.

        Args:
            model_dir: The folder.
        """
        self.model_dir = Path(model_dir)
        self._handle: int | None = None

    def acquire(self) -> None:
        """Takes the folder, which is made if it is not there.

        On a file system without locks, it says so in a line on standard error and goes on.

        Raises:
            UserError: Another process holds it, or it cannot be written.
        """
        handle = None
        try:
            self.model_dir.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.model_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
            self._lock(handle)
            _write_holder(handle)
        except (OSError, UserError) as error:
            if handle is not None:
                os.close(handle)
            if isinstance(error, UserError):
                raise
            raise UserError(f"--model_dir: {self.model_dir}: cannot be written ({error.strerror})") from None
        self._handle = handle
        if hasattr(os, "register_at_fork"):
            # Else a worker process would hold the lock for as long as it outlives this one.
            lock = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _close(lock()))

    def release(self) -> None:
        """Lets go of the folder. The file stays: removing it would let two processes lock two files of its name."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, 0)
            _close(self)

    def __enter__(self) -> ModelDirLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _lock(self, handle: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--model_dir: {self.model_dir}: another process trains here{_read_holder(handle)}; "
                "expected a folder of its own"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            print(
                f"warning: --model_dir: {self.model_dir}: the file system knows no locks ({error.strerror}); "
                "nothing keeps another process from training here",
                file=sys.stderr,
            )


@contextlib.contextmanager
def locked(model_dir: str | Path) -> Iterator[ModelDirLock]:
    """Holds a model folder for the block.

    Args:
        model_dir: The folder; made if it is not there.

    Yields:
        The lock.

    Raises:
        UserError: Another process holds it, or it cannot be written.
    """
    with ModelDirLock(model_dir) as lock:
        yield lock


def _close(lock: ModelDirLock | None) -> None:
    if lock is not None and lock._handle is not None:
        os.close(lock._handle)
        lock._handle = None


def _write_holder(handle: int) -> None:
    since = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    holder = {"host": socket.gethostname(), "process": os.getpid(), "since": since}
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, f"{json.dumps(holder)}\n".encode())


def _read_holder(handle: int) -> str:
    # It may have the lock and not have written yet who it is.
    try:
        holder = json.loads(os.read(handle, 4096))
        return f" (host {holder['host']}, process {holder['process']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
