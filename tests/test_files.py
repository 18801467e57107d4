"""Files are whole or not there; packaged YAML is found in a checkout and in a wheel."""

from __future__ import annotations

import os

import pytest

from deeplab2_lite import files
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import atomic_path, packaged_configs, read_json, write_text_atomically


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "metrics.json"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "metrics.json"
    for before in ([], ["old"]):
        for text in before:
            path.write_text(text)
        with pytest.raises(error), atomic_path(str(path)) as temporary:
            temporary.write_text("half")
            raise error
        assert [p.read_text() for p in tmp_path.iterdir()] == before


def test_a_writer_may_replace_or_remove_the_temporary_file(tmp_path):
    with atomic_path(tmp_path / "a") as temporary:
        other = tmp_path / "other"
        other.write_text("other")
        other.replace(temporary)
    assert (tmp_path / "a").read_text() == "other"
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "b") as temporary:
        temporary.unlink()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path, umask):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    written = write_text_atomically(tmp_path / "written", "")
    assert written.stat().st_mode == ordinary.stat().st_mode
    assert written.stat().st_mode & 0o777 == 0o666 & ~umask
    # The umask itself is as it was.
    assert os.umask(umask) == umask


def test_text_is_utf8_on_every_machine_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "text"
    assert write_text_atomically(str(path), "Straße 漢\n") == path
    assert path.read_bytes() == "Straße 漢\n".encode()
    write_text_atomically(path, "shorter")
    assert path.read_bytes() == b"shorter"


def test_a_missing_folder_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text_atomically(tmp_path / "no" / "file", "")
    assert list(tmp_path.iterdir()) == []


def test_configs_are_found_below_the_package_or_beside_it(tmp_path, monkeypatch):
    assert (packaged_configs() / "datasets" / "cityscapes.yaml").is_file()
    package = tmp_path / "deeplab2_lite"
    package.mkdir()
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    with pytest.raises(FileNotFoundError, match="the installation is incomplete"):
        packaged_configs()
    # Somebody else's folder of this name is none of ours.
    (tmp_path / "configs").mkdir()
    with pytest.raises(FileNotFoundError):
        packaged_configs()
    (tmp_path / "configs" / "datasets").mkdir()
    assert packaged_configs() == tmp_path / "configs"
    (package / "configs" / "datasets").mkdir(parents=True)
    assert packaged_configs() == package / "configs"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"a\.json: not valid JSON \("),
        (b'{"a": "\xff"}', r"a\.json: not valid JSON \("),
        (b"[" * 100_000, r"a\.json: not valid JSON \("),
        (None, r"a\.json: cannot be read \(No such file or directory\)"),
    ],
)
def test_files_that_are_no_json_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"a": [1, null]}')
    assert read_json(tmp_path / "b.json") == {"a": [1, None]}
