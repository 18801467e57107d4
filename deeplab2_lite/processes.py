"""Work on many things at once, in processes, with the results in order."""

from __future__ import annotations

import collections
import itertools
import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from deeplab2_lite.errors import UserError

# Enough work in flight that no process waits, little enough to fit into memory.
_ITEMS_IN_FLIGHT_PER_PROCESS = 4
Item = TypeVar("Item")
Result = TypeVar("Result")

_function: Callable[[Any], Any] | None = None


def map_in_order(
    function: Callable[[Item], Result], items: Sequence[Item], num_processes: int, name: str
) -> Generator[Result, None, None]:
    """Applies a function to each of many things.

    Args:
        function: A picklable function without side effects. Each process gets it once, so it may be large.
        items: Picklable.
        num_processes: How many; 1 works in this one.
        name: Of the work, for the message.

    Yields:
        The results in the order of the items. Closing the generator stops the work.

    Raises:
        UserError: A process died.
    """
    num_processes = min(num_processes, len(items))
    if num_processes <= 1:
        yield from map(function, items)
        return
    # Forked children would inherit threads and locks in whatever state they are.
    executor = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), _start, (function,))
    try:
        remaining = iter(items)
        first = itertools.islice(remaining, num_processes * _ITEMS_IN_FLIGHT_PER_PROCESS)
        running: collections.deque[Future[Result]] = collections.deque(executor.submit(_apply, item) for item in first)
        while running:
            result = running.popleft().result()
            running.extend(executor.submit(_apply, item) for item in itertools.islice(remaining, 1))
            yield result
    except BrokenProcessPool:
        raise UserError(
            f"a process of the {name} died, perhaps for want of memory (or in a script without "
            "`if __name__ == '__main__'`); run it again with a smaller --num_processes and it goes on where it stopped"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function


def _apply(item: Any) -> Any:
    return _function(item)
