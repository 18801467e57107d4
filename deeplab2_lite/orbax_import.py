"""Orbax, kept to the CPU, and its threads kept from printing what comes out as an exception anyway."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from types import ModuleType


def import_orbax() -> ModuleType:
    """Returns `orbax.checkpoint`; slow the first time.

    Returns:
        The module.
    """
    # Orbax imports JAX, which would take a GPU or TPU that TensorFlow trains on. TensorFlow may have
    # imported JAX by itself before this runs, hence the second setting.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    jax.config.update("jax_platforms", "cpu")
    import absl.logging
    import orbax.checkpoint

    # Orbax logs every array that it writes at level INFO and its own threads at WARNING.
    absl.logging.set_verbosity(absl.logging.ERROR)
    _silence_threads()
    return orbax.checkpoint


def _silence_threads() -> None:
    # Where one array cannot be read or written, it raises, once. Besides, each of its threads logs a stack trace
    # of its own, and it closes its event loop while the other arrays are still under way, each of which then
    # complains to asyncio, to the unraisable hook or as a warning: some of them after the error has come out,
    # and from whatever thread. So these stay in place. A filter or a warning of the same kind is added once.
    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    logging.getLogger("asyncio").addFilter(_is_not_of_orbax)
    warnings.filterwarnings("ignore", "coroutine '[A-Za-z]*Handler", RuntimeWarning)
    if not isinstance(sys.unraisablehook, _HookWithoutLateArrays):
        sys.unraisablehook = _HookWithoutLateArrays(sys.unraisablehook)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    # Where asyncio names the error in its message, it cuts it short.
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    return (
        os.path.join("orbax", "checkpoint") not in record.pathname
        and "tensorstore_spec" not in f"{record.getMessage()} {error}"
    )


class _HookWithoutLateArrays:
    def __init__(self, hook: object) -> None:
        self._hook = hook

    def __call__(self, unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._hook(unraisable)
