"""What happens to long jobs: each ends in one line, and nothing is lost."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deeplab2_lite.checkpoints import CheckpointStore
from deeplab2_lite.trainer import train
from deeplab2_lite.trainer.model_dir_lock import locked

from .conftest import SMALL

SETTINGS = f"{SMALL},data.shapes=null,train.image_interval=null"


def arguments(model_dir, records, settings="", mode="train"):
    override = f"{SETTINGS},data.dir={records},{settings}".rstrip(",")
    return ["--mode", mode, "--model_dir", str(model_dir), "--params_override", override]


@pytest.fixture(scope="module")
def two_steps(records, tmp_path_factory):
    """A run that has got as far as step 2."""
    model_dir = tmp_path_factory.mktemp("runs") / "run"
    assert train.main(arguments(model_dir, records, "train.steps=2")) == 0
    return model_dir


# What is longer than this cannot be written, as on a full disk; checkpoints are.
ON_A_FULL_DISK = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
os.execv(sys.argv[1], sys.argv[1:])
"""


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "events.out" not in path.name and path.name != ".training.lock"
    }


def test_a_second_job_in_the_same_folder_is_refused(two_steps, records, capsys):
    before = contents(two_steps)
    with locked(two_steps):
        assert train.main(arguments(two_steps, records, "train.steps=4,train.max_to_keep=9")) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: --model_dir: {two_steps}: another process trains here (host ")
    assert message.endswith("expected a folder of its own")
    assert contents(two_steps) == before


def test_a_full_disk_ends_in_one_line_and_the_checkpoint_before_is_whole(two_steps, records, tmp_path):
    model_dir = tmp_path / "run"
    shutil.copytree(two_steps, model_dir)
    before = CheckpointStore(model_dir / "checkpoints").load()

    words = arguments(model_dir, records, "train.steps=40")
    command = [sys.executable, "-c", ON_A_FULL_DISK, sys.executable, "-m", "deeplab2_lite.trainer.train", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-3000:]
    folder = model_dir / "checkpoints" / "4"
    last = done.stderr.splitlines()[-1]
    whole = "the checkpoint of step 2 is whole; the same command goes on from it"
    assert last == f"error: {folder}: cannot be written (File too large); {whole}"
    assert "Traceback" not in done.stderr
    store = CheckpointStore(model_dir / "checkpoints")
    assert store.steps() == [2]
    for name, value in store.load().weights.items():
        np.testing.assert_array_equal(value, before.weights[name])


@pytest.mark.skipif(not Path("/proc/tty").is_dir(), reason="needs a folder that not even root can write to")
def test_a_folder_that_cannot_be_written_is_refused(records, capsys):
    assert train.main(arguments("/proc/tty", records)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --model_dir: /proc/tty: cannot be written (")
    assert train.main(arguments("/proc/tty/run", records)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --model_dir: /proc/tty/run: expected a folder (")


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(two_steps, records, tmp_path, monkeypatch):
    model_dir = tmp_path / "run"
    shutil.copytree(two_steps, model_dir)
    jumps, now = itertools.cycle([0.0, -86400.0, 3600.0, 40 * 86400.0]), time.time
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    settings = "train.steps=6,train.eval_interval=4,train.max_to_keep=2"
    assert train.main(arguments(model_dir, records, settings, "train_and_eval")) == 0
    assert CheckpointStore(model_dir / "checkpoints").steps() == [4, 6]
    assert json.loads((model_dir / "metrics.json").read_text())["step"] == 6
    seconds = [float(line.split(",")[1]) for line in (model_dir / "learning_curve.csv").read_text().splitlines()[1:]]
    assert seconds == sorted(seconds) and seconds[-1] < 3600


def test_the_best_checkpoint_stays_and_training_stops_without_a_better_one(two_steps, records, tmp_path, capsys):
    model_dir = tmp_path / "run"
    shutil.copytree(two_steps, model_dir)
    # Step 2 was so good that nothing later can be better.
    curve = model_dir / "learning_curve.csv"
    header, row = curve.read_text().splitlines()
    curve.write_text(f"{header},mIoU\n{row},1.0\n")
    settings = "train.steps=40,train.eval_interval=2,train.max_to_keep=1,train.best_metric=mIoU,train.patience=2"
    command = arguments(model_dir, records, settings, "train_and_eval")
    assert train.main(command) == 0
    said = capsys.readouterr().err
    assert "stopping early: mIoU was the best at step 2, 2 evaluation(s) ago (train.patience)" in said
    assert CheckpointStore(model_dir / "checkpoints").steps() == [2, 6]
    # It is what is exported on request.
    assert train.main(["--mode=eval", "--model_dir", str(model_dir), "--checkpoint=best"]) == 0
    assert json.loads((model_dir / "metrics.json").read_text())["step"] == 2
    # Who evaluates beside training sees that it is over.
    assert train.main(["--mode=continuous_eval", "--model_dir", str(model_dir)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint=best"], "--checkpoint: has no meaning with --mode=train; expected eval or export"),
        (["--profile=5,2"], "--profile: expected START,END such as 100,110, got '5,2'"),
        (["--profile=soon"], "--profile: expected START,END such as 100,110, got 'soon'"),
    ],
)
def test_flags_without_meaning_are_refused(two_steps, records, capsys, words, message):
    assert train.main([*arguments(two_steps, records), *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("first", "--checkpoint: expected newest, best or a step, got 'first'"),
        ("best", "--checkpoint: 'best' has no meaning without train.best_metric"),
        ("7", "checkpoints: no checkpoint of step 7; there are [2]"),
    ],
)
def test_checkpoints_that_are_not_there(two_steps, capsys, name, message):
    assert train.main(["--mode=eval", "--model_dir", str(two_steps), f"--checkpoint={name}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_a_figure_that_nobody_measures_is_refused(two_steps, records, capsys):
    assert train.main(arguments(two_steps, records, "train.best_metric=PG")) == 2
    assert "train.best_metric: no figure 'PG'" in capsys.readouterr().err


def test_a_trace_of_the_steps_that_were_asked_for(two_steps, records, tmp_path, capsys):
    model_dir = tmp_path / "run"
    shutil.copytree(two_steps, model_dir)
    assert train.main([*arguments(model_dir, records, "train.steps=6,train.steps_per_loop=6"), "--profile=3,5"]) == 0
    assert "--profile: the trace is in" in capsys.readouterr().err
    (trace,) = (model_dir / "train" / "plugins" / "profile").glob("*/*.xplane.pb")
    # Two steps of a loop: the trace knows the function by its name.
    assert b"loop_fn" in trace.read_bytes()
