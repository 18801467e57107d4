"""Training input made by other processes: equal to the local one, and never a silent wait."""

import argparse
import contextlib
import dataclasses
import itertools
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, DataConfig, ExperimentConfig, PhotometricConfig, TrainConfig
from deeplab2_lite.data import data_service, data_service_command
from deeplab2_lite.data.pipeline import training_dataset
from deeplab2_lite.data.record_format import encode_png, make_record
from deeplab2_lite.data.record_index import open_records, reading_error
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
INFO = DatasetInfo("test", (ClassInfo("road", False, (1, 1, 1), 0), ClassInfo("car", True, (2, 2, 2), 1)))
CONFIG = ExperimentConfig(
    data=DataConfig(
        crop_size=(33, 49),
        augmentation=AugmentationConfig(photometric=PhotometricConfig(brightness=0.1)),
    ),
    train=TrainConfig(batch_size=4, seed=3),
)
STEPS = 6


def start_service(*flags):
    command = [sys.executable, "-m", "deeplab2_lite.cli", "data-service", "--host=localhost", *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def running_services(count, *flags):
    processes = [start_service(*flags) for _ in range(count)]
    try:
        yield {process.stdout.readline().strip(): process for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def services():
    """Addresses and processes of two."""
    with running_services(2) as running:
        yield running


def write_records(folder, count, bad_class_in=()):
    with tf.io.TFRecordWriter(str(folder / "train-00000-of-00001.tfrecord")) as writer:
        for number in range(count):
            generator = np.random.default_rng(number)
            height, width = 30 + number, 60 - number
            panoptic = np.zeros((height, width), np.int32)
            panoptic[5:12, 8:20], panoptic[15:25, 3:30] = 1001, 1002
            if number in bad_class_in:
                panoptic[3, 3] = 2000
            image = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
            writer.write(make_record(encode_png(image), "png", f"image_{number}.png", panoptic))
    return open_records(folder, "train")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), 11)


def with_services(*addresses):
    return dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, service=addresses))


def assert_equal_batches(dataset, expected, count):
    pairs = list(zip(itertools.islice(dataset, count), itertools.islice(expected, count), strict=True))
    assert len(pairs) == count
    for got, wanted in pairs:
        tf.nest.map_structure(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("start", [0, 2])
def test_services_give_what_the_local_pipeline_gives(services, index, count, start):
    dataset = training_dataset(with_services(*list(services)[:count]), INFO, index, start)
    local = training_dataset(CONFIG, INFO, index, start)
    assert dataset.element_spec == local.element_spec
    assert_equal_batches(dataset, local, STEPS)


def test_replicas_are_fed_as_by_the_local_pipeline(services, index):
    context = tf.distribute.InputContext(num_input_pipelines=2, input_pipeline_id=1, num_replicas_in_sync=4)
    dataset = training_dataset(with_services(*services), INFO, index, 1, context)
    assert_equal_batches(dataset, training_dataset(CONFIG, INFO, index, 1, context), STEPS)


def test_a_strategy_reads_from_services(services, index):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    config = with_services(*services)
    dataset = strategy.distribute_datasets_from_function(
        lambda context: training_dataset(config, INFO, index, 2, context)
    )
    assert_equal_batches(dataset, training_dataset(CONFIG, INFO, index, 2), 3)


def read_until_error(dataset):
    iterator = iter(dataset)

    @tf.function
    def step():
        return next(iterator).image

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        for _ in range(100):
            step()
    return caught.value


def test_faulty_records_are_named_as_by_the_local_pipeline(services, tmp_path):
    index = write_records(tmp_path, 2, bad_class_in=(0, 1))
    messages = [
        str(reading_error(read_until_error(training_dataset(config, INFO, index)), index))
        for config in (CONFIG, with_services(next(iter(services))))
    ]
    assert messages[0].startswith(f"{tmp_path}: image_") and "2000" in messages[0] and "\n" not in messages[1]
    # Either of the two can be the first.
    assert messages[0].split("png", 1)[1] == messages[1].split("png", 1)[1]


def test_a_service_that_does_not_run_is_named(index, monkeypatch):
    monkeypatch.setattr(data_service, "_PATIENCE_SECONDS", 0.1)
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        address = f"grpc://localhost:{unused.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"^data\.service: {address}: cannot be reached \(Connection refused\)"):
            training_dataset(with_services(address), INFO, index)


def test_what_is_no_service_is_named(index, monkeypatch):
    monkeypatch.setattr(data_service, "_PATIENCE_SECONDS", 0.5)
    with socket.socket() as mute:
        mute.bind(("localhost", 0))
        mute.listen()
        address = f"grpc://localhost:{mute.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"^data\.service: {address}: no answer within"):
            training_dataset(with_services(address), INFO, index)


def make_numbers(monkeypatch, register):
    """Batches 0, 1, 2, ... from two addresses, whose datasets `register` makes in this process."""
    monkeypatch.setattr(data_service, "_require_reachable", lambda address, stopped: None)
    monkeypatch.setattr(data_service, "_register", register)
    shares = {}

    def share(first, stride):
        shares[first] = stride
        return tf.data.Dataset.range(first, 100, stride)

    return data_service.batches_from_services(share, ("grpc://a:1", "grpc://b:2")), shares


def test_services_take_turns(monkeypatch):
    numbers, shares = make_numbers(monkeypatch, lambda batches, address: batches.enumerate())
    assert list(itertools.islice(numbers.as_numpy_iterator(), 9)) == list(range(9))
    assert shares == {0: 2, 1: 2}


def test_a_batch_lost_in_the_network_is_no_other_batch(monkeypatch, index):
    numbers, _ = make_numbers(
        monkeypatch, lambda batches, address: batches.enumerate().filter(lambda i, _: ("b:" not in address) | (i != 2))
    )
    iterator = iter(numbers)
    assert [int(next(iterator)) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        next(iterator)
    assert "data.service: grpc://b:2: batch 2 was lost on its way" in str(reading_error(caught.value, index))


def test_a_service_that_answers_without_batches_is_named(monkeypatch, index):
    monkeypatch.setattr(data_service, "_SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(data_service, "_LONGEST_SILENCE_SECONDS", 0.5)

    class Silence:
        element_spec = (tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int64))

        def __iter__(self):
            time.sleep(3)
            return iter(())

    numbers, _ = make_numbers(monkeypatch, lambda batches, address: Silence())
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        next(iter(numbers))
    assert "grpc://a:1: answers, but sent no batch for 0 s" in str(reading_error(caught.value, index))


def test_a_taken_port_is_refused():
    parser = argparse.ArgumentParser()
    data_service_command.add_arguments(parser)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^--port={port} --worker_port=0: cannot be listened on"):
            data_service_command.run(parser.parse_args([f"--port={port}"]))


def test_a_service_that_ends_is_named(services, index, monkeypatch):
    """Ends one of them: the tests above need both."""
    first, last = services
    dataset = training_dataset(with_services(first, last), INFO, index)
    monkeypatch.setattr(data_service, "_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(data_service, "_PATIENCE_SECONDS", 0.5)
    services[last].kill()
    error = reading_error(read_until_error(dataset), index)
    assert isinstance(error, UserError)
    assert str(error) == (
        f"data.service: {last}: cannot be reached (Connection refused); expected a running 'deeplab2-lite data-service'"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_service_and_client_end(number, index):
    """A client whose iterator is still open ends by itself; a service ends under a client that is still there."""
    with running_services(1) as running:
        ((address, service),) = running.items()
        client = textwrap.dedent(
            f"""
            import sys
            import tensorflow as tf
            from deeplab2_lite.data import data_service, data_service_command
            share = lambda first, stride: tf.data.Dataset.range(first, 2**62, stride)
            iterator = iter(data_service.batches_from_services(share, ["{address}"]).prefetch(4))
            print(*(int(next(iterator)) for _ in range(5)), flush=True)
            sys.stdin.read()
            """
        )
        command = [sys.executable, "-c", client]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        with subprocess.Popen(command, **pipes) as process:
            try:
                output, _ = process.communicate("", timeout=60)
                assert (process.returncode, output) == (0, "0 1 2 3 4\n")
            finally:
                process.kill()
        with subprocess.Popen(command, **pipes) as process:
            try:
                assert process.stdout.readline() == "0 1 2 3 4\n"
                service.send_signal(number)
                assert service.wait(20) == 0
            finally:
                process.kill()


@pytest.mark.slow
def test_a_service_that_was_started_anew_does_not_begin_anew(index):
    with running_services(1) as running:
        ((address, service),) = running.items()
        iterator = iter(training_dataset(with_services(address), INFO, index))
        next(iterator)
        service.kill()
        service.wait()
        with running_services(1, f"--port={address.rsplit(':', 1)[1]}") as again:
            assert list(again) == [address]
            with pytest.raises(tf.errors.InvalidArgumentError) as caught:
                for _ in range(1000):
                    next(iterator)
    message = f"data.service: {address}: was started anew; train again, from the last checkpoint on"
    assert str(reading_error(caught.value, index)) == message
