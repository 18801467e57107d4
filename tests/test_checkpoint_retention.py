"""Old checkpoints go when newer ones are whole, the best stay, and a reader beside it never stumbles."""

from __future__ import annotations

import itertools
import shutil
import threading

import pytest
import tensorflow as tf

from deeplab2_lite import checkpoint_folder, checkpoints
from deeplab2_lite.checkpoints import CheckpointStore

from .checkpoint_states import METADATA, assert_same, message_of, names_in, state_of_step, values


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", max_to_keep=None)
    yield store
    store.close()


def save(store, *steps):
    for step in steps:
        store.save(step, state_of_step(step), {}, METADATA)
    store.wait()


# ---- which stay


def test_steps_are_sorted_and_the_last_stay(tmp_path):
    folder = tmp_path / "deep" / "checkpoints"
    variable = tf.Variable(0.0)
    store = CheckpointStore(folder, max_to_keep=2)
    assert store.steps() == [] and store.latest_step() is None
    # Opening alone makes nothing.
    assert not folder.exists()
    for step in (2, 9, 10, 100):
        variable.assign(step)
        store.save(step, {"w": variable}, {}, METADATA)
    store.wait()
    assert store.steps() == [10, 100] and store.latest_step() == 100
    assert store.load().weights["w"] == 100 and store.load(10).weights["w"] == 10
    store.close()
    # A run that goes on keeps counting, also over what it has not written itself.
    again = CheckpointStore(folder, max_to_keep=2)
    again.save(101, {"w": variable}, {}, METADATA)
    again.close()
    assert again.steps() == [100, 101]
    assert CheckpointStore(folder).steps() == [100, 101]
    assert names_in(folder) == ["100", "101"]


def test_what_was_left_half_written_is_ignored_and_written_anew(store):
    store.save(3, {"w": tf.Variable(3.0)}, {}, METADATA)
    store.close()
    # What a run killed in the middle of step 4 leaves.
    shutil.copytree(store.directory / "3", store.directory / "4.orbax-checkpoint-tmp")
    shutil.rmtree(store.directory / "4.orbax-checkpoint-tmp" / "metadata")
    (store.directory / "5").write_text("a file")
    (store.directory / "best").mkdir()
    assert store.steps() == [3] and store.load().step == 3
    (store.directory / "5").unlink()
    store.save(4, {"w": tf.Variable(4.0)}, {}, METADATA)
    assert store.load().weights["w"] == 4.0


@pytest.mark.parametrize(
    ("steps", "newest", "max_to_keep", "keep", "surplus"),
    [
        ([1, 2, 3, 4], 4, 2, [], [1, 2]),
        ([1, 2, 3, 4], 4, 2, [1], [2]),
        # Kept ones among the last do not make room for others; unknown ones harm nothing.
        ([1, 2, 3, 4], 4, 2, [4, 3, 99], [1, 2]),
        ([1, 2], 2, 3, [], []),
        ([5], 5, 1, [], []),
        # Started again from step 2: what was just written stays, whatever its number.
        ([2, 3, 7, 8, 9], 3, 2, [], [2, 7]),
        ([9, 3, 8], 3, 1, [8], []),
    ],
)
def test_which_can_go(steps, newest, max_to_keep, keep, surplus):
    assert checkpoint_folder.surplus_steps(steps, newest, max_to_keep, keep) == surplus


def test_the_best_stay(tmp_path):
    store = CheckpointStore(tmp_path, max_to_keep=2)
    save(store, 1, 2)
    store.keep = {1}
    save(store, 3, 4, 5)
    assert store.steps() == [1, 4, 5]
    # Another is the best from now on.
    store.keep = {4}
    save(store, 6, 7, 8)
    assert store.steps() == [4, 7, 8]
    store.keep.clear()
    save(store, 9)
    assert store.steps() == [8, 9]
    assert_same(store.load(8).weights, values(state_of_step(8)))
    store.close()
    assert names_in(tmp_path) == ["8", "9"]


def test_nothing_goes_before_the_new_one_is_whole(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, max_to_keep=1)
    save(store, 1)
    seen = []
    write, remove = checkpoints.write_checkpoint, checkpoint_folder.remove

    def watched_write(*arguments):
        write(*arguments)
        seen.append(("written", store.steps()))

    def watched_remove(folder, step):
        seen.append((f"removing {step}", store.steps()))
        remove(folder, step)

    monkeypatch.setattr(checkpoints, "write_checkpoint", watched_write)
    monkeypatch.setattr(checkpoint_folder, "remove", watched_remove)
    save(store, 2)
    store.close()
    assert seen == [("written", [1]), ("removing 1", [1, 2])] and store.steps() == [2]


def test_removal_is_at_once_for_readers(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, max_to_keep=1)
    save(store, 1)
    names = []
    rmtree = shutil.rmtree

    def watched(path, **options):
        names.append((path.name, [p for p in names_in(tmp_path) if p.isdigit()]))
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    save(store, 2)
    store.close()
    # No folder of a step is ever taken apart.
    assert (".deleting-1", ["2"]) in names
    assert all(name.startswith(".") for name, _ in names)


# ---- what a killed run leaves


def test_leftovers_go_at_the_next_opening_for_writing(tmp_path):
    save(CheckpointStore(tmp_path), 3)
    leftovers = [".deleting-2", ".writing-4", "5.orbax-checkpoint-tmp", "6.orbax-checkpoint-tmp-1764455000"]
    others = [".deleting-", "best", "damaged-1", "orbax-checkpoint-tmp"]
    for name in leftovers + others:
        (tmp_path / name / "state").mkdir(parents=True)
    reader = CheckpointStore(tmp_path)
    assert reader.steps() == [3] and reader.load().step == 3
    reader.close()
    assert set(leftovers) < set(names_in(tmp_path))
    writer = CheckpointStore(tmp_path)
    save(writer, 4)
    writer.close()
    assert names_in(tmp_path) == sorted([*others, "3", "4"])


def test_one_half_removed_makes_room_for_another_of_its_step(tmp_path):
    store = CheckpointStore(tmp_path, max_to_keep=1)
    save(store, 1)
    (tmp_path / ".deleting-1" / "state").mkdir(parents=True)
    save(store, 2)
    store.close()
    assert names_in(tmp_path) == ["2"]


# ---- a reader in another process


def test_what_is_removed_while_it_is_read_makes_the_newest_be_taken(tmp_path, monkeypatch, capsys):
    writer, reader = CheckpointStore(tmp_path, max_to_keep=1), CheckpointStore(tmp_path)
    save(writer, 1)
    read = checkpoints.read_checkpoint
    asked = []

    def read_late(folder):
        asked.append(folder.name)
        if len(asked) == 1:
            save(writer, 2)
        return read(folder)

    monkeypatch.setattr(checkpoints, "read_checkpoint", read_late)
    assert reader.load().step == 2
    assert asked == ["1", "2"] and capsys.readouterr().err == ""
    asked.clear()
    monkeypatch.setattr(checkpoints, "read_checkpoint", lambda folder: (save(writer, 3), read(folder))[1])
    assert message_of(lambda: reader.load(2)) == f"{tmp_path}: no checkpoint of step 2; there are [3]"
    writer.close()


def test_a_reader_beside_a_writer_gets_whole_checkpoints_alone(tmp_path, capfd):
    writer = CheckpointStore(tmp_path, max_to_keep=1)
    save(writer, 0)
    stop = threading.Event()

    def write():
        for step in itertools.count(1):
            if stop.is_set():
                return
            writer.save(step, state_of_step(step), {}, METADATA)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        steps = []
        for _ in range(30):
            checkpoint = CheckpointStore(tmp_path).load()
            assert_same(checkpoint.weights, values(state_of_step(checkpoint.step)))
            steps.append(checkpoint.step)
    finally:
        stop.set()
        thread.join()
        writer.close()
    assert steps == sorted(steps) and steps[-1] > 3
    assert capfd.readouterr().err == ""
