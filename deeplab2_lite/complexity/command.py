"""The command that tells what a network costs: `deeplab2-lite complexity`."""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deeplab2_lite.config import Size
from deeplab2_lite.config_loading import load_config, packaged_experiments, resolve_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import write_text_atomically

if TYPE_CHECKING:
    from deeplab2_lite.complexity.counting import Complexity, LayerComplexity, PartComplexity

_COUNTS = {
    "conv": "multiply-adds of convolutions alone",
    "paper": "multiply-adds as the paper counts them, from image to panoptic map",
}
_MEBI = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    parser.add_argument(
        "--experiment", metavar="NAME", help=f"packaged experiment. One of: {', '.join(packaged_experiments())}"
    )
    parser.add_argument(
        "--config_file", action="append", default=[], metavar="YAML", help="configuration; repeatable, later wins"
    )
    parser.add_argument("--params_override", default="", metavar="A.B=C,...", help="settings that win over all files")
    parser.add_argument("--input_size", metavar="HxW", help="size of the image; default data.crop_size")
    parser.add_argument(
        "--count",
        choices=tuple(_COUNTS),
        help="what counts as a multiply-add: 'conv' (default), those of convolutions alone; 'paper', half of all "
        "operations from image to panoptic map, as the paper's tables have it",
    )
    parser.add_argument("--by", choices=("part", "layer"), help="a row for each part (default) or layer")
    parser.add_argument("--csv", metavar="FILE", help="also write the rows there, in units of one")
    parser.add_argument(
        "--tables", action="store_true", help="every row of the paper's Tables 1, 5, 9 and 10 instead; takes minutes"
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: A flag or setting is at fault.
    """
    if arguments.csv and not Path(arguments.csv).parent.is_dir():
        raise UserError(f"--csv: no folder {Path(arguments.csv).parent}")
    if arguments.csv and Path(arguments.csv).is_dir():
        raise UserError(f"--csv: {arguments.csv} is a folder; expected a file")
    if arguments.tables:
        for flag in ("experiment", "config_file", "params_override", "input_size", "count", "by"):
            if getattr(arguments, flag):
                raise UserError(f"--{flag}: contradicts --tables, which has rows and sizes of its own")
        from deeplab2_lite.complexity.comparison import print_tables

        rows = print_tables()
    else:
        rows = _print_experiment(arguments)
    if arguments.csv:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_text_atomically(arguments.csv, text.getvalue())


def parse_size(text: str) -> Size:
    """Reads "1025x2049" as height and width.

    Args:
        text: What the user wrote.

    Returns:
        Height and width in pixels.

    Raises:
        UserError: It is no such thing.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip())
    if match is None:
        raise UserError(f"--input_size: expected HEIGHTxWIDTH such as 1025x2049, got '{text}'")
    return int(match[1]), int(match[2])


def format_complexity(found: Complexity, by: str) -> str:
    """Returns parameters, multiply-adds and activation memory as text for the terminal.

    Args:
        found: What a network costs.
        by: "part" or "layer".

    Returns:
        A table whose last row sums up.
    """
    header = ["parameters", "M-Adds (M)", "activations (MiB)"]
    if by == "part":
        rows = [["part", *header], *([part.part, *_cells(part)] for part in found.parts)]
    else:
        rows = [["layer", "type", "output", *header]]
        for layer in found.layers:
            rows.append([layer.name, layer.kind, " x ".join(map(str, layer.output_shape)), *_cells(layer)])
    padding = [""] * (len(rows[0]) - 1 - len(header))
    rows.append(["total", *padding, *_cells(found.total)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = 1 + len(padding)
    lines = [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _print_experiment(arguments: argparse.Namespace) -> list[Sequence[object]]:
    sources = [*([arguments.experiment] if arguments.experiment else []), *arguments.config_file]
    if not sources:
        raise UserError("complexity: expected --experiment, --config_file or --tables")
    input_size = parse_size(arguments.input_size) if arguments.input_size else None
    config = load_config(sources, arguments.params_override)
    num_classes = resolve_dataset_info(config).num_classes
    count, by = arguments.count or "conv", arguments.by or "part"
    # TensorFlow takes seconds to import; what is wrong above is said before.
    from deeplab2_lite.complexity.counting import complexity

    found = complexity(config, input_size, count, num_classes)
    height, width = found.input_size
    print(f"{config.name}: {height} x {width}, {num_classes} classes, {_COUNTS[count]}\n")
    print(format_complexity(found, by))
    return list(_csv_rows(found, by))


def _cells(costs: PartComplexity | LayerComplexity) -> list[str]:
    return [
        f"{costs.parameters:,}",
        f"{costs.multiply_adds / 1e6:,.3f}",
        f"{costs.activation_bytes / _MEBI:,.1f}",
    ]


def _csv_rows(found: Complexity, by: str) -> Iterable[Sequence[object]]:
    if by == "part":
        yield found.total._fields
        yield from found.parts
    else:
        yield "layer", "type", "part", "output", "parameters", "multiply_adds", "activation_bytes"
        for layer in found.layers:
            yield *layer[:3], "x".join(map(str, layer.output_shape)), *layer[4:]
