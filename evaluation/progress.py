"""How far a command is: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

# Of a log that nobody watches, a line a minute is enough to see that it goes on.
_SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """Counts things that are done; a context manager."""

    def __init__(self, total: int | None, what: str, unit: str, seconds: float = _SECONDS_BETWEEN_LINES) -> None:
        """Begins with nothing done.

        Args:
            total: How many there are; None where that is not known.
            what: What is done to them.
            unit: What one of them is called.
            seconds: Least time between two lines, where standard error is no terminal.
        """
        self._total, self._what, self._unit, self._seconds = total, what, unit, seconds
        self._bar = tqdm(total=total, desc=what, unit=unit, disable=None)
        self._is_logged = not sys.stderr.isatty()
        self._done = 0
        self._begin = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the bar."""
        self._bar.close()

    def step(self) -> None:
        """Notes one more as done."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if self._is_logged and now - self._said >= self._seconds:
            self._said = now
            of = "" if self._total is None else f" of {self._total}"
            rate = self._done / (now - self._begin) if now > self._begin else 0.0
            print(f"{self._what}: {self._done}{of} {self._unit}s, {rate:.3g} a second", file=sys.stderr, flush=True)
