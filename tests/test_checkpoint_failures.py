"""A full disk, a limit, a vanished folder or a kill end in one line or none, and cost no checkpoint that was whole."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite import checkpoints
from deeplab2_lite.checkpoints import CheckpointStore

from .checkpoint_states import METADATA, assert_same, message_of, names_in, run_python, state_of_step, values

FILE_SIZE_LIMIT = """
import gc, resource, sys, time
import numpy as np
import tensorflow as tf
from deeplab2_lite.checkpoints import CheckpointStore
from deeplab2_lite.errors import UserError

def state(step, size):
    return {f"w{i}": tf.Variable(np.random.default_rng(step + i).normal(size=size).astype("f")) for i in range(20)}

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

store = CheckpointStore(sys.argv[1], max_to_keep=1)
store.save(1, state(1, 100), {}, {})
store.wait()
for name, size in (("wait", 200_000), ("close", 200_000), ("save", 10), ("wait", 400)):
    limit(size)
    store.save(2, state(2, 30_000), {}, {})
    try:
        store.save(3, state(3, 10), {}, {}) if name == "save" else getattr(store, name)()
    except UserError as error:
        print(error)
    limit(resource.RLIM_INFINITY)
    # Told once.
    store.wait()
print(store.steps(), store.load().step)
store.save(4, state(4, 30_000), {}, {})
store.close()
print(store.steps(), (store.load().weights["w0"] == state(4, 30_000)["w0"].numpy()).all())
time.sleep(0.1)
gc.collect()
"""


def test_what_the_system_refuses_is_told_in_one_line_at_the_next_call(tmp_path):
    done = run_python(FILE_SIZE_LIMIT, tmp_path / "checkpoints")
    assert done.stderr == "" and done.returncode == 0
    line = (
        f"{tmp_path}/checkpoints/2: cannot be written (File too large); "
        "the checkpoint of step 1 is whole; the same command goes on from it"
    )
    assert done.stdout.splitlines() == [line] * 4 + ["[1] 1", "[4] True"]
    # Nothing half-written is left.
    assert names_in(tmp_path / "checkpoints") == ["4"]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_costs_the_new_checkpoint_alone(small_disk):
    store = CheckpointStore(small_disk / "checkpoints", max_to_keep=1)
    store.save(1, state_of_step(1), {}, METADATA)
    store.save(2, state_of_step(2, 500_000), {}, METADATA)
    assert message_of(store.wait) == (
        f"{small_disk}/checkpoints/2: cannot be written (No space left on device); "
        "the checkpoint of step 1 is whole; the same command goes on from it"
    )
    assert names_in(small_disk / "checkpoints") == ["1"]
    assert_same(store.load().weights, values(state_of_step(1)))
    # Its place is free again.
    store.save(3, state_of_step(3), {}, METADATA)
    store.close()
    assert names_in(small_disk / "checkpoints") == ["3"]


def test_the_first_one_says_that_there_is_none(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(1, state_of_step(1), {}, METADATA)
    assert message_of(store.close) == (
        f"{tmp_path}/checkpoints/1: cannot be written (File exists); there is no earlier checkpoint"
    )


def test_a_vanished_folder_is_not_made_again(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(1, state_of_step(1), {}, METADATA)
    store.wait()
    shutil.rmtree(tmp_path / "checkpoints")
    store.save(2, state_of_step(2), {}, METADATA)
    assert message_of(lambda: store.save(3, state_of_step(3), {}, METADATA)) == (
        f"{tmp_path}/checkpoints/2: cannot be written (No such file or directory); there is no earlier checkpoint"
    )
    assert names_in(tmp_path) == []
    store.close()


def test_a_folder_that_vanishes_meanwhile_leaves_no_checkpoint_in_part(tmp_path, monkeypatch):
    from orbax.checkpoint import Checkpointer

    save = Checkpointer.save

    def save_after_loss(self, path, *arguments, **options):
        # TensorStore makes the folders anew.
        if path.name == "state":
            shutil.rmtree(tmp_path / "checkpoints")
        save(self, path, *arguments, **options)

    store = CheckpointStore(tmp_path / "checkpoints")
    monkeypatch.setattr(Checkpointer, "save", save_after_loss)
    store.save(1, state_of_step(1), {}, METADATA)
    assert "cannot be written (No such file or directory)" in message_of(store.close)
    assert store.steps() == [] and names_in(tmp_path / "checkpoints") == []


def test_a_mistake_in_the_program_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError

    store = CheckpointStore(tmp_path)
    monkeypatch.setattr(checkpoints, "write_checkpoint", broken)
    store.save(1, state_of_step(1), {}, METADATA)
    with pytest.raises(ZeroDivisionError):
        store.close()
    assert names_in(tmp_path) == []


def test_a_process_that_ends_without_waiting_leaves_a_whole_one_or_none(tmp_path):
    script = """
import sys
import tensorflow as tf
from deeplab2_lite.checkpoints import CheckpointStore
store = CheckpointStore(sys.argv[1])
store.save(1, {"w": tf.Variable(1.0)}, {}, {})
store.wait()
store.save(2, {"w": tf.Variable(tf.fill([3_000_000], 2.0))}, {}, {})
"""
    done = run_python(script, tmp_path)
    assert done.stderr == "" and done.returncode == 0
    checkpoint = CheckpointStore(tmp_path).load()
    assert checkpoint.step == CheckpointStore(tmp_path).steps()[-1]
    assert (checkpoint.weights["w"] == checkpoint.step).all()


# Each child goes on from the checkpoint of the one killed before it, and saves until it is killed itself.
KILLED = """
import os, random, signal, sys, time
import numpy as np
import tensorflow as tf
from deeplab2_lite.checkpoints import CheckpointStore
from deeplab2_lite.orbax_import import import_orbax

import_orbax()

def state(step):
    random = np.random.default_rng(step)
    return {name: random.normal(size=500).astype("f") for name in "ab"}

def train(ready):
    store = CheckpointStore(sys.argv[1], max_to_keep=2)
    step = 0
    if store.latest_step() is not None:
        checkpoint = store.load()
        step = checkpoint.step
        assert step == store.steps()[-1] and checkpoint.metadata == {"step": step}
        assert all((checkpoint.weights[name] == value).all() for name, value in state(step).items())
    start = step
    while True:
        step += 1
        store.save(step, {name: tf.Variable(value) for name, value in state(step).items()}, {}, {"step": step})
        if step == start + 2:
            # The first is whole, the second on its way.
            os.write(ready, b"x")

draw = random.Random(0)
interrupted = 0
for _ in range(10):
    readable, ready = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(ready)
        finally:
            os._exit(1)
    os.close(ready)
    assert os.read(readable, 1), "the child has failed"
    time.sleep(draw.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the child has failed"
    os.close(readable)
    interrupted += any(not name.isdigit() for name in os.listdir(sys.argv[1]))
print(interrupted)
"""


def test_a_process_killed_at_any_moment_goes_on_from_a_whole_checkpoint(tmp_path):
    done = run_python(KILLED, tmp_path)
    assert done.returncode == 0, done.stderr
    # Some of the ten were in the middle of writing or removing.
    assert int(done.stdout) > 0
    store = CheckpointStore(tmp_path, max_to_keep=2)
    checkpoint = store.load()
    assert checkpoint.step >= 10
    random = np.random.default_rng(checkpoint.step)
    assert_same(checkpoint.weights, {name: random.normal(size=500).astype(np.float32) for name in "ab"})
    last = checkpoint.step + 1
    store.save(last, {"w": tf.Variable(1.0)}, {}, METADATA)
    store.close()
    assert names_in(tmp_path) == sorted([str(last - 1), str(last)])
