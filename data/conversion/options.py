"""Command-line options that all converters share."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, get_args

from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.conversion.beam import convert_with_beam
from deeplab2_lite.data.conversion.output import Conversion, local_folder
from deeplab2_lite.data.images import HighDepth
from deeplab2_lite.errors import UserError

Source = TypeVar("Source")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds where and how records are written: `--output`, `--num_processes` or `--beam_options`, `--overwrite`."""
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write the TFRecord shards into")
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--num_processes",
        type=int,
        default=min(os.cpu_count() or 1, 16),
        metavar="N",
        help="processes that convert; the records do not depend on it (default: %(default)s)",
    )
    way.add_argument(
        "--beam_options",
        metavar="OPTIONS",
        help="run as an Apache Beam pipeline with these options of Beam's, such as "
        "--beam_options='--runner=FlinkRunner --parallelism=64'",
    )
    parser.add_argument("--overwrite", action="store_true", help="remove the records in --output and start anew")


def add_label_divisor_argument(parser: argparse.ArgumentParser, default: int | None = 1000) -> None:
    """Adds `--label_divisor`; a default of None stands for that of `--dataset_info`, or 1000."""
    parser.add_argument(
        "--label_divisor",
        type=int,
        default=default,
        metavar="N",
        help="panoptic id = class * N + instance: an image holds up to N - 1 instances of a class "
        f"(default: {'that of --dataset_info, or 1000' if default is None else default})",
    )


def add_high_depth_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--high_depth`, see `images.read_rgb`."""
    parser.add_argument(
        "--high_depth",
        choices=get_args(HighDepth),
        default="refuse",
        help="16-bit grey images: refuse them, or scale 0..65535 (full_range), each image's minimum..maximum "
        "(per_image) or its percentiles 0.1..99.9 (percentile) to 0..255; the same for 'convert' and 'predict' "
        "(default: %(default)s)",
    )


def read_sources(
    arguments: argparse.Namespace,
    official_layout: Callable[[str, Sequence[str]], dict[str, Source]],
    kind: type[Source],
) -> dict[str, Source]:
    """Returns where each split lies, as `--input` with `--splits`, or else `--split`, says.

    Args:
        arguments: The parsed options.
        official_layout: From the folder of `--input` and the names of its splits to their sources.
        kind: The type of a source, made of the paths of a `--split` behind its name.

    Returns:
        Sources by split.

    Raises:
        UserError: Two splits have one name.
    """
    if arguments.input is not None:
        return official_layout(arguments.input, arguments.splits)
    sources = {name: kind(*map(Path, paths)) for name, *paths in arguments.split}
    if len(sources) < len(arguments.split):
        raise UserError("--split: two splits have the same name")
    return sources


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
    output = local_folder(arguments.output)
    if arguments.beam_options is None:
        return convert(conversion, output, num_processes=arguments.num_processes, overwrite=arguments.overwrite)
    try:
        options = shlex.split(arguments.beam_options)
    except ValueError as error:
        raise UserError(f"--beam_options: {error}") from None
    return convert_with_beam(conversion, output, options=options, overwrite=arguments.overwrite)
