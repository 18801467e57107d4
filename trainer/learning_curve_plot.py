"""Pictures of learning curves: losses and figures of one run, or a figure of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from deeplab2_lite.files import atomic_path
from deeplab2_lite.trainer.learning_curve import FIGURES, SECONDS, STEP, Row, figure_columns, loss_columns

# Colours that the colour-blind tell apart as well (Okabe and Ito), each with a marker.
_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)
_LINES = ("-", "--", ":", "-.")
_SHOWN = ("PQ", "PQ_things", "mIoU", "detection_AP50", "top_1", "top_5")
# More markers than that hide the line.
_MOST_MARKERS = 40
# Of two ticks, as a share of the axis.
_TICK_DISTANCE = 0.06
_ROUND = (1, 2, 5, 10)


def plot_run(rows: Sequence[Row], path: str | Path, title: str = "") -> None:
    """Draws the losses of a run, and its figures below them once there are any.

    Args:
        rows: Of its curve, at least one.
        path: PNG file to write, whole or not at all.
        title: Name of the run.
    """
    rows = list(rows)
    figures = [name for name in figure_columns(rows) if name in _SHOWN]
    figure = Figure(figsize=(8, 7 if figures else 4), dpi=130, layout="constrained")
    panels = figure.subplots(2 if figures else 1, sharex=True, squeeze=False)[:, 0]
    for index, name in enumerate(loss_columns(rows)):
        _draw(panels[0], rows, name, STEP, index, name.removesuffix("_loss"))
    if all(value > 0 for row in rows for name, value in row.items() if name.endswith("_loss")):
        _make_logarithmic(panels[0])
    _dress(panels[0], "training loss")
    if figures:
        for index, name in enumerate(figures):
            _draw(panels[1], rows, name, STEP, index, _label(name))
        _dress(panels[1], "evaluation, %")
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=_ROUND))
    _show_minutes(panels[0], rows)
    figure.suptitle(title, fontsize=11)
    _write(figure, path)


def plot_runs(runs: Mapping[str, Sequence[Row]], metrics: Sequence[str], path: str | Path, by_time: bool) -> None:
    """Draws columns of several runs over each other, each column in a panel of its own.

    Args:
        runs: Rows by name.
        metrics: Columns.
        path: PNG file to write, whole or not at all.
        by_time: Against minutes instead of steps.
    """
    height = 3.3 * len(metrics) + 1
    figure = Figure(figsize=(8, height), dpi=130, layout="constrained")
    panels = figure.subplots(len(metrics), sharex=True, squeeze=False)[:, 0]
    for panel, metric in zip(panels, metrics, strict=True):
        for index, (name, rows) in enumerate(runs.items()):
            _draw(panel, rows, metric, SECONDS if by_time else STEP, index, name)
        is_figure = metric in FIGURES.values()
        _dress(panel, f"{_label(metric)}, %" if is_figure else _label(metric), legend=False)
        if metric.endswith("_loss") and all(row.get(metric, 1) > 0 for rows in runs.values() for row in rows):
            _make_logarithmic(panel)
    panels[-1].set_xlabel("minutes" if by_time else "step")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(runs)), frameon=False, fontsize=9)
    _write(figure, path)


def _draw(axes: Axes, rows: Sequence[Row], column: str, against: str, index: int, label: str) -> None:
    scale = 100 if column in FIGURES.values() else 1
    points = [(row[against] / (60 if against == SECONDS else 1), scale * row[column]) for row in rows if column in row]
    color, marker = _STYLES[index % len(_STYLES)]
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=color,
        marker=marker if len(points) <= _MOST_MARKERS else None,
        markersize=4,
        linewidth=1.5,
        linestyle=_LINES[index // len(_STYLES) % len(_LINES)],
        label=label,
    )


def _dress(axes: Axes, text: str, legend: bool = True) -> None:
    axes.set_ylabel(text)
    axes.grid(True, which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        # Beside the lines, since curves may run anywhere.
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


def _show_minutes(axes: Axes, rows: Sequence[Row]) -> None:
    """Writes round minutes above a panel, each at the step of its time."""
    above = axes.secondary_xaxis("top")
    ticks = minute_ticks(rows, axes.get_xlim()[1] * _TICK_DISTANCE)
    above.set_xticks([step for step, _ in ticks], [f"{minute:g}" for _, minute in ticks])
    above.set_xlabel("minutes")
    above.spines["top"].set_color("0.7")


def minute_ticks(rows: Sequence[Row], distance: float) -> list[tuple[float, float]]:
    """Returns steps with their minutes.

    Args:
        rows: Of a run.
        distance: Steps between two ticks at least, since in an evaluation minutes pass without a step.

    Returns:
        Pairs, none before the first row: how much of its time was spent on starting is not known.
    """
    steps, minutes = [row[STEP] for row in rows], [row[SECONDS] / 60 for row in rows]
    ticks = MaxNLocator(6, steps=_ROUND).tick_values(minutes[0], minutes[-1])
    wanted = [tick for tick in ticks if minutes[0] <= tick <= minutes[-1]]
    found: list[tuple[float, float]] = []
    for minute in wanted or [round(minutes[-1], 2)]:
        step = float(np.interp(minute, minutes, steps))
        if not found or step - found[-1][0] >= distance:
            found.append((step, float(minute)))
    return found


def _make_logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _label(column: str) -> str:
    return column.replace("_", " ")


def _write(figure: Figure, path: str | Path) -> None:
    figure.align_ylabels()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
