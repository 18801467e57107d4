"""What is damaged is never taken for a checkpoint: it is named, passed over, and kept for whoever wants to look."""

from __future__ import annotations

import json
import shutil
import sys
import time
import types

import numpy as np
import pytest

from deeplab2_lite.checkpoints import CheckpointStore
from deeplab2_lite.errors import UserError

from .checkpoint_states import METADATA, assert_same, message_of, names_in, run_python, state, state_of_step, values


@pytest.fixture(scope="module")
def one_checkpoint(tmp_path_factory):
    """A folder with the checkpoint of step 7, and what is in it."""
    weights, optimizer = state()
    averages = state_of_step(1, 50)
    writer = CheckpointStore(tmp_path_factory.mktemp("checkpoint"))
    writer.save(7, weights, optimizer, METADATA, averages)
    writer.close()
    return writer.directory, values(weights), values(optimizer), values(averages)


@pytest.fixture
def three(tmp_path):
    """A folder with the checkpoints of steps 100, 110 and 120."""
    writer = CheckpointStore(tmp_path / "checkpoints")
    for step in (100, 110, 120):
        writer.save(step, state_of_step(step), {}, METADATA)
    writer.close()
    return writer.directory


def damage_arrays(folder):
    """Changes one bit of the largest file, in which the arrays are."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path):
    path.write_bytes(b"")


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without(part):
    def damage(path):
        text = json.loads(path.read_text())
        tree = {k: v for k, v in text["tree_metadata"].items() if part not in k}
        path.write_text(json.dumps({**text, "tree_metadata": tree}))

    return damage


def _without_checksums(path):
    metadata = json.loads(path.read_text())
    del metadata["checksums"]
    path.write_text(json.dumps(metadata))


def _remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("state", _remove),
        ("metadata", _remove),
        ("metadata/metadata", _empty),
        ("metadata/metadata", _cut),
        ("metadata/metadata", _without_checksums),
        ("state/_METADATA", _cut),
        ("state/_METADATA", _without("weights")),
        ("state/_METADATA", _without("optimizer")),
        ("state/_METADATA", _without("averages")),
        ("state/_METADATA", _without("head/bias")),
        ("state/manifest.ocdbt", _cut),
        ("state/ocdbt.process_0/d/*", _empty),
        ("state/ocdbt.process_0/d/*", _cut),
        ("state/ocdbt.process_0/d/*", _remove),
        ("state/d/*", _empty),
        ("state/d", _remove),
        ("*", _remove),
    ],
)
def test_damaged_checkpoints_are_named(one_checkpoint, tmp_path, monkeypatch, capfd, recwarn, pattern, damage):
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    shutil.copytree(one_checkpoint[0], tmp_path / "copy")
    folder = tmp_path / "copy" / "7"
    found = list(folder.glob(pattern))
    assert found
    for path in found:
        damage(path)
    message = message_of(CheckpointStore(tmp_path / "copy").load)
    assert message.startswith(f"{folder}: damaged checkpoint (") and message.endswith(")")
    assert message_of(lambda: CheckpointStore(tmp_path / "copy").load(7)).startswith(f"{folder}: damaged checkpoint (")
    # Orbax's threads are still reading.
    time.sleep(0.05)
    assert complaints == [] and capfd.readouterr().err == ""
    # What has nothing to do with it is still told.
    sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError("other")))
    assert len(complaints) == 1


def test_no_flipped_bit_changes_what_is_loaded(one_checkpoint, tmp_path, capfd):
    source, *expected = one_checkpoint
    shutil.copytree(source, tmp_path / "copy")
    random = np.random.default_rng(0)
    noticed = {}
    for path in sorted((tmp_path / "copy" / "7").rglob("*")):
        if path.is_dir():
            continue
        content = path.read_bytes()
        # The metadata's JSON has the checksums, and names them.
        count = 40 if path.parent.name == "metadata" and path.name == "metadata" else 6
        for position in random.integers(0, len(content), count):
            changed = bytearray(content)
            changed[position] ^= 1 << random.integers(8)
            path.write_bytes(changed)
            try:
                checkpoint = CheckpointStore(tmp_path / "copy").load(7)
            except UserError as error:
                assert "damaged checkpoint" in str(error)
                noticed[path] = noticed.get(path, 0) + 1
                continue
            for actual, part in zip(
                (checkpoint.weights, checkpoint.optimizer, checkpoint.averages), expected, strict=True
            ):
                assert_same(actual, part)
            assert checkpoint.metadata == METADATA
        path.write_bytes(content)
    # In the file of the arrays nearly each is an error (some bytes there belong to nothing); tensorstore itself
    # notices none of them.
    largest = max(noticed, key=lambda path: path.stat().st_size)
    assert noticed[largest] >= 4 and largest.parent.parent.name == "ocdbt.process_0"
    assert_same(CheckpointStore(tmp_path / "copy").load(7).weights, expected[0])
    assert capfd.readouterr().err == ""


def test_orbax_threads_print_nothing_of_it(one_checkpoint, tmp_path):
    # In a process of its own, since pytest takes what is logged.
    script = """
import gc, pathlib, shutil, sys, time
from deeplab2_lite.checkpoints import CheckpointStore
from deeplab2_lite.errors import UserError
source, folder = sys.argv[1:]
for pattern in ("state/d/*", "state/manifest.ocdbt", "state/_METADATA", "state/ocdbt.process_0/d/*"):
    for place in (0.3, 0.6, 0.9):
        shutil.copytree(source, folder)
        for path in pathlib.Path(folder).glob("7/" + pattern):
            content = bytearray(path.read_bytes())
            content[int(place * len(content))] ^= 4
            path.write_bytes(content)
        try:
            CheckpointStore(folder).load()
        except UserError:
            print("damaged")
        shutil.rmtree(folder)
time.sleep(0.1)
gc.collect()
"""
    done = run_python(script, one_checkpoint[0], tmp_path / "copy")
    assert done.stdout.split().count("damaged") >= 9
    assert done.stderr == "" and done.returncode == 0


# ---- passing over


def test_the_newest_that_can_be_read_is_taken(three, capsys):
    damage_arrays(three / "120")
    reader = CheckpointStore(three)
    assert reader.latest_step() == 120
    checkpoint = reader.load()
    assert checkpoint.step == 110
    assert_same(checkpoint.weights, values(state_of_step(110)))
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith(f"warning: {three / '120'}: damaged checkpoint (the checksum of '")
    assert first.endswith("); taking that of step 110") and rest == []
    # It is known from then on, and not told twice.
    assert reader.latest_step() == 110 and reader.load().step == 110
    assert capsys.readouterr().err == ""
    # Who asks for it is told.
    assert message_of(lambda: reader.load(120)).startswith(f"{three / '120'}: damaged checkpoint (")
    assert reader.load(100).step == 100
    # A reader renames nothing.
    reader.close()
    assert names_in(three) == ["100", "110", "120"]


def test_several_can_be_damaged_and_all(three, capsys):
    for step in (120, 110):
        shutil.rmtree(three / str(step) / "metadata")
    assert CheckpointStore(three).load().step == 100
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].rsplit("/", 1)[1] for line in lines] == ["120", "110"]
    assert all(line.endswith("; taking that of step 100") for line in lines)
    shutil.rmtree(three / "100" / "state")
    reader = CheckpointStore(three)
    for _ in range(2):
        message = message_of(reader.load)
        assert message.startswith(f"{three / '120'}: damaged checkpoint (")
        assert message.endswith("; so are those of steps [100, 110]")
    assert reader.latest_step() is None and capsys.readouterr().err == ""


def test_who_goes_on_sets_the_damaged_aside_and_writes_the_step_anew(three, capsys):
    damage_arrays(three / "120")
    before = {path.name: path.read_bytes() for path in (three / "120").rglob("*") if path.is_file()}
    run = CheckpointStore(three, max_to_keep=2)
    assert run.load().step == 110
    run.save(120, state_of_step(120), {}, METADATA)
    run.wait()
    assert names_in(three) == ["110", "120", "damaged-120"]
    assert {p.name: p.read_bytes() for p in (three / "damaged-120").rglob("*") if p.is_file()} == before
    assert run.latest_step() == 120
    assert_same(run.load().weights, values(state_of_step(120)))
    run.close()
    # Damaged again: both are kept, and do not count.
    damage_arrays(three / "120")
    run = CheckpointStore(three, max_to_keep=2)
    assert run.load().step == 110
    run.save(130, state_of_step(130), {}, METADATA)
    run.close()
    assert names_in(three) == ["110", "130", "damaged-120", "damaged-120-2"]
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_reader_takes_what_was_written_anew(three, capsys):
    damage_arrays(three / "120")
    reader, run = CheckpointStore(three), CheckpointStore(three)
    assert reader.load().step == run.load().step == 110
    run.save(120, state_of_step(120), {}, METADATA)
    run.close()
    assert reader.latest_step() == 120 and reader.load().step == 120
