"""Progress: lines in a log, now and then."""

from __future__ import annotations

import pytest

from deeplab2_lite.evaluation import progress
from deeplab2_lite.evaluation.progress import Progress


@pytest.mark.parametrize(("total", "of"), [(7, " of 7"), (None, "")])
def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys, total, of):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(total, "predict", "image") as counted:
        for _ in range(7):
            now[0] += 25
            counted.step()
    assert capsys.readouterr().err == (f"predict: 3{of} images, 0.04 a second\npredict: 6{of} images, 0.04 a second\n")


def test_what_is_quick_says_nothing(capsys):
    with Progress(3, "predict", "image") as counted:
        for _ in range(3):
            counted.step()
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with Progress(2, "predict", "image", seconds=0) as counted:
        counted.step()
        counted.step()
    text = capsys.readouterr().err
    assert "predict: 100%" in text and "2/2" in text and "a second" not in text
