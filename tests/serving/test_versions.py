"""Versions of a model below one folder, and what TF Serving finds in one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from deeplab2_lite.serving.versions import publish


def _write(folder: Path) -> None:
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"model")


def test_versions_count_up(tmp_path: Path) -> None:
    base = tmp_path / "models" / "nuclei"
    assert publish(_write, base) == base / "1"
    (base / "9").mkdir()
    (base / "notes.txt").write_text("mine")
    assert publish(_write, base) == base / "10"
    assert sorted(p.name for p in base.iterdir()) == ["1", "10", "9", "notes.txt"]


def test_a_version_has_no_number_before_it_is_whole(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        _write(folder)
        assert not any(path.name.isdecimal() for path in tmp_path.iterdir())
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        publish(fail, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_exports_at_the_same_time_get_numbers_of_their_own(tmp_path: Path) -> None:
    barrier, versions = threading.Barrier(8), []

    def write(folder: Path) -> None:
        _write(folder)
        barrier.wait()

    threads = [threading.Thread(target=lambda: versions.append(publish(write, tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in versions) == list("12345678")
    assert all((path / "saved_model.pb").is_file() for path in versions)
