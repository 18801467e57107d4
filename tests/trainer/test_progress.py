"""Progress: what it says, how often, and loops that end where something is due."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.trainer.loop import steps_until
from deeplab2_lite.trainer.progress import INPUT_SECONDS, Progress, format_seconds

LOSSES = {
    "losses/train_total_loss": 3.14159,
    "losses/train_semantic_loss": 1.0,
    "losses/train_regression_loss": 0.0005,
    "learning_rate": 0.001,
}
TEXT = "total 3.142 semantic 1.000 regression 0.001"


class Run:
    """A training run on a clock of its own."""

    def __init__(self, monkeypatch, last_step=100, batch_size=8, first_step=0, stream=None):
        self.now = 1000.0
        self.blocked = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.step = np.array(first_step)
        self.stream = stream or io.StringIO()
        step = SimpleNamespace(numpy=lambda: self.step)
        self.progress = Progress(step, last_step, batch_size, lambda: self.blocked, self.stream)

    def loop(self, seconds, steps, waited=0.0):
        self.now += seconds
        self.step = self.step + steps
        self.progress({**LOSSES, INPUT_SECONDS: waited})

    def lines(self):
        return self.stream.getvalue().splitlines()


def test_lines_tell_losses_rate_and_time_left(monkeypatch):
    run = Run(monkeypatch)
    run.loop(4.0, 10)
    assert run.stream.getvalue() == f"step 10/100  {TEXT}  20.0 images/s  0:36 left\n"
    run.loop(20.0, 10)
    assert run.lines()[1] == f"step 20/100  {TEXT}  4.0 images/s  2:40 left"


def test_lines_tell_what_training_waited_for(monkeypatch):
    run = Run(monkeypatch)
    run.loop(4.0, 10, waited=1.0)
    run.blocked = 3.0
    run.loop(10.0, 5, waited=2.0)
    run.loop(10.0, 5, waited=0.01)
    run.loop(20.0, 10)
    lines = run.lines()
    assert "  20.0 images/s (waits: input 25 %)  0:36 left" in lines[0]
    # Of the time since the line before, and its share in it.
    assert "  4.0 images/s (waits: input 10 %, checkpoint 15 %)  " in lines[1]
    assert "images/s  " in lines[2]


def test_a_line_each_fifteen_seconds_and_at_both_ends(monkeypatch):
    run = Run(monkeypatch, last_step=40, batch_size=2)
    for _ in range(20):
        run.loop(4.0, 2)
    # At once, then 16 s apart, and the last step; each rate is of the time since the line before.
    assert [line.split()[1] for line in run.lines()] == ["2/40", "10/40", "18/40", "26/40", "34/40", "40/40"]
    assert all("  1.0 images/s  " in line for line in run.lines())
    assert run.lines()[-1].endswith("  0:00 left")


def test_the_rate_is_that_of_the_last_lines_only(monkeypatch):
    run = Run(monkeypatch, last_step=1000, batch_size=1)
    run.loop(10.0, 10)
    run.loop(10.0, 10)
    run.loop(10.0, 40)
    assert run.lines()[1] == f"step 60/1000  {TEXT}  2.5 images/s  6:16 left"


def test_what_is_no_training_does_not_count(monkeypatch):
    run = Run(monkeypatch, batch_size=1)
    run.loop(1.0, 1)
    run.now += 100
    run.progress.pause(60.0)
    run.progress.pause(40.0)
    run.loop(20.0, 10)
    assert "  0.5 images/s  " in run.lines()[1]
    # A pause counts once.
    run.loop(20.0, 10)
    assert "  0.5 images/s  " in run.lines()[2]


def test_a_resumed_run_counts_from_its_step(monkeypatch):
    run = Run(monkeypatch, first_step=90, batch_size=8)
    run.loop(2.0, 5)
    assert run.lines() == [f"step 95/100  {TEXT}  20.0 images/s  0:02 left"]


def test_the_end_can_move(monkeypatch):
    run = Run(monkeypatch, batch_size=1)
    run.progress.ends_at(30)
    run.loop(10.0, 10)
    assert run.lines() == [f"step 10/30  {TEXT}  1.0 images/s  0:20 left"]
    run = Run(monkeypatch, last_step=100, stream=Terminal())
    run.progress.ends_at(10)
    run.loop(1.0, 10)
    run.progress.close()
    assert " 10/10 " in run.stream.getvalue().rpartition("\r")[2]


def test_an_action_can_be_left_out(monkeypatch):
    run = Run(monkeypatch, batch_size=1)
    seen = []

    def slow(outputs):
        seen.append(outputs)
        run.now += 60.0

    run.loop(1.0, 1)
    run.progress.leaving_out(slow)(LOSSES)
    assert seen == [LOSSES]
    run.loop(20.0, 10)
    assert "  0.5 images/s  " in run.lines()[1]


def test_closing_without_a_bar_says_nothing(monkeypatch):
    run = Run(monkeypatch)
    run.progress.close()
    assert run.stream.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_from_the_first_step_on(monkeypatch):
    run = Run(monkeypatch, last_step=10, batch_size=4, first_step=4, stream=Terminal())
    assert " 4/10 " in run.stream.getvalue()
    run.loop(1.0, 3)
    run.loop(2.0, 3)
    run.progress.close()
    shown = run.stream.getvalue()
    assert "\n" not in shown[:-1] and shown.endswith("\n")
    last = shown.rstrip("\n").rpartition("\r")[2]
    assert last.startswith("train: 100%") and " 10/10 " in last and f"{TEXT} 6.0 images/s" in last


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (9.4, "0:09"),
        (59.5, "1:00"),
        (123, "2:03"),
        (3599.4, "59:59"),
        (3599.5, "1:00:00"),
        (3723, "1:02:03"),
        (360000, "100:00:00"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


# ---- lengths of loops


@given(
    boundaries=st.lists(st.none() | st.integers(1, 60), max_size=3),
    steps_per_loop=st.integers(1, 50),
    first=st.integers(0, 150),
    length=st.integers(1, 150),
)
def test_loops_never_pass_what_is_due(boundaries, steps_per_loop, first, length):
    last = first + length
    steps = steps_until(boundaries, steps_per_loop, last)
    intervals = [interval for interval in boundaries if interval is not None]
    visited, current = [], first
    while current < last:
        number = steps(np.int64(current))
        assert type(number) is int and 1 <= number <= steps_per_loop
        inside = range(current + 1, current + number)
        assert not any(step % interval == 0 for step in inside for interval in intervals)
        current += number
        visited.append(current)
        # Nor is a loop shorter than it must be.
        is_due = current == last or any(current % interval == 0 for interval in intervals)
        assert number == steps_per_loop or is_due
    assert current == last
    due = {step for step in range(first + 1, last + 1) for interval in intervals if step % interval == 0}
    assert due <= set(visited)


def test_beyond_the_end_a_loop_still_has_a_step():
    assert steps_until([10], 5, 100)(100) == 1


def test_loops_end_at_single_steps_too():
    steps = steps_until([10], 8, 100, once=(3, 14))
    assert [steps(current) for current in (0, 2, 3, 10, 14)] == [3, 1, 7, 4, 6]
