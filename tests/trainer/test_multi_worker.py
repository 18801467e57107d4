"""Two processes that train together over loopback: they do what one does, and survive each other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from deeplab2_lite.checkpoints import CheckpointStore
from deeplab2_lite.command import EXIT_PREEMPTED

from .conftest import SMALL

SETTINGS = (
    f"{SMALL},data.shapes=null,train.optimizer.power=0.0,evaluation.batch_size=2,train.eval_interval=4,"
    "train.image_interval=null,model.batch_norm.synchronized=true,runtime.deterministic=true"
)


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Job:
    """As many processes as a job has workers; none: one without TF_CONFIG."""

    def __init__(self, folder, records, workers, settings=""):
        self.model_dir = folder / "run"
        self.logs = [folder / f"{index}.txt" for index in range(max(1, workers))]
        self.workers = workers
        self.command = [
            *(sys.executable, "-m", "deeplab2_lite.trainer.train", "--mode=train_and_eval"),
            *("--model_dir", str(self.model_dir), "--params_override", f"{SETTINGS},data.dir={records},{settings}"),
        ]

    def start(self):
        addresses = [f"127.0.0.1:{port}" for port in free_ports(self.workers)]
        processes = []
        for index, log in enumerate(self.logs):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            cluster = {"TF_CONFIG": json.dumps(task)} if self.workers else {}
            with log.open("w") as file:
                processes.append(
                    subprocess.Popen(self.command, stdout=file, stderr=file, env={**os.environ, **cluster})
                )
        return processes

    def finish(self):
        for process, log in zip(self.start(), self.logs, strict=True):
            assert process.wait(600) == 0, log.read_text()[-3000:]

    def end(self):
        checkpoint = CheckpointStore(self.model_dir / "checkpoints").load()
        return checkpoint, json.loads((self.model_dir / "metrics.json").read_text())


def flat(arrays):
    return np.concatenate([np.ravel(arrays[name]).astype(np.float64) for name in sorted(arrays)])


@pytest.mark.slow
def test_two_workers_do_what_one_process_does(records, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = Job(tmp_path / "one", records, 0), Job(tmp_path / "two", records, 2)
    one.finish()
    # They go on from a checkpoint of one process: that does not say how many replicas wrote it.
    shutil.copytree(one.model_dir / "checkpoints" / "2", two.model_dir / "checkpoints" / "2")
    shutil.copy(one.model_dir / "config.yaml", two.model_dir)
    two.finish()
    assert "going on from the checkpoint of step 2\n" in two.logs[0].read_text()
    (expected, metrics), (found, found_metrics) = one.end(), two.end()
    start = flat(CheckpointStore(one.model_dir / "checkpoints").load(2).weights)
    update = np.linalg.norm(flat(expected.weights) - start)
    assert found.step == expected.step == 6 and update > 1e-3
    assert np.linalg.norm(flat(found.weights) - flat(expected.weights)) < 1e-3 * update
    assert found_metrics.keys() == metrics.keys() and found_metrics["num_images"] == 3
    assert found_metrics["semantic/mIoU"] == pytest.approx(metrics["semantic/mIoU"], abs=1e-3)
    # One of them writes and says what there is to say.
    assert "images/s" in two.logs[0].read_text() and "images/s" not in two.logs[1].read_text()
    assert (two.model_dir / "export" / "saved_model" / "saved_model.pb").is_file()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_restarted_and_the_job_goes_on(records, tmp_path):
    settings = "train.steps=24,train.eval_interval=12"
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "killed").mkdir()
    undisturbed = Job(tmp_path / "undisturbed", records, 2, settings)
    undisturbed.finish()
    job = Job(tmp_path / "killed", records, 2, settings)
    store = CheckpointStore(job.model_dir / "checkpoints")
    for victim, number, until in ((1, signal.SIGKILL, 4), (0, signal.SIGKILL, 10), (1, signal.SIGTERM, 16)):
        processes = job.start()
        deadline = time.monotonic() + 300
        while (store.latest_step() or 0) < until:
            assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
            time.sleep(0.05)
        processes[victim].send_signal(number)
        # The other one does not wait for ever: what supervises them can start both again.
        statuses = [process.wait(180) for process in processes]
        if number == signal.SIGTERM:
            # One was asked, and all have saved the same step.
            assert statuses == [EXIT_PREEMPTED] * 2, [log.read_text()[-2000:] for log in job.logs]
        else:
            assert statuses[victim] == -number
            assert statuses[1 - victim] != 0
    job.finish()
    (expected, metrics), (found, found_metrics) = undisturbed.end(), job.end()
    assert found.step == expected.step == 24
    for name, value in expected.weights.items():
        assert found.weights[name].tobytes() == value.tobytes(), name
    assert found_metrics == metrics
