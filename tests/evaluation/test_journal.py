"""The file by which an interrupted command goes on."""

from __future__ import annotations

import pytest

from deeplab2_lite.evaluation.journal import Journal

COMMAND = {"model": "runs/x", "files": [["a", 1]], "flag": None}


def begun(path, *names):
    journal = Journal(path, COMMAND)
    for name in names:
        journal.append(name, {"of": name})
    return journal


def test_the_same_command_finds_what_was_done(tmp_path):
    path = tmp_path / "journal"
    begun(path, "a", "b")
    assert list(begun(path, "c").entries) == ["a", "b", "c"]
    # A tuple is a list in JSON.
    again = Journal(path, {**COMMAND, "files": [("a", 1)]})
    assert again.entries == {"a": {"of": "a"}, "b": {"of": "b"}, "c": {"of": "c"}}
    again.append("a", 7)
    assert Journal(path, COMMAND).entries["a"] == 7
    again.remove()
    assert list(tmp_path.iterdir()) == []
    again.remove()


def test_another_command_begins_anew(tmp_path):
    path = tmp_path / "journal"
    begun(path, "a", "b")
    assert Journal(path, {**COMMAND, "flag": "coco"}).entries == {}
    assert begun(path).entries == {}
    assert path.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("kept", range(0, 200, 7))
def test_a_process_killed_at_any_byte_loses_one_entry_at_most(tmp_path, kept):
    path = tmp_path / "journal"
    names = ["a", "b\nc", "ä" * 5]
    begun(path, *names)
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    whole = max(content[:kept].count(b"\n") - 1, 0)
    journal = Journal(path, COMMAND)
    assert list(journal.entries) == names[:whole]
    # What comes after a torn line is not torn.
    journal.append("next", 1)
    assert list(Journal(path, COMMAND).entries) == [*names[:whole], "next"]


@pytest.mark.parametrize("content", [b"", b"\n", b"no json\n", b"{}\n[1]\n", b"\xff\xfe\n"])
def test_what_is_no_journal_is_replaced(tmp_path, content):
    path = tmp_path / "journal"
    path.write_bytes(content)
    assert begun(path, "a").entries == {"a": {"of": "a"}}
    assert list(Journal(path, COMMAND).entries) == ["a"]
