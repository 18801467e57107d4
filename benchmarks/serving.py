"""Times a SavedModel as it is beside one that is frozen and folded: python benchmarks/serving.py --input_size 513x1025

Both are loaded into one process and run in turn, image to panoptic map, through the signature `serving_default`; the
weights are random, the image is drawn. With --c_program, each is also timed in a process without Python:
tests/serving/predict.c on libtensorflow, which gets the same pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from libtensorflow import compile_program, run_program
from measure import Ratio, compare

from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.data.shapes import generate_scene
from deeplab2_lite.export import export_saved_model
from deeplab2_lite.model import build_model


def export_both(experiment: str, folder: Path) -> dict[str, Path]:
    """Exports one network twice."""
    config = load_config(experiment)
    info = resolve_dataset_info(config)
    network = build_model(config)
    paths = {}
    for name, frozen in (("as it is", False), ("frozen", True)):
        export = dataclasses.replace(config.export, frozen=frozen)
        paths[name] = export_saved_model(network, dataclasses.replace(config, export=export), info, folder / name)
    return paths


def compare_both(paths: dict[str, Path], image: np.ndarray, runs: int) -> Ratio:
    """Runs both in turn, and returns milliseconds and the median ratio of the second to the first, pair by pair."""
    models = [tf.saved_model.load(str(path)) for path in paths.values()]
    images = tf.constant(image[None])
    first, second = (lambda model=model: model.signatures["serving_default"](images=images) for model in models)
    return compare(first, second, runs=runs)


def measure_c_program(paths: dict[str, Path], image: np.ndarray, runs: int, folder: Path) -> dict[str, float]:
    """Returns milliseconds by SavedModel, each in a process of its own."""
    program = compile_program(folder / "predict")
    return {name: run_program(program, path, image, runs, folder)[0] for name, path in paths.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="cityscapes/resnet50_beta", metavar="NAME")
    parser.add_argument("--input_size", default="513x1025", metavar="HxW")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--c_program", action="store_true")
    arguments = parser.parse_args()
    image = generate_scene(0, "benchmark", 0, *map(int, arguments.input_size.split("x")))[0]
    with tempfile.TemporaryDirectory() as temporary:
        paths = export_both(arguments.experiment, Path(temporary))
        unfolded, frozen, ratio = compare_both(paths, image, arguments.runs)
        print(f"as it is {unfolded:.0f} ms, frozen {frozen:.0f} ms", flush=True)
        print(f"frozen takes {ratio:.3f} of the time, median of {arguments.runs} pairs", flush=True)
        if arguments.c_program:
            times = measure_c_program(paths, image, arguments.runs, Path(temporary))
            print("C program: " + ", ".join(f"{name} {time:.0f} ms" for name, time in times.items()))


if __name__ == "__main__":
    sys.exit(main())
