"""The paper's tables beside what this library's networks count, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from deeplab2_lite.complexity.counting import model_complexity
from deeplab2_lite.complexity.tables import CITYSCAPES, COCO, MAPILLARY_VISTAS, TABLES, PaperRow
from deeplab2_lite.config import ExperimentConfig, Size
from deeplab2_lite.model import build_model

_COLUMNS = ("input", "outputs", "params (M)", "ours", "diff", "M-Adds (B)", "ours", "diff", "conv alone")
_CSV_COLUMNS = (
    "table",
    "row",
    "data_set",
    "experiment",
    "height",
    "width",
    "outputs",
    "paper_parameters",
    "parameters",
    "paper_multiply_adds",
    "multiply_adds",
    "conv_multiply_adds",
    "note",
)
_WIDTHS = (11, 7, 10, 6, 9, 10, 8, 9, 10)
_TITLES = {CITYSCAPES: "Cityscapes", MAPILLARY_VISTAS: "Mapillary Vistas", COCO: "COCO"}
_EXPLANATION = (
    "Parameters and multiply-adds: the paper's, ours counted as the paper does, the difference, and ours of\n"
    "convolutions alone. Each network is built at the input size shown; nothing is run.\n"
)


class Measured(NamedTuple):
    """What the network of a row counts.

    Attributes:
        input_size: Height and width that it was counted at.
        num_outputs: Its semantic outputs.
        parameters: Trainable ones.
        multiply_adds: As the paper counts.
        conv_multiply_adds: Of convolutions alone.
    """

    input_size: Size
    num_outputs: int
    parameters: int
    multiply_adds: float
    conv_multiply_adds: float


def measure(row: PaperRow) -> Measured:
    """Builds the network of a row and counts it, at the size and outputs that come nearest to the paper.

    Args:
        row: Of one of the paper's tables.

    Returns:
        Its figures.
    """
    input_size, num_outputs = row.counted_size or row.input_size, row.num_outputs or row.num_classes
    model = build_model(ExperimentConfig(model=row.model), num_outputs, input_size)
    paper, conv = (model_complexity(model, count).total for count in ("paper", "conv"))
    return Measured(input_size, num_outputs, paper.parameters, paper.multiply_adds, conv.multiply_adds)


def print_tables(tables: Sequence[Sequence[PaperRow]] = TABLES) -> list[Sequence[object]]:
    """Prints each row as soon as it is counted: paper, ours, difference.

    Args:
        tables: Rows of each table.

    Returns:
        The same as rows of a CSV file, in units of one; the first names the columns.
    """
    # The same network stands in several rows, and takes seconds to build.
    known: dict[tuple[object, ...], Measured] = {}
    found: list[Sequence[object]] = [_CSV_COLUMNS]
    print(_EXPLANATION)
    for table in tables:
        notes = list(dict.fromkeys(note for row in table for note in row.notes))
        labels = [_label(row, table, notes) for row in table]
        title = f"Table {table[0].table}"
        width = max(map(len, (title, *labels)))
        print(_line(title, width, _COLUMNS), flush=True)
        for label, row in zip(labels, table, strict=True):
            key = (row.model, row.num_outputs or row.num_classes, row.counted_size or row.input_size)
            if key not in known:
                known[key] = measure(row)
            print(_line(label, width, _cells(row, known[key])), flush=True)
            found.append(_csv_row(row, known[key]))
        print("".join(f"[{number}] {note}\n" for number, note in enumerate(notes, start=1)), flush=True)
    return found


def _label(row: PaperRow, table: Sequence[PaperRow], notes: Sequence[str]) -> str:
    several = len({other.data_set for other in table}) > 1
    marks = "".join(f" [{notes.index(note) + 1}]" for note in row.notes)
    return f"{row.name}{f', {_TITLES[row.data_set]}' if several else ''}{marks}"


def _line(label: str, label_width: int, cells: Sequence[str]) -> str:
    return "  ".join([label.ljust(label_width), *(c.rjust(w) for c, w in zip(cells, _WIDTHS, strict=True))])


def _cells(row: PaperRow, ours: Measured) -> list[str]:
    height, width = ours.input_size
    return [
        f"{height} x {width}",
        str(ours.num_outputs),
        "-" if row.parameters is None else f"{row.parameters:.2f}",
        f"{ours.parameters / 1e6:.2f}",
        _difference(ours.parameters / 1e6, row.parameters),
        f"{row.multiply_adds:.2f}",
        f"{ours.multiply_adds / 1e9:.2f}",
        _difference(ours.multiply_adds / 1e9, row.multiply_adds),
        f"{ours.conv_multiply_adds / 1e9:.2f}",
    ]


def _difference(ours: float, paper: float | None) -> str:
    return "-" if paper is None else f"{100 * (ours / paper - 1):+z.3f} %"


def _csv_row(row: PaperRow, ours: Measured) -> Sequence[object]:
    return (
        row.table,
        row.name,
        row.data_set,
        row.experiment,
        *ours.input_size,
        ours.num_outputs,
        None if row.parameters is None else round(row.parameters * 1e6),
        ours.parameters,
        round(row.multiply_adds * 1e9),
        ours.multiply_adds,
        ours.conv_multiply_adds,
        "; ".join(row.notes),
    )
