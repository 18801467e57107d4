"""Budgets: durations, how many steps fit, and plans that follow a machine's speed, on clocks of their own."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.config import OptimizerConfig
from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer import train
from deeplab2_lite.trainer.budget import Costs, Plan, affordable_last_step, first_plan, parse_duration
from deeplab2_lite.trainer.calibration import measure_evaluation, measure_step
from deeplab2_lite.trainer.optimization import build_schedule, plan_values
from deeplab2_lite.trainer.pace import RESERVE, Pace
from deeplab2_lite.trainer.pacing import RunState
from deeplab2_lite.trainer.run_clock import RunClock

# ---- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60min", 3600),
        ("60m", 3600),
        ("90s", 90),
        ("1.5h", 5400),
        ("1h30min", 5400),
        ("1h 30min 5s", 5405),
        (" 2H ", 7200),
        ("0.5s", 0.5),
    ],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@given(hours=st.integers(0, 99), minutes=st.integers(0, 99), seconds=st.integers(0, 99))
def test_parts_add_up(hours, minutes, seconds):
    text = "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "min"), (seconds, "s")) if n)
    if text:
        assert parse_duration(text) == 3600 * hours + 60 * minutes + seconds


@given(st.text(max_size=12))
def test_anything_else_is_one_line_that_names_the_flag(text):
    try:
        assert 0 < parse_duration(text) <= 365 * 24 * 3600
    except UserError as error:
        assert str(error).startswith("--budget: ") and "expected" in str(error)


@pytest.mark.parametrize(
    "text", ["", "60", "min", "1h1h", "30min1h", "-5s", "1e3s", "1,5h", "0s", "nan", "inf h", "9999999h", "٣s"]
)
def test_bad_durations_are_refused(text):
    with pytest.raises(UserError, match=r"^--budget: .*expected"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget=soon"], "error: --budget: 'soon' is no duration; expected such as 60min"),
        (["--budget=5min", "--params_override=train.steps=5"], "error: --budget: contradicts train.steps"),
        (["--budget=5min", "--mode=export"], "error: --budget: has no meaning with --mode=export"),
        (["--params_override=train.budget_seconds=-1"], "error: train.budget_seconds: expected a positive number"),
    ],
)
def test_mistakes_are_said_before_any_work(flags, message, tmp_path, capsys):
    assert train.main([*flags, "--model_dir", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(message)
    assert not (tmp_path / "run").exists()


# ---- how many steps fit


@given(
    seconds=st.floats(0, 500),
    step=st.integers(0, 100),
    step_seconds=st.floats(0.5, 20),
    evaluation=st.floats(0, 50),
    interval=st.none() | st.integers(1, 40),
)
def test_the_last_step_is_the_greatest_that_fits(seconds, step, step_seconds, evaluation, interval):
    costs = Costs(step_seconds, evaluation, interval)

    def seconds_until(last):
        # One step after the other, an evaluation where one is due.
        total = 0.0
        for current in range(step + 1, last + 1):
            due = current == last or (interval is not None and current % interval == 0)
            total += step_seconds + (evaluation if due else 0.0)
        return total

    last = affordable_last_step(seconds, costs, step)
    assert costs.seconds(step, last) == pytest.approx(seconds_until(last))
    assert last == step or seconds_until(last) <= seconds + 1e-6
    assert seconds_until(last + 1) > seconds - 1e-6


def test_a_warm_up_stays_a_tenth_at_most():
    assert first_plan(1000.0, Costs(1.0), 50) == Plan(1000, 50)
    assert first_plan(100.0, Costs(1.0), 50) == Plan(100, 10)
    assert first_plan(1.5, Costs(1.0), 50) == Plan(1, 0)
    assert first_plan(100.0, Costs(1.0, evaluation=100.0), 0) is None


# ---- the schedule


def learning_rates(config, plan, steps):
    schedule = build_schedule(config, tf.Variable(plan_values(plan)))
    return np.array([schedule(tf.constant(step, tf.int64)) for step in steps])


def test_a_plan_that_never_moved_is_the_schedule_of_so_many_steps():
    for config in (OptimizerConfig(), OptimizerConfig(warmup_steps=7, end_learning_rate=1e-4, power=2.0)):
        steps = range(45)
        expected = [float(build_schedule(config, 40)(step)) for step in steps]
        np.testing.assert_allclose(
            learning_rates(config, Plan(40, config.warmup_steps), steps), expected, rtol=1e-5, atol=1e-10
        )


@given(
    steps=st.integers(2, 500),
    share=st.floats(0.01, 0.99),
    rest=st.integers(1, 500),
    power=st.sampled_from([0.9, 1.0, 2.0]),
)
def test_a_moved_plan_has_no_jump_and_ends_at_the_end(steps, share, rest, power):
    plan = Plan(steps)
    at = min(max(1, int(share * steps)), steps - 1)
    moved = plan.moved(at, at + rest)
    assert moved.progress(at) == pytest.approx(plan.progress(at))
    assert moved.progress(at + rest) == pytest.approx(1.0) and moved.progress(at + rest + 9) == 1.0
    config = OptimizerConfig(power=power, end_learning_rate=1e-5)
    before, after = (learning_rates(config, p, [at])[0] for p in (plan, moved))
    assert after == pytest.approx(before, rel=1e-3, abs=1e-7)
    rates = learning_rates(config, moved, range(at, at + rest + 1))
    assert (np.diff(rates) <= 1e-9).all() and rates[-1] == pytest.approx(1e-5, rel=1e-3)


# ---- keeping pace


class Machine:
    """A run on a machine whose speed is told."""

    def __init__(self, monkeypatch, budget, costs, spent=0.0, steps_per_loop=1):
        self.now = 500.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.clock = RunClock()
        self.clock.go_on_from(spent)
        self.number = 0
        self.costs = costs
        self.changes = []
        self.steps_per_loop = steps_per_loop
        plan = first_plan(budget * (1 - RESERVE) - spent, costs, 0)
        step = SimpleNamespace(numpy=lambda: np.int64(self.number))
        self.pace = Pace(
            budget, plan, costs, self.clock, step, lambda *change: self.changes.append(change), steps_per_loop
        )

    def run(self, seconds_a_step, evaluation=0.0):
        while self.number < self.pace.plan.steps:
            loop = min(self.steps_per_loop, self.pace.plan.steps - self.number)
            self.now += sum(seconds_a_step(self.number + i) for i in range(loop))
            self.number += loop
            self.pace({})
            interval = self.costs.eval_interval
            if evaluation and (self.number == self.pace.plan.steps or (interval and self.number % interval == 0)):
                self.now += evaluation
                self.pace.evaluated(evaluation)
        return self.clock.seconds()


def test_a_steady_machine_keeps_its_first_plan(monkeypatch):
    machine = Machine(monkeypatch, 1000.0, Costs(1.0, 20.0, 100), spent=30.0)
    taken = machine.run(lambda step: 1.0, evaluation=20.0)
    assert machine.changes == []
    assert 970 <= taken <= 1000


@pytest.mark.parametrize("factor", [0.3, 2.0, 5.0])
@pytest.mark.parametrize("since", [0, 200, 700])
def test_a_machine_that_turns_slower_or_faster_is_followed(monkeypatch, factor, since):
    machine = Machine(monkeypatch, 1000.0, Costs(1.0))
    taken = machine.run(lambda step: factor if step >= since else 1.0)
    assert machine.changes
    assert 950 <= taken <= 1030
    assert machine.pace.plan.progress(machine.number) == pytest.approx(1.0)
    progress = [plan.start_progress for plan, _ in machine.changes]
    assert progress == sorted(progress) and progress[-1] < 1


def test_evaluations_that_take_longer_than_foreseen_shorten_the_rest(monkeypatch):
    machine = Machine(monkeypatch, 1000.0, Costs(1.0, 5.0, 100))
    assert 900 <= machine.run(lambda step: 1.0, evaluation=60.0) <= 1030


def test_a_run_whose_time_is_over_ends_after_a_loop(monkeypatch):
    machine = Machine(monkeypatch, 100.0, Costs(1.0), steps_per_loop=10)
    taken = machine.run(lambda step: 30.0)
    # The first loop starts the window, the second shows the speed, the third is the last.
    assert machine.number == 30 and taken == 900


def test_seconds_go_on_counting(monkeypatch):
    now = 10.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = RunClock()
    now = 15.0
    clock.go_on_from(100.0)
    assert clock.seconds() == 105.0


def test_the_state_travels_through_metadata():
    state = RunState(12.5, Plan(100, 5, 40, 0.25), 0.5, 3.0)
    assert RunState.from_metadata(state.to_metadata()) == state
    assert RunState.from_metadata(RunState(7.0).to_metadata()) == RunState(7.0)
    assert RunState.from_metadata({}) == RunState()


# ---- measuring


def test_measuring_leaves_everything_as_it_was(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    variables = [tf.Variable([1.0, 2.0]), tf.Variable(3, dtype=tf.int64)]
    loops, rewound = [], []

    def train_loop(steps):
        nonlocal now
        # The first is traced.
        now += 50.0 if not loops else 0.5 * int(steps)
        loops.append(int(steps))
        for variable in variables:
            variable.assign_add(tf.ones_like(variable))

    trainer = SimpleNamespace(train=train_loop, rewind=lambda: rewound.append(True))
    assert measure_step(trainer, variables, 4, 6.0) == 0.5
    assert loops == [1, 1, 2, 4, 4, 4] and rewound == [True]
    np.testing.assert_array_equal(variables[0], [1.0, 2.0])
    assert int(variables[1]) == 3


def test_measuring_an_evaluation_leaves_out_what_is_traced(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def images():
        nonlocal now
        for i in range(100):
            now += 2.0 if i else 30.0
            yield 1

    assert measure_evaluation(images(), 100, 10.0) == 200.0
    now = 0.0
    assert measure_evaluation(iter([1]), 1, 10.0) == 0.0
