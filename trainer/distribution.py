"""The `tf.distribute` strategy that the configuration asks for."""

from __future__ import annotations

import socket

import tensorflow as tf

from deeplab2_lite.config import RuntimeConfig
from deeplab2_lite.errors import UserError

_SECONDS_TO_ANSWER = 10.0


def build_strategy(config: RuntimeConfig) -> tf.distribute.Strategy:
    """Builds the strategy over the devices.

    Args:
        config: "auto" takes the TPU if one is named, mirrors over several GPUs, else takes one device.

    Returns:
        The strategy.

    Raises:
        UserError: A device that is named is not there, or the TPU does not answer.
    """
    if config.strategy == "tpu" or config.tpu is not None:
        return _tpu_strategy(config.tpu or "local")
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    devices = list(config.devices) if config.devices is not None else gpus
    _refuse_unknown_devices(config.devices or ())
    if config.strategy == "mirrored" or (config.strategy == "auto" and len(devices) > 1):
        return tf.distribute.MirroredStrategy(devices or None)
    if config.strategy == "one_device" and len(config.devices or ()) > 1:
        raise UserError(f"runtime.devices: expected one device for runtime.strategy one_device, got {devices}")
    return tf.distribute.OneDeviceStrategy(devices[0] if devices else "/cpu:0")


def check_batch_size(key: str, batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Refuses a global batch that the replicas cannot share evenly.

    Args:
        key: The key's full path, for the message.
        batch_size: Global batch.
        strategy: The strategy.

    Raises:
        UserError: It does not divide.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(f"{key}: expected a multiple of the {replicas} replicas, got {batch_size}")


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy runs on TPUs, which take static shapes only."""
    return isinstance(strategy, tf.distribute.TPUStrategy)


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
