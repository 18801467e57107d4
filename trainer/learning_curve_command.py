"""The command that draws the curves of several runs over each other: `deeplab2-lite learning-curve`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from deeplab2_lite.errors import UserError, nearest_name
from deeplab2_lite.files import writing_to
from deeplab2_lite.trainer.learning_curve import (
    CURVE_FILE,
    LEARNING_RATE,
    Row,
    figure_columns,
    loss_columns,
    read_curve,
)

_DEFAULT_METRICS = ("total_loss", "PQ", "mIoU", "top_1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"folder of a run, or its {CURVE_FILE}")
    parser.add_argument("--output", required=True, metavar="PNG", help="picture to write")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="column of the curves; repeatable, each gets a panel; default: total_loss and PQ, mIoU or top_1",
    )
    parser.add_argument("--against", choices=("step", "minutes"), default="step", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: A run has no curve, or no such metric, or the picture cannot be written.
    """
    files = [_curve_file(Path(path)) for path in arguments.runs]
    names = run_names([file.parent.resolve() if file.name == CURVE_FILE else file.resolve() for file in files])
    runs = {}
    for name, file in zip(names, files, strict=True):
        runs[name] = read_curve(file)
        if not runs[name]:
            raise UserError(f"{file}: holds no row yet; expected one after the first checkpoint or evaluation")
    metrics = _metrics(arguments.metric, runs)
    # matplotlib takes a second to import; what is wrong above is said before.
    from deeplab2_lite.trainer.learning_curve_plot import plot_runs

    output = Path(arguments.output)
    with writing_to(output):
        plot_runs(runs, metrics, output, by_time=arguments.against == "minutes")
    print(output)


def run_names(paths: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of paths that tell them apart, the same length for all.

    Args:
        paths: Absolute.

    Returns:
        A name for each.

    Raises:
        UserError: One is given twice.
    """
    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise UserError(f"{path}: is given twice; expected different runs")
    names = [path.name for path in paths]
    length = 1
    while len(set(names)) < len(names):
        length += 1
        names = [os.sep.join(path.parts[-length:]) for path in paths]
    return names


def _curve_file(path: Path) -> Path:
    file = path / CURVE_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path}: no {CURVE_FILE} here; expected the model folder of a run that has been trained")
    return file


def _metrics(asked: Sequence[str], runs: dict[str, list[Row]]) -> list[str]:
    all_rows = [row for rows in runs.values() for row in rows]
    known = [LEARNING_RATE, *loss_columns(all_rows), *figure_columns(all_rows)]
    for name in asked:
        if name not in known:
            raise UserError(f"--metric: no '{name}' in these runs{nearest_name(name, known)}")
    if asked:
        return list(dict.fromkeys(asked))
    found = [name for name in _DEFAULT_METRICS if name in known]
    # Of the figures the first alone, which says most of what the run is for.
    return found[:2] if found else known[:1]
