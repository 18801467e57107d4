"""The command that times inference: `deeplab2-lite benchmark`."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deeplab2_lite.complexity.command import parse_size
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import load_config, packaged_experiments, resolve_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import write_text_atomically, writing_to

if TYPE_CHECKING:
    from deeplab2_lite.benchmark.machine import Machine
    from deeplab2_lite.benchmark.measuring import Benchmark

_DEFAULTS = {"batch_size": 1, "instances": 20, "runs": 10}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    parser.add_argument(
        "--experiment",
        action="append",
        default=[],
        metavar="NAME",
        help=f"packaged experiment, or a YAML file; repeatable. Of: {', '.join(packaged_experiments())}",
    )
    parser.add_argument(
        "--config_file",
        action="append",
        default=[],
        metavar="YAML",
        help="configuration over that of each experiment; repeatable, later wins",
    )
    parser.add_argument("--params_override", default="", metavar="A.B=C,...", help="settings that win over all files")
    parser.add_argument("--model", metavar="DIR", help="time this trained model folder or SavedModel instead")
    parser.add_argument("--input", metavar="PATH", help="with --model: an image, or a folder of images")
    parser.add_argument(
        "--input_size",
        metavar="HxW",
        help="size of the image as the network sees it; default published.input_size, else data.longest_side, square, "
        "else data.crop_size",
    )
    for name, text in (
        ("batch_size", "images at once"),
        ("instances", "in the drawn scene that post-processing works on, since an untrained network finds none"),
        ("runs", "that count, after two that do not; of each image"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{text}; default {_DEFAULTS[name]}")
    parser.add_argument("--xla", action="store_true", help="compile with XLA")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="gets benchmark.csv (a row a stage), benchmark.json (every run) and, of several experiments, "
        "benchmark.png: published PQ against seconds",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: A flag, setting, model or image is at fault, or the output cannot be written.
    """
    _check(arguments)
    configs = _load_configs(arguments)
    input_size = parse_size(arguments.input_size) if arguments.input_size else None
    if arguments.model:
        from deeplab2_lite.evaluation.inputs import find_images

        paths = find_images(Path(arguments.input))
    folder = Path(arguments.output) if arguments.output else None
    if folder:
        _make_writable(folder)
    # TensorFlow takes seconds to import; what is wrong above is said before.
    from deeplab2_lite.benchmark.machine import describe_machine
    from deeplab2_lite.benchmark.measuring import benchmark_experiment, benchmark_model
    from deeplab2_lite.benchmark.report import format_benchmark, format_summary
    from deeplab2_lite.data.images import read_rgb

    machine = describe_machine()
    print(f"{machine}\n", flush=True)
    runs = _value(arguments, "runs")
    found: list[Benchmark] = []
    if arguments.model:
        with _enough_memory(arguments.model):
            found.append(benchmark_model(arguments.model, map(read_rgb, paths), runs=runs, xla=arguments.xla))
        print(f"{format_benchmark(found[-1])}\n", flush=True)
        _write(found, machine, folder)
    for config in configs:
        with _enough_memory(config.name):
            found.append(
                benchmark_experiment(
                    config,
                    input_size,
                    batch_size=_value(arguments, "batch_size"),
                    instances=_value(arguments, "instances"),
                    runs=runs,
                    xla=arguments.xla,
                )
            )
        print(f"{format_benchmark(found[-1])}\n", flush=True)
        # What has been measured is not lost if a later experiment fails.
        _write(found, machine, folder)
    if len(found) > 1:
        print(f"{format_summary(found)}\n")
    if folder:
        print(", ".join(str(path) for path in _write(found, machine, folder)))


def _check(arguments: argparse.Namespace) -> None:
    """Refuses flags that contradict each other, or are out of range."""
    if arguments.model:
        for flag in ("experiment", "config_file", "params_override"):
            if getattr(arguments, flag):
                raise UserError(f"--{flag}: contradicts --model, which has settings of its own")
        for flag in ("input_size", "batch_size", "instances"):
            if getattr(arguments, flag) is not None:
                raise UserError(f"--{flag}: contradicts --model, which is timed on the images of --input, one by one")
        if not arguments.input:
            raise UserError("--input: expected an image or a folder of images for --model")
    elif arguments.input:
        raise UserError("--input: needs --model; an untrained network is timed on random pixels")
    elif not arguments.experiment and not arguments.config_file:
        raise UserError("benchmark: expected --experiment, --config_file or --model")
    for flag, least in (("batch_size", 1), ("instances", 0), ("runs", 1)):
        value = getattr(arguments, flag)
        if value is not None and value < least:
            raise UserError(f"--{flag}: expected {least} or more, got {value}")


def _load_configs(arguments: argparse.Namespace) -> list[ExperimentConfig]:
    if arguments.model:
        return []
    configs = []
    for experiment in arguments.experiment or [None]:
        sources = [*([experiment] if experiment else []), *arguments.config_file]
        config = load_config(sources, arguments.params_override)
        if config.model.tasks != "panoptic":
            raise UserError(
                f"{config.name}: model.tasks: '{config.model.tasks}' gives no panoptic map; expected panoptic"
            )
        try:
            resolve_dataset_info(config)
        except UserError as error:
            raise UserError(f"{config.name}: {error}") from None
        configs.append(config)
    return configs


def _value(arguments: argparse.Namespace, flag: str) -> int:
    value = getattr(arguments, flag)
    return _DEFAULTS[flag] if value is None else value


def _write(found: list[Benchmark], machine: Machine, folder: Path | None) -> list[Path]:
    """Writes all that has been measured so far; returns the files."""
    if folder is None:
        return []
    from deeplab2_lite.benchmark.plot import plot_benchmarks
    from deeplab2_lite.benchmark.report import to_csv, to_json

    with writing_to(folder):
        paths = [
            write_text_atomically(folder / "benchmark.csv", to_csv(found, machine)),
            write_text_atomically(folder / "benchmark.json", to_json(found, machine)),
        ]
        picture = folder / "benchmark.png"
        # A picture of an earlier command would not belong to these files.
        picture.unlink(missing_ok=True)
        if len(found) > 1 and plot_benchmarks(found, machine, picture):
            paths.append(picture)
    return paths


def _make_writable(folder: Path) -> None:
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "Permission denied", str(folder))


@contextlib.contextmanager
def _enough_memory(name: str) -> Iterator[None]:
    import tensorflow as tf

    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise UserError(f"{name}: out of memory; expected smaller images or a smaller --batch_size") from None
