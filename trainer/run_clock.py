"""The time that a run takes, over all its restarts."""

from __future__ import annotations

import time


class RunClock:
    """Seconds that a run has taken, without those between an interruption and the restart."""

    def __init__(self) -> None:
        """Starts at 0."""
        self._start = time.monotonic()
        self._before = 0.0

    def seconds(self) -> float:
        """Returns the seconds so far."""
        return self._before + time.monotonic() - self._start

    def go_on_from(self, seconds: float) -> None:
        """Adds what was spent before an interruption."""
        self._before = seconds
