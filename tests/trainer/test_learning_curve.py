"""Learning curves: rows, restarts, pictures, and the command that draws several."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer.learning_curve import LearningCurve, figure_columns, loss_columns, read_curve
from deeplab2_lite.trainer.learning_curve_command import run_names
from deeplab2_lite.trainer.learning_curve_plot import minute_ticks, plot_run, plot_runs


def losses(total, rate=0.1):
    return {"losses/train_total_loss": total, "losses/train_center_loss": total / 2, "learning_rate": rate}


def write_curve(folder, steps=(100, 200, 300), offset=0.0):
    folder.mkdir(parents=True)
    curve = LearningCurve(folder / "learning_curve.csv", 0)
    for step in steps:
        curve.collect(step, losses(300 / step + offset))
        figures = {"panoptic_quality/All/PQ": step / 1000 + offset, "semantic/mIoU": step / 500}
        curve.add(step, step * 2.0, figures if step % 200 == 0 else None)
    return folder


def test_a_row_has_the_means_since_the_last_one(tmp_path):
    curve = LearningCurve(tmp_path / "curve.csv", 0)
    curve.collect(1, losses(10.0))
    curve.collect(4, losses(2.0, rate=0.05))
    curve.add(4, 7.25)
    curve.collect(6, losses(1.0, rate=0.01))
    curve.add(6, 9.0)
    # An evaluation of the same step adds to its row.
    curve.add(6, 12.0, {"panoptic_quality/All/PQ": 0.5, "instance/AP": float("nan"), "boundary/unknown": 1.0})
    assert (tmp_path / "curve.csv").read_text() == (
        "step,seconds,learning_rate,total_loss,center_loss,PQ,AP\n4,7.25,0.05,4,2,,\n6,12,0.01,1,0.5,0.5,\n"
    )


def test_a_restart_drops_what_came_after_its_checkpoint(tmp_path):
    path = tmp_path / "curve.csv"
    curve = LearningCurve(path, 0)
    for step in (2, 4, 6, 8):
        curve.collect(step, losses(step))
        curve.add(step, 10.0 * step)
    before = path.read_text().splitlines()
    curve = LearningCurve(path, 4)
    # Nothing is rewritten until there is something to say.
    assert path.read_text().splitlines() == before
    curve.collect(6, losses(60.0))
    curve.add(6, 55.0)
    assert path.read_text().splitlines() == [*before[:3], "6,55,0.1,60,30"]
    assert LearningCurve(path, 0).rows == []
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        "step,seconds\n1,x\n",
        "step,seconds\n2,1\n1,2\n",
        "step,seconds\n1,1\n1,2\n",
        "step,seconds\n1,2,3\n",
        "step,seconds\n\xff,1\n",
    ],
)
def test_what_is_no_curve_is_refused_by_name(text, tmp_path):
    path = tmp_path / "curve.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"curve\.csv: is no learning curve; expected"):
        read_curve(path)


def test_columns_are_told_apart(tmp_path):
    rows = read_curve(write_curve(tmp_path / "run") / "learning_curve.csv")
    assert [row["step"] for row in rows] == [100, 200, 300]
    assert loss_columns(rows) == ["total_loss", "center_loss"]
    assert figure_columns(rows) == ["PQ", "mIoU"]


# ---- pictures


def colors_of(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return {tuple(color) for color in np.asarray(picture.convert("RGB")).reshape(-1, 3)}


def test_a_picture_shows_losses_and_figures_in_colours_of_their_own(tmp_path):
    rows = read_curve(write_curve(tmp_path / "run") / "learning_curve.csv")
    plot_run(rows, tmp_path / "with.png", "run")
    plot_run(rows[:1], tmp_path / "without.png", "run")
    with Image.open(tmp_path / "with.png") as large, Image.open(tmp_path / "without.png") as small:
        assert large.height > 1.5 * small.height
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colors_of(tmp_path / "with.png")


def test_minutes_are_round_and_keep_their_distance():
    steady = [{"step": step, "seconds": 60.0 + 3 * step} for step in range(20, 401, 20)]
    ticks = minute_ticks(steady, 24)
    assert [minute for _, minute in ticks] == [5, 10, 15, 20]
    assert [step for step, _ in ticks] == pytest.approx([80, 180, 280, 380])
    # Most of the time is that of an evaluation, in which no step is taken.
    paused = [{"step": 10, "seconds": 60.0}, {"step": 20, "seconds": 120.0}, {"step": 21, "seconds": 1200.0}]
    steps = [step for step, _ in minute_ticks(paused, 1.5)]
    assert len(steps) >= 1 and all(np.diff(steps) >= 1.5)
    assert minute_ticks([{"step": 6, "seconds": 61.0}], 1.0) == [(6.0, 1.02)]


def test_many_runs_have_a_colour_each(tmp_path):
    runs = {
        f"run {i}": [{"step": 10, "seconds": 5.0, "PQ": i / 10}, {"step": 20, "seconds": 9.0, "PQ": 0.5}]
        for i in range(7)
    }
    plot_runs(runs, ["PQ"], tmp_path / "runs.png", by_time=True)
    styles = {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73), (0xCC, 0x79, 0xA7), (0xE6, 0x9F, 0x00)}
    assert styles <= colors_of(tmp_path / "runs.png")


# ---- the command


def test_names_are_the_shortest_that_differ(tmp_path):
    assert run_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert run_names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    with pytest.raises(UserError, match="given twice"):
        run_names([tmp_path / "a", tmp_path / "a"])


def test_the_command_draws_runs_over_each_other(tmp_path, capsys):
    one, two = write_curve(tmp_path / "one"), write_curve(tmp_path / "two", offset=0.1)
    output = tmp_path / "curve.png"
    words = ["learning-curve", str(one), str(two / "learning_curve.csv"), "--output", str(output)]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colors_of(output)
    assert cli.main([*words, "--metric=mIoU", "--metric=learning_rate", "--against=minutes"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["empty"], "empty: no learning_curve.csv here; expected the model folder of a run"),
        (["run", "--metric=PQ_thing"], "error: --metric: no 'PQ_thing' in these runs"),
        (["run", "--metric=miou"], "did you mean 'mIoU'?"),
        (["run", "run"], "run: is given twice"),
        (["run", "--output=missing/curve.png"], "error: --output: "),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    write_curve(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["learning-curve", "--output=curve.png", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "curve.png").exists()
