"""Ending a run at the next step when somebody asks for it: SIGTERM of a scheduler, or Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from deeplab2_lite.command import Preempted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether somebody has asked to stop, from within a block `heeding`."""

    def __init__(self) -> None:
        """Nobody has."""
        self._signal: signal.Signals | None = None

    def raise_if_asked(self, *_: object) -> None:
        """Ends what is being done, at a place where that is safe.

        Raises:
            Preempted: After SIGTERM.
            KeyboardInterrupt: After Ctrl-C.
        """
        if self._signal is not None:
            self.end()

    def end(self) -> None:
        """Raises as `raise_if_asked`, also if another process of the job was asked.

        Raises:
            Preempted: Likewise.
            KeyboardInterrupt: Likewise.
        """
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise Preempted

    @contextlib.contextmanager
    def heeding(self, asked: Callable[[], None]) -> Iterator[None]:
        """Notes signals within a block, in place of what they do otherwise; the second Ctrl-C does that again.

        Args:
            asked: Called once from another thread as soon as a signal comes, even while the main thread is within a
                call of TensorFlow, when Python's own handlers have to wait.

        Yields:
            Nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            # Only the main thread can have handlers; who trains from another one stops it by other means.
            yield
            return
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        watcher = threading.Thread(target=self._watch, args=(reading, asked), daemon=True)
        wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            for number in _SIGNALS:
                signal.signal(number, self._note)
            watcher.start()
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(writing)
            watcher.join()
            os.close(reading)

    def _watch(self, reading: int, asked: Callable[[], None]) -> None:
        # Python writes the number of each signal there is a handler for; an empty read is the end of the block.
        for number in iter(lambda: os.read(reading, 1), b""):
            if number[0] in _SIGNALS:
                asked()

    def _note(self, number: int, frame: object) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)
