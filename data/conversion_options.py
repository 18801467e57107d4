"""Command-line options that all converters share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.conversion_output import Conversion


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds where and how records are written: `--output`, `--num_processes`, `--overwrite`."""
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write the TFRecord shards into")
    parser.add_argument(
        "--num_processes",
        type=int,
        default=min(os.cpu_count() or 1, 16),
        metavar="N",
        help="processes that convert; the records do not depend on it (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="remove the records in --output and start anew")


def add_label_divisor_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--label_divisor`."""
    parser.add_argument(
        "--label_divisor",
        type=int,
        default=1000,
        metavar="N",
        help="panoptic id = class * N + instance: an image holds up to N - 1 instances of a class "
        "(default: %(default)s)",
    )


def write(conversion: Conversion, arguments: argparse.Namespace) -> Path:
    """Runs a conversion as the options of `add_output_arguments` say.

    Args:
        conversion: What to convert.
        arguments: The parsed options.

    Returns:
        The path of the data set's `dataset_info.yaml`.

    Raises:
        UserError: A source is at fault, or the output cannot be written.
    """
    return convert(conversion, arguments.output, num_processes=arguments.num_processes, overwrite=arguments.overwrite)
