"""One process trains in a model folder; the lock goes with its process, and is no obstacle where there are none."""

from __future__ import annotations

import datetime
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer import model_dir_lock
from deeplab2_lite.trainer.model_dir_lock import LOCK_FILE, ModelDirLock, locked


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Holds the folder until it is killed; forks a child that outlives it, as a data loader's worker might.
HOLDER = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("model_dir_lock", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
with module.locked(sys.argv[2]):
    child = os.fork()
    if child == 0:
        # Once it runs it has let go.
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLDER, model_dir_lock.__file__, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(worker, signal.SIGKILL)


def test_a_second_process_is_told_who_is_there(holder, tmp_path):
    message = message_of(ModelDirLock(tmp_path / "run").acquire)
    since = datetime.datetime.now()
    expected = [
        f"--model_dir: {tmp_path}/run: another process trains here (host {socket.gethostname()}, "
        f"process {holder.pid}, since {minute:%Y-%m-%d %H:%M}); expected a folder of its own"
        for minute in (since, since - datetime.timedelta(minutes=1))
    ]
    assert message in expected
    # Another folder is free.
    with locked(tmp_path / "other"):
        pass


def test_the_lock_goes_with_its_process_though_its_workers_live_on(holder, tmp_path):
    message_of(ModelDirLock(tmp_path / "run").acquire)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "run"):
        assert f"process {os.getpid()}," in message_of(ModelDirLock(tmp_path / "run").acquire)


def test_it_can_be_taken_again_after_release(tmp_path):
    for _ in range(2):
        with locked(tmp_path) as lock:
            assert lock.model_dir == tmp_path
            message_of(ModelDirLock(tmp_path).acquire)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass
    # Release without a lock is nothing.
    ModelDirLock(tmp_path).release()


def test_one_that_has_not_said_who_it_is(tmp_path):
    with locked(tmp_path):
        for text in ("", "{", "[]", "{}"):
            (tmp_path / LOCK_FILE).write_text(text)
            assert message_of(ModelDirLock(tmp_path).acquire) == (
                f"--model_dir: {tmp_path}: another process trains here; expected a folder of its own"
            )


def test_a_refused_lock_leaves_no_open_file(tmp_path):
    with locked(tmp_path):
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            message_of(ModelDirLock(tmp_path).acquire)
        assert len(os.listdir("/proc/self/fd")) == len(before)


# ---- what cannot be written


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc")
def test_a_folder_that_cannot_be_made():
    # Not even root can.
    message = message_of(ModelDirLock("/proc/run").acquire)
    assert message == "--model_dir: /proc/run: cannot be written (No such file or directory)"


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "run").write_text("")
    message = message_of(ModelDirLock(tmp_path / "run").acquire)
    assert message == f"--model_dir: {tmp_path}/run: cannot be written (File exists)"


def test_a_folder_that_can_only_be_read(tmp_path):
    (tmp_path / "run").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(tmp_path / "run")]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting is not allowed here")
    try:
        message = message_of(ModelDirLock(tmp_path / "run").acquire)
    finally:
        subprocess.run(["umount", str(tmp_path / "run")], check=True)
    assert message == f"--model_dir: {tmp_path}/run: cannot be written (Read-only file system)"


# ---- where there are no locks


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, capsys, code):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path), locked(tmp_path):
        pass
    line = (
        f"warning: --model_dir: {tmp_path}: the file system knows no locks ({os.strerror(code)}); "
        "nothing keeps another process from training here"
    )
    assert capsys.readouterr().err.splitlines() == [line, line]


def test_other_errors_are_not_passed_over(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    message = message_of(ModelDirLock(tmp_path).acquire)
    assert message == f"--model_dir: {tmp_path}: cannot be written (Input/output error)"


def test_a_system_without_locks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_dir_lock, "fcntl", None)
    with locked(tmp_path), locked(tmp_path):
        pass
    assert capsys.readouterr().err == ""
