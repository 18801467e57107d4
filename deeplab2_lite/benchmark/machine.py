"""What was measured on: the device by name, and how much memory a computation takes at its peak."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Machine:
    """Where it ran.

    Attributes:
        device: Model of the CPU, GPU or TPU that computed.
        kind: "CPU", "GPU" or "TPU".
        cores: CPU cores that this process may use.
        threads: Of TensorFlow inside an operation; it takes one for each core unless it was told otherwise.
        tensorflow: Version of TensorFlow.
        python: Version of Python.
    """

    device: str
    kind: str
    cores: int
    threads: int
    tensorflow: str
    python: str

    def __str__(self) -> str:
        host = f"{self.cores} cores, {self.threads} threads"
        return f"{self.device} ({host}), TensorFlow {self.tensorflow}, Python {self.python}"


def describe_machine() -> Machine:
    """Names the device that computes by default, and the versions."""
    # Not those that the process could use, but those that the scheduler lets it.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = tf.config.threading.get_intra_op_parallelism_threads() or cores
    kind = next((kind for kind in ("TPU", "GPU") if tf.config.list_logical_devices(kind)), "CPU")
    name = _cpu_name() if kind == "CPU" else _accelerator_name(kind)
    return Machine(name, kind, cores, threads, tf.__version__, platform.python_version())


def peak_bytes(compute: Callable[[], Any]) -> int | None:
    """Measures the memory that TensorFlow allocates for a computation, at its peak, over what it held before.

    The process's resident memory would not tell: TensorFlow keeps what it has once had from the system.

    Args:
        compute: Runs it, and waits for its end.

    Returns:
        Bytes on the GPU, or on the CPU if there is none, where pieces of less than 256 KiB may not count; None
        where its allocator keeps no account.
    """
    device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
    try:
        tf.config.experimental.reset_memory_stats(device)
        before = tf.config.experimental.get_memory_info(device)["current"]
    except ValueError:
        before = None
    compute()
    return None if before is None else tf.config.experimental.get_memory_info(device)["peak"] - before


def wait_for_devices() -> None:
    """Returns when all that was started has been computed: GPUs work on after a function has returned."""
    tf.test.experimental.sync_devices()


def _accelerator_name(kind: str) -> str:
    details: dict[str, Any] = {}
    if devices := tf.config.list_physical_devices(kind):
        with contextlib.suppress(ValueError, RuntimeError):
            details = tf.config.experimental.get_device_details(devices[0])
    return details.get("device_name", kind)


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()
