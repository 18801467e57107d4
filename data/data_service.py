"""Training input that other processes make: the client of `deeplab2-lite data-service`.

Each service makes its share of the batches with the local pipeline's own code, and the client puts them
into their order. So what a step sees does not depend on how many services there are.
"""

from __future__ import annotations

import atexit
import itertools
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf

from deeplab2_lite.data.record_index import refusal
from deeplab2_lite.errors import UserError

# Without any batch for so long, a service is asked whether it is still there.
_SILENCE_SECONDS = 10.0
_LONGEST_SILENCE_SECONDS = 300.0
# So long a service may be out of reach: networks fail for moments.
_PATIENCE_SECONDS = 20.0
_ATTEMPT_SECONDS = 5.0
_BATCHES_AHEAD = 2
_POLL_SECONDS = 0.2
# At the end of the process threads are waited for so long, and what cannot be waited for is given some time.
_END_SECONDS = 2 * _ATTEMPT_SECONDS
_REST_SECONDS = 1.0


def batches_from_services(share: Callable[[int, int], tf.data.Dataset], addresses: Sequence[str]) -> tf.data.Dataset:
    """Makes batches by remote services, in the order in which one process would make them.

    Args:
        share: From a first batch and a stride to the endless batches `first`, `first + stride`, ..., numeric
            tensors of static shape. The services read the same files by the same paths.
        addresses: Each "grpc://host:port" of a `deeplab2-lite data-service`.

    Returns:
        All batches, `share(0, 1)`. Iterating ends in an error that `record_index.reading_error` turns into one
        line that names the address when a service ends or is out of reach.

    Raises:
        UserError: A service is out of reach, or does not answer as one.
    """
    for address in addresses:
        _require_reachable(address, threading.Event())
    shares = [_register(share(k, len(addresses)), address) for k, address in enumerate(addresses)]

    def batches() -> Iterator[Any]:
        sources = [_Source(dataset, address) for dataset, address in zip(shares, addresses, strict=True)]
        try:
            for number in itertools.count():
                for source in sources:
                    batch = source.batch(number)
                    if batch is None:
                        return
                    yield batch
        finally:
            for source in sources:
                source.stop()

    return tf.data.Dataset.from_generator(batches, output_signature=shares[0].element_spec[1])


class _Source:
    """What one service sends, received in a thread of its own: TensorFlow's client waits for a dead one for ever."""

    def __init__(self, batches: tf.data.Dataset, address: str) -> None:
        self._address = address
        self._received: queue.Queue[Any] = queue.Queue(_BATCHES_AHEAD)
        self._stopped = threading.Event()
        self._is_waiting = threading.Lock()
        self._thread = threading.Thread(target=self._receive, args=(batches,), daemon=True)
        # Threads of TensorFlow that want the interpreter while it ends never return, and the process with them.
        atexit.register(self._end)
        self._thread.start()

    def batch(self, number: int) -> Any:
        """Returns the next batch, which has to be the service's `number`-th; None after `stop`."""
        with self._is_waiting:
            received = self._wait()
        if received is None:
            return None
        if isinstance(received, Exception):
            raise self._told(received) from None
        place, batch = received
        if int(place) != number:
            raise UserError(
                f"data.service: {self._address}: batch {number} was lost on its way; train again, from the last "
                "checkpoint on"
            )
        # Views: a batch can be a hundred megabytes.
        return tf.nest.map_structure(lambda tensor: np.asarray(memoryview(tensor)), batch)

    def stop(self) -> None:
        """Ends the thread with the next batch."""
        self._stopped.set()

    def _wait(self) -> Any:
        begin = asked = time.monotonic()
        while not self._stopped.is_set():
            try:
                return self._received.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                now = time.monotonic()
            if now - asked > _SILENCE_SECONDS:
                _require_reachable(self._address, self._stopped)
                asked = now
            if now - begin > _LONGEST_SILENCE_SECONDS:
                raise UserError(
                    f"data.service: {self._address}: answers, but sent no batch for {_LONGEST_SILENCE_SECONDS:.0f} s; "
                    "expected its --host and --worker_port to be within reach of this machine"
                )
        return None

    def _receive(self, batches: tf.data.Dataset) -> None:
        try:
            for element in batches:
                self._put(element)
                if self._stopped.is_set():
                    break
        except Exception as error:
            self._put(error)
        atexit.unregister(self._end)

    def _put(self, received: Any) -> None:
        while not self._stopped.is_set():
            try:
                self._received.put(received, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue

    def _end(self) -> None:
        self.stop()
        if self._is_waiting.acquire(timeout=_END_SECONDS):
            self._is_waiting.release()
        self._thread.join(_END_SECONDS)
        # The iterator goes on from the end of its input through Python of TensorFlow's own.
        time.sleep(_REST_SECONDS)

    def _told(self, error: Exception) -> Exception:
        refused = refusal(str(error))
        if refused is not None:
            return ValueError(f"assertion failed: [{refused}]")
        if "dispatcher restart" in str(error):
            return UserError(
                f"data.service: {self._address}: was started anew; train again, from the last checkpoint on"
            )
        return UserError(f"data.service: {self._address}: {str(error).splitlines()[0]}")


def _register(batches: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """Hands a dataset to a service, which makes it when it is iterated here."""
    distribute = tf.data.experimental.service.distribute(
        tf.data.experimental.service.ShardingPolicy.OFF, address, compression=None
    )
    registered: list[tf.data.Dataset | Exception] = []

    def register() -> None:
        try:
            # With the number of each, so that one that is lost in a network does not shift the others.
            registered.append(batches.enumerate().apply(distribute))
        except Exception as error:
            registered.append(error)

    thread = threading.Thread(target=register, daemon=True)
    thread.start()
    thread.join(_PATIENCE_SECONDS)
    if not registered:
        raise UserError(
            f"data.service: {address}: no answer within {_PATIENCE_SECONDS:.0f} s; expected a 'deeplab2-lite "
            "data-service' of the same TensorFlow"
        )
    if isinstance(registered[0], Exception):
        raise UserError(f"data.service: {address}: {str(registered[0]).splitlines()[0]}")
    return registered[0]


def _require_reachable(address: str, stopped: threading.Event) -> None:
    parts = urlsplit(address)
    end = time.monotonic() + _PATIENCE_SECONDS
    while not stopped.is_set():
        try:
            socket.create_connection((parts.hostname, parts.port), _ATTEMPT_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"data.service: {address}: cannot be reached ({error.strerror or error}); expected a running "
                    "'deeplab2-lite data-service'"
                ) from None
        stopped.wait(_POLL_SECONDS)
