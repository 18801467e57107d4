"""The `tf.distribute` strategy that the configuration asks for."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab2_lite.config import RuntimeConfig
from deeplab2_lite.errors import UserError

_SECONDS_TO_ANSWER = 10.0
_CLUSTER = "TF_CONFIG"


def build_strategy(config: RuntimeConfig) -> tf.distribute.Strategy:
    """Builds the strategy over the devices.

    Args:
        config: "auto" takes the TPU if one is named, the workers of TF_CONFIG if there are several, mirrors over
            several GPUs, else takes one device. To be called before anything else runs on the devices.

    Returns:
        The strategy.

    Raises:
        UserError: A device that is named is not there, the TPU does not answer, or TF_CONFIG is at fault.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    if config.strategy == "tpu" or config.tpu is not None:
        return _tpu_strategy(config.tpu or "local")
    if config.strategy == "multi_worker" or (config.strategy == "auto" and _workers(_read_cluster()) > 1):
        return _multi_worker_strategy()
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    devices = list(config.devices) if config.devices is not None else gpus
    _refuse_unknown_devices(config.devices or ())
    if config.strategy == "mirrored" or (config.strategy == "auto" and len(devices) > 1):
        return tf.distribute.MirroredStrategy(devices or None)
    if config.strategy == "one_device" and len(config.devices or ()) > 1:
        raise UserError(f"runtime.devices: expected one device for runtime.strategy one_device, got {devices}")
    return tf.distribute.OneDeviceStrategy(devices[0] if devices else "/cpu:0")


def check_batch_size(key: str, batch_size: int, strategy: tf.distribute.Strategy, parts: int = 1) -> None:
    """Refuses a global batch that the replicas cannot share evenly.

    Args:
        key: The key's full path, for the message.
        batch_size: Global batch.
        strategy: The strategy.
        parts: Of each replica's batch (`train.accumulation_steps`).

    Raises:
        UserError: It does not divide.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % (replicas * parts):
        times = f" times train.accumulation_steps {parts}" if parts > 1 else ""
        raise UserError(f"{key}: expected a multiple of the {replicas} replicas{times}, got {batch_size}")


def has_other_processes(strategy: tf.distribute.Strategy) -> bool:
    """Whether the job has several processes, each with devices of its own."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes: the only one, or the first of several workers."""
    if not has_other_processes(strategy):
        return True
    resolver = strategy.cluster_resolver
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_type == "worker" and resolver.task_id == 0)


def gather(strategy: tf.distribute.Strategy, content: bytes) -> list[bytes]:
    """Returns what each process of the job gives, in their order; all of them have to call it.

    Args:
        strategy: Of the job.
        content: This process's.
    """
    if not has_other_processes(strategy):
        return [content]
    local = strategy.num_replicas_in_sync // _workers(_read_cluster())
    # Collective operations take no smaller type, and crash on nothing at all, hence a byte more.
    numbers = np.frombuffer(b"." + content, np.uint8).astype(np.int32)

    @tf.function(autograph=False)
    def send() -> tuple[tf.Tensor, tf.Tensor]:
        replica = tf.distribute.get_replica_context()
        return replica.all_gather(tf.constant([numbers.size]), 0), replica.all_gather(tf.constant(numbers), 0)

    lengths, texts = (strategy.experimental_local_results(part)[0].numpy() for part in strategy.run(send))
    ends = lengths.cumsum()
    pieces = [
        texts[end - length + 1 : end].astype(np.uint8).tobytes() for length, end in zip(lengths, ends, strict=True)
    ]
    # Each replica has sent what is its process's.
    return pieces[::local]


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when all processes of the job have come here."""
    gather(strategy, b"")


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy runs on TPUs, which take static shapes only."""
    return isinstance(strategy, tf.distribute.TPUStrategy)


def _read_cluster() -> dict[str, Any]:
    text = os.environ.get(_CLUSTER, "")
    try:
        content = json.loads(text) if text else {}
        if not isinstance(content, dict) or not isinstance(content.get("cluster", {}), dict):
            raise ValueError("no object with a 'cluster'")
    except ValueError as error:
        raise UserError(f"{_CLUSTER}: {error}; expected JSON with 'cluster' and 'task'") from None
    return content


def _workers(content: dict[str, Any]) -> int:
    cluster = content.get("cluster", {})
    return sum(len(cluster.get(kind, ())) for kind in ("chief", "worker"))


def _multi_worker_strategy() -> tf.distribute.MultiWorkerMirroredStrategy:
    content = _read_cluster()
    cluster, task = content.get("cluster", {}), content.get("task", {})
    kind, index = task.get("type"), task.get("index")
    addresses = cluster.get(kind, []) if kind in ("chief", "worker") else []
    if not isinstance(index, int) or not 0 <= index < len(addresses):
        raise UserError(
            f"{_CLUSTER}: expected a cluster of workers and which of them this is, such as "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{_CLUSTER}: {kind} {index} cannot join the others at {addresses[index]} ({reason})") from None


def _refuse_unknown_devices(names: tuple[str, ...]) -> None:
    known = [device.name for device in tf.config.list_logical_devices()]
    seen: set[str] = set()
    for name in names:
        short = _short_name(name)
        if short not in map(_short_name, known):
            raise UserError(f"runtime.devices: no device '{name}'; there are {', '.join(known)}")
        if short in seen:
            raise UserError(f"runtime.devices: '{name}' is named twice")
        seen.add(short)


def _short_name(device: str) -> str:
    # "/job:localhost/replica:0/task:0/device:GPU:0", "/gpu:0" and "GPU:0" are one.
    return device.lower().rpartition("/")[2].removeprefix("device:")


def _tpu_strategy(name: str) -> tf.distribute.TPUStrategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
        # TensorFlow itself would knock for ever at an address where nobody is.
        for address in resolver.cluster_spec().as_dict().get("worker", ()):
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError, RuntimeError, OSError) as error:
        raise UserError(f"runtime.tpu: no TPU answers as '{name}' ({' '.join(str(error).split())[:200]})") from None
    return tf.distribute.TPUStrategy(resolver)
