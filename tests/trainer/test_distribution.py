"""Which strategy a configuration gives, and devices that are not there."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
import tensorflow as tf

from deeplab2_lite.config import RuntimeConfig
from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer.distribution import build_strategy, check_batch_size, is_chief, is_tpu

CPU = "/job:localhost/replica:0/task:0/device:CPU:0"


def message_of(config):
    with pytest.raises(UserError) as caught:
        build_strategy(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (RuntimeConfig(), tf.distribute.OneDeviceStrategy),
        (RuntimeConfig(strategy="one_device"), tf.distribute.OneDeviceStrategy),
        (RuntimeConfig(devices=("CPU:0",)), tf.distribute.OneDeviceStrategy),
        (RuntimeConfig(devices=("/cpu:0",)), tf.distribute.OneDeviceStrategy),
        (RuntimeConfig(devices=("/device:CPU:0",)), tf.distribute.OneDeviceStrategy),
        (RuntimeConfig(devices=(CPU,)), tf.distribute.OneDeviceStrategy),
        (RuntimeConfig(strategy="mirrored", devices=("CPU:0",)), tf.distribute.MirroredStrategy),
    ],
    ids=str,
)
def test_on_a_cpu(config, kind):
    strategy = build_strategy(config)
    assert type(strategy) is kind
    assert strategy.extended.worker_devices == (CPU,)
    assert strategy.num_replicas_in_sync == 1 and not is_tpu(strategy)


@pytest.fixture
def three_gpus(monkeypatch):
    """A machine of one CPU and three GPUs, whose strategies only tell what they were given."""

    def list_logical_devices(kind=None):
        names = {"CPU": ["/device:CPU:0"], "GPU": ["/device:GPU:0", "/device:GPU:1", "/device:GPU:2"]}
        chosen = names["CPU"] + names["GPU"] if kind is None else names[kind]
        return [SimpleNamespace(name=name) for name in chosen]

    monkeypatch.setattr(tf.config, "list_logical_devices", list_logical_devices)
    monkeypatch.setattr(tf.distribute, "OneDeviceStrategy", lambda device: ("one", device))
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda devices: ("mirrored", devices))


ALL_GPUS = ["/device:GPU:0", "/device:GPU:1", "/device:GPU:2"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (RuntimeConfig(), ("mirrored", ALL_GPUS)),
        (RuntimeConfig(strategy="mirrored"), ("mirrored", ALL_GPUS)),
        (RuntimeConfig(strategy="one_device"), ("one", "/device:GPU:0")),
        (RuntimeConfig(devices=("GPU:2",)), ("one", "GPU:2")),
        (RuntimeConfig(devices=("GPU:2", "/gpu:0")), ("mirrored", ["GPU:2", "/gpu:0"])),
        (RuntimeConfig(strategy="mirrored", devices=("GPU:1",)), ("mirrored", ["GPU:1"])),
        (RuntimeConfig(strategy="one_device", devices=("GPU:1",)), ("one", "GPU:1")),
        (RuntimeConfig(strategy="one_device", devices=("CPU:0",)), ("one", "CPU:0")),
    ],
    ids=str,
)
def test_on_three_gpus(config, expected, three_gpus):
    assert build_strategy(config) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            RuntimeConfig(devices=("GPU:0", "GPU:3")),
            "runtime.devices: no device 'GPU:3'; there are /device:CPU:0, /device:GPU:0, /device:GPU:1, /device:GPU:2",
        ),
        (RuntimeConfig(devices=("GPU:1", "/device:gpu:1")), "runtime.devices: '/device:gpu:1' is named twice"),
        (
            RuntimeConfig(strategy="one_device", devices=("GPU:0", "GPU:1")),
            "runtime.devices: expected one device for runtime.strategy one_device, got ['GPU:0', 'GPU:1']",
        ),
    ],
)
def test_wrong_devices(config, message, three_gpus):
    assert message_of(config) == message


@pytest.mark.parametrize("name", ["", "0", "PU:0", "GPU:0", "CPU", "CPU:00"])
def test_devices_that_are_not_there(name):
    assert message_of(RuntimeConfig(devices=(name,))) == (
        f"runtime.devices: no device '{name}'; there are /device:CPU:0"
    )


# ---- several processes

CLUSTER = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "TF_CONFIG: Expecting property name"),
        ("[]", "TF_CONFIG: no object with a 'cluster'; expected JSON with 'cluster' and 'task'"),
        ({"cluster": CLUSTER}, "TF_CONFIG: expected a cluster of workers and which of them this is, such as "),
        ({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}}, "TF_CONFIG: expected a cluster of workers"),
        ({"cluster": CLUSTER, "task": {"type": "ps", "index": 0}}, "TF_CONFIG: expected a cluster of workers"),
    ],
)
def test_a_cluster_that_is_none(monkeypatch, content, message):
    monkeypatch.setenv("TF_CONFIG", content if isinstance(content, str) else json.dumps(content))
    assert message_of(RuntimeConfig()).startswith(message)
    assert message_of(RuntimeConfig(strategy="multi_worker")).startswith(message)


def test_a_cluster_has_to_be_there_for_several_workers(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert message_of(RuntimeConfig(strategy="multi_worker")).startswith("TF_CONFIG: expected a cluster of workers")


def test_a_cluster_of_one_is_no_reason_for_another_strategy(monkeypatch):
    content = {"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(content))
    assert isinstance(build_strategy(RuntimeConfig()), tf.distribute.OneDeviceStrategy)


@pytest.mark.parametrize(
    ("cluster", "task", "expected"),
    [
        (["worker"], ("worker", 0), True),
        (["worker"], ("worker", 1), False),
        (["chief", "worker"], ("chief", 0), True),
        (["chief", "worker"], ("worker", 0), False),
    ],
)
def test_one_process_is_the_chief(monkeypatch, cluster, task, expected):
    resolver = SimpleNamespace(cluster_spec=lambda: SimpleNamespace(jobs=cluster), task_type=task[0], task_id=task[1])
    monkeypatch.setattr("deeplab2_lite.trainer.distribution.has_other_processes", lambda strategy: True)
    assert is_chief(SimpleNamespace(cluster_resolver=resolver)) is expected


# ---- TPU


def closed_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def no_connection(monkeypatch):
    """TensorFlow knocks at an address until somebody answers: it must never come to that."""

    def fail(*arguments, **options):
        raise AssertionError("tried to connect to a cluster")

    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", fail)


def test_no_tpu_in_this_machine():
    start = time.monotonic()
    for config in (RuntimeConfig(strategy="tpu"), RuntimeConfig(tpu="local")):
        assert message_of(config).startswith("runtime.tpu: no TPU answers as 'local' (TPUs not found in the cluster.")
    assert time.monotonic() - start < 20


def test_nobody_listens(no_connection):
    start = time.monotonic()
    for name in (f"grpc://127.0.0.1:{closed_port()}", f"grpc://127.0.0.1:{closed_port()},grpc://127.0.0.1:1"):
        text = message_of(RuntimeConfig(tpu=name))
        assert text.startswith(f"runtime.tpu: no TPU answers as '{name}' (") and text.endswith("Connection refused)")
    assert time.monotonic() - start < 5


def test_nobody_answers(monkeypatch, no_connection):
    asked = []

    def create_connection(address, timeout):
        asked.append((address, timeout))
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", create_connection)
    assert message_of(RuntimeConfig(tpu="grpc://10.1.2.3:8470")) == (
        "runtime.tpu: no TPU answers as 'grpc://10.1.2.3:8470' (timed out)"
    )
    assert asked == [(("10.1.2.3", 8470), 10.0)]


def test_a_name_outside_the_cloud(monkeypatch, no_connection):
    def urlopen(*arguments, **options):
        raise urllib.error.URLError("no such host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert message_of(RuntimeConfig(tpu="my-tpu")).startswith("runtime.tpu: no TPU answers as 'my-tpu' (")


def test_a_tpu_that_answers(monkeypatch):
    steps = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        name = f"grpc://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda r: steps.append(("connect", r)))
        monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", lambda r: steps.append(("start", r)))
        monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda r: steps.append(("strategy", r)) or "a strategy")
        assert build_strategy(RuntimeConfig(tpu=name)) == "a strategy"
    assert [step for step, _ in steps] == ["connect", "start", "strategy"]
    assert {resolver.master() for _, resolver in steps} == {name}


# ---- batch


def test_batches_are_shared_evenly():
    strategy = SimpleNamespace(num_replicas_in_sync=4)
    for size in (4, 8, 64):
        check_batch_size("train.batch_size", size, strategy)
    for size in (1, 6):
        with pytest.raises(UserError) as caught:
            check_batch_size("evaluation.batch_size", size, strategy)
        assert str(caught.value) == f"evaluation.batch_size: expected a multiple of the 4 replicas, got {size}"
    with pytest.raises(UserError) as caught:
        check_batch_size("train.batch_size", 12, strategy, parts=2)
    assert str(caught.value) == (
        "train.batch_size: expected a multiple of the 4 replicas times train.accumulation_steps 2, got 12"
    )
