"""Times a SavedModel as it is beside one that is frozen and folded: python benchmarks/serving.py --input_size 513x1025

Both are loaded into one process and run in turn, image to panoptic map, through the signature `serving_default`; the
weights are random, the image is drawn. With --c_program, each is also timed in a process without Python:
tests/serving/predict.c on libtensorflow, which gets the same pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from libtensorflow import compile_program
from measure import compare

from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.data.shapes import generate_scene
from deeplab2_lite.export import export_saved_model
from deeplab2_lite.model import build_model

SOURCE = Path(__file__).parents[1] / "tests" / "serving" / "predict.c"
COLUMNS = ("python_ms", "c_ms")


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


def measure_both(
    experiment: str, size: tuple[int, int], runs: int, c_program: bool
) -> tuple[dict[str, dict[str, float]], float]:
    """Returns times by SavedModel and column, and the median ratio of frozen to unfolded, pair by pair."""
    image = generate_scene(0, "benchmark", 0, *size)[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = export_both(experiment, folder)
        rows: dict[str, dict[str, float]] = {name: {} for name in paths}
        models = [tf.saved_model.load(str(path)) for path in paths.values()]
        images = tf.constant(image[None])
        contenders = [lambda model=model: model.signatures["serving_default"](images=images) for model in models]
        *times, ratio = compare(*contenders, runs=runs)
        for row, milliseconds in zip(rows.values(), times, strict=True):
            row["python_ms"] = milliseconds
        if c_program:
            program, pixels = compile_program(SOURCE, folder / "predict"), folder / "image.rgb"
            pixels.write_bytes(np.ascontiguousarray(image).tobytes())
            for name, path in paths.items():
                words = [program, path, "pixels", pixels, folder / "map", *size, runs]
                done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
                rows[name]["c_ms"] = float(re.match(r"([\d.]+) ms", done.stdout)[1])
    return rows, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="cityscapes/resnet50_beta", metavar="NAME")
    parser.add_argument("--input_size", default="513x1025", metavar="HxW")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--c_program", action="store_true")
    arguments = parser.parse_args()
    height, width = map(int, arguments.input_size.split("x"))
    rows, ratio = measure_both(arguments.experiment, (height, width), arguments.runs, arguments.c_program)
    print(" | ".join(("saved_model", *COLUMNS)))
    for name, row in rows.items():
        print(" | ".join((name, *(f"{row[key]:.0f}" if key in row else "" for key in COLUMNS))))
    print(f"frozen takes {ratio:.3f} of the time, median of {arguments.runs} pairs")


if __name__ == "__main__":
    sys.exit(main())
