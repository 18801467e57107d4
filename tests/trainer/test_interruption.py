"""Runs that are killed or asked to stop at any moment, and started again, end as if nothing had happened."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deeplab2_lite.checkpoints import CheckpointStore
from deeplab2_lite.command import EXIT_INTERRUPTED, EXIT_PREEMPTED

from .conftest import SMALL

SETTINGS = (
    f"{SMALL},data.shapes=null,runtime.deterministic=true,train.eval_interval=8,train.best_metric=mIoU,"
    "train.ema_decay=0.9,train.image_interval=null,evaluation.pictures=0"
)


class Job:
    """A command that is started again and again."""

    def __init__(self, folder, records, settings):
        self.model_dir = folder / "run"
        self.log = folder / "log.txt"
        self.command = [
            *(sys.executable, "-m", "deeplab2_lite.trainer.train", "--mode=train_and_eval"),
            *("--model_dir", str(self.model_dir), "--params_override", f"{SETTINGS},data.dir={records},{settings}"),
        ]

    def start(self):
        self.from_here = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("a") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def said(self):
        """What the process that was started last has said so far."""
        return self.log.read_bytes()[self.from_here :].decode() if self.log.exists() else ""

    def finish(self):
        process = self.start()
        assert process.wait(600) == 0, self.said()[-3000:]

    def steps(self):
        return CheckpointStore(self.model_dir / "checkpoints").steps()


def wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def is_training(job):
    return lambda: re.search(r"^step \d+/", job.said(), re.MULTILINE)


def is_saving(job):
    """Whether a checkpoint is being written: a folder that is no step yet has something in it."""

    def check():
        folder = job.model_dir / "checkpoints"
        unfinished = [path for path in folder.glob("*") if not path.name.isdigit()] if folder.is_dir() else []
        return any(any(path.iterdir()) for path in unfinished if path.is_dir())

    return check


def assert_same_end(job, reference):
    one, two = (CheckpointStore(each.model_dir / "checkpoints").load() for each in (job, reference))
    assert one.step == two.step
    for kind in ("weights", "optimizer", "averages"):
        found, expected = getattr(one, kind), getattr(two, kind)
        assert set(found) == set(expected) != set(), kind
        for name, value in expected.items():
            assert found[name].tobytes() == value.tobytes(), (kind, name)
    metrics = [json.loads((each.model_dir / "metrics.json").read_text()) for each in (job, reference)]
    assert metrics[0] == metrics[1]
    curves = [list(csv.DictReader((each.model_dir / "learning_curve.csv").open())) for each in (job, reference)]
    figures = [{row["step"]: (row["PQ"], row["mIoU"]) for row in rows if row["mIoU"]} for rows in curves]
    assert figures[0] == figures[1]
    assert job.steps() == reference.steps()
    # Nothing half-written is left by those that were killed.
    assert not list(job.model_dir.rglob("*.tmp")) and not list((job.model_dir / "checkpoints").glob(".*"))


@pytest.fixture(scope="module")
def records_of_scenes(records):
    return Path(records)


@pytest.fixture(scope="module")
def reference(records_of_scenes, tmp_path_factory):
    """A run that nobody disturbs."""
    job = Job(tmp_path_factory.mktemp("reference"), records_of_scenes, "train.steps=12")
    job.finish()
    assert len(job.steps()) == 3
    return job


def test_killed_while_saving_and_terminated_while_training(reference, records_of_scenes, tmp_path):
    job = Job(tmp_path, records_of_scenes, "train.steps=12")
    process = job.start()
    assert wait_for(is_saving(job), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process = job.start()
    assert wait_for(is_training(job), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == EXIT_PREEMPTED
    saved = re.search(r"^saved step (\d+)$", job.said(), re.MULTILINE)
    assert job.said().splitlines()[-1] == "terminated; the same command goes on from here"
    assert job.steps()[-1] == int(saved[1])
    job.finish()
    assert f"going on from the checkpoint of step {saved[1]}\n" in job.said()
    assert_same_end(job, reference)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_twenty_times_at_random_moments(number, records_of_scenes, tmp_path):
    settings = "train.steps=160,train.steps_per_loop=3,train.eval_interval=40"
    undisturbed, job = (Job(tmp_path / name, records_of_scenes, settings) for name in ("undisturbed", "disturbed"))
    undisturbed.model_dir.parent.mkdir()
    job.model_dir.parent.mkdir()
    undisturbed.finish()
    random = np.random.default_rng(0)
    taken, kills, saving = [], 0, 0
    while kills < 20:
        there = len(job.steps()) and job.steps()[-1]
        process = job.start()
        if kills % 3 == 0:
            # Of every third process the second save.
            if wait_for(lambda seen=there: job.steps()[-1:] > [seen], process) and wait_for(is_saving(job), process):
                saving += 1
                process.send_signal(number)
        elif wait_for(is_training(job), process):
            time.sleep(random.uniform(0, 3))
            process.send_signal(number)
        status = process.wait(300)
        kills += 1
        if status == 0:
            break
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else EXIT_PREEMPTED), job.said()[-3000:]
        if number == signal.SIGTERM:
            began = re.search(r"going on from the checkpoint of step (\d+)\n", job.said())
            taken.append((int(began[1]) if began else 0, int(re.search(r"^saved step (\d+)$", job.said(), re.M)[1])))
    job.finish()
    assert kills == 20 and saving >= 5
    # No step was lost, and none repeated: each process begins where the one before it ended.
    assert [first for first, _ in taken[1:]] == [last for _, last in taken[:-1]]
    assert_same_end(job, undisturbed)


@pytest.mark.slow
def test_control_c_saves_and_says_so(records_of_scenes, tmp_path):
    job = Job(tmp_path, records_of_scenes, "train.steps=1000,train.steps_per_loop=500,train.checkpoint_interval=500")
    process = job.start()
    # The loop of 500 steps has begun when the run is set up; nothing is said before its end.
    assert wait_for(lambda: (job.model_dir / "train").is_dir(), process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == EXIT_INTERRUPTED
    assert job.said().splitlines()[-1] == "interrupted; the same command goes on from here"
    # In the middle of a loop, long before it would have ended.
    assert 0 < job.steps()[-1] < 400
