"""Times one model in every runtime, beside TensorFlow: python benchmarks/runtimes.py --input_size 513x1025

Each runtime has a process of its own, with as many threads as there are cores; the image is fixed, the time is from
uint8 image to panoptic map, both in memory (`serving_bytes` decodes a PNG, `litert_int8` gives the heads alone, which
TensorFlow merges before maps are compared). Without --model the network has random weights: its map is as unstable as
noise, so shares of equal pixels mean something with --model and real images alone.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SAVED_MODELS = ("saved_model", "serving_bytes", "frozen", "c_program")
RUNTIMES = (
    *("tensorflow", "evaluator", *SAVED_MODELS, "onnx", "openvino"),
    *("litert", "litert_float16", "litert_int8", "stablehlo"),
)
COLUMNS = ("runtime", "export_seconds", "megabytes", "ms", "equal_pixels", "images")


def random_model(experiment: str, folder: Path) -> Path:
    """Writes a model folder of random weights."""
    from deeplab2_lite.checkpoints import CheckpointStore, named_weights
    from deeplab2_lite.config_loading import load_config, resolve_dataset_info, save_config
    from deeplab2_lite.loading import CHECKPOINTS, CONFIG_FILE
    from deeplab2_lite.model import build_model

    config = load_config(experiment)
    info = resolve_dataset_info(config)
    store = CheckpointStore(folder / CHECKPOINTS)
    store.save(0, named_weights(build_model(config)), {}, {})
    store.close()
    info.save(folder)
    save_config(config, folder / CONFIG_FILE)
    return folder


class Contender(NamedTuple):
    """A runtime with the model in it.

    Attributes:
        run: From uint8 images [1, height, width, 3] to outputs by name.
        milliseconds: Of so many runs; None where `run` is to be timed.
        has_maps: Whether it merges.
    """

    run: Callable[[np.ndarray], dict[str, np.ndarray]]
    milliseconds: Callable[[np.ndarray, int], float] | None = None
    has_maps: bool = True


def measure_runtime(
    runtime: str, model_dir: Path, size: tuple[int, int], image_folder: Path | None, runs: int, most_images: int
) -> dict[str, Any]:
    """Exports to one runtime and times it, in a process of its own."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from deeplab2_lite.data.images import read_rgb
    from deeplab2_lite.data.shapes import generate_scene
    from deeplab2_lite.evaluation.export_command import resized
    from deeplab2_lite.evaluation.inputs import find_images
    from deeplab2_lite.loading import load_model_dir
    from deeplab2_lite.runtimes.comparing import compare
    from deeplab2_lite.runtimes.program import reference_function

    model = load_model_dir(model_dir)
    if image_folder is None:
        images = {"drawn image": generate_scene(0, "benchmark", 0, *size)[0]}
    else:
        images = {path.name: resized(read_rgb(path), size) for path in find_images(image_folder)[:most_images]}
    row: dict[str, Any] = {"runtime": runtime, "images": len(images)}
    folder = model_dir / "export" / runtime
    start = time.perf_counter()
    contender = open_runtime(runtime, model, size, list(images.values()), folder)
    if folder.is_dir():
        row["export_seconds"] = round(time.perf_counter() - start)
        row["megabytes"] = round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6)
    row["ms"] = round((contender.milliseconds or timed(contender.run))(next(iter(images.values()))[None], runs))
    reference = reference_function(model, contender.has_maps)
    compared = [compare(name, image, contender.run, reference, model, 1) for name, image in images.items()]
    row["equal_pixels"] = round(min(found.equal_pixels for found in compared), 5)
    return row


def open_runtime(runtime: str, model: Any, size: tuple[int, int], images: list[np.ndarray], folder: Path) -> Contender:
    """Exports a model into a folder, where there is something to export, and loads it."""
    from deeplab2_lite.runtimes.exporting import export, load_export
    from deeplab2_lite.runtimes.request import ExportRequest

    if runtime in ("tensorflow", "evaluator"):
        return Contender(in_python(model, runtime == "evaluator"))
    if runtime in SAVED_MODELS:
        return saved_model(runtime, model, folder)
    name, _, precision = runtime.partition("_")
    is_int8 = precision == "int8"
    request = ExportRequest(
        name, size, postprocessing=not is_int8, precision=precision or "float32", calibration_images=folder
    )
    export(model, request, folder, (image[None] for image in images))
    return Contender(load_export(folder, name, os.cpu_count()), has_maps=not is_int8)


def in_python(model: Any, as_evaluator: bool) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """What `Predictor` runs; or the evaluation's step, in whose batches each image says its size."""
    import tensorflow as tf

    from deeplab2_lite.inference import InferenceSettings, infer, result_tensors
    from deeplab2_lite.runtimes.program import reference_function

    settings = InferenceSettings.from_config(model.config, model.info)

    @tf.function(autograph=False)
    def evaluate(images: tf.Tensor) -> dict[str, tf.Tensor]:
        inference = infer(model.network, images, settings, tf.shape(images)[tf.newaxis, 1:3])
        return result_tensors(inference.result, inference.instance_scores)

    function = evaluate if as_evaluator else reference_function(model, postprocessing=True)
    return lambda batch: {name: tensor.numpy() for name, tensor in function(tf.constant(batch)).items()}


def saved_model(kind: str, model: Any, folder: Path) -> Contender:
    """A SavedModel by one of its signatures, or by the C program."""
    import tensorflow as tf

    from deeplab2_lite.export import export_saved_model

    serving = dataclasses.replace(model.config.export, frozen=kind == "frozen")
    export_saved_model(model.network, dataclasses.replace(model.config, export=serving), model.info, folder)
    if kind == "c_program":
        return c_program(folder)
    signatures = tf.saved_model.load(str(folder)).signatures

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        if kind == "serving_bytes":
            outputs = signatures["serving_bytes"](image_bytes=tf.stack([tf.io.encode_png(image) for image in batch]))
        else:
            outputs = signatures["serving_default"](images=tf.constant(batch))
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return Contender(run)


def c_program(folder: Path) -> Contender:
    """tests/serving/predict.c on libtensorflow."""
    from libtensorflow import compile_program, run_program

    program = compile_program(folder / "predict")

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"panoptic_pred": run_program(program, folder, batch[0], 1, folder)[1][None]}

    return Contender(run, lambda batch, runs: run_program(program, folder, batch[0], runs, folder)[0])


def timed(run: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray, int], float]:
    """Returns what times it: the median of so many runs, in milliseconds."""

    def milliseconds(batch: np.ndarray, runs: int) -> float:
        times = []
        for number in range(runs + 1):
            start = time.perf_counter()
            run(batch)
            times.append(1e3 * (time.perf_counter() - start))
            if number == 0 and times[0] > 60_000:
                # A minute and more: the first, which may compile, has to do.
                break
        return statistics.median(times[1:] or times)

    return milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="cityscapes/resnet50_beta", metavar="NAME")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a trained model folder instead")
    parser.add_argument("--images", type=Path, metavar="DIR", help="compare on these instead of a drawn one")
    parser.add_argument("--most_images", type=int, default=16)
    parser.add_argument("--input_size", default="513x1025", metavar="HxW")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, help="instead of all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmark_runtimes.csv"))
    arguments = parser.parse_args()
    size = tuple(int(side) for side in arguments.input_size.split("x"))
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary, arguments.output.open("w", newline="") as file:
        with context.Pool(1) as pool:
            model_dir = pool.apply(model_folder, (arguments.model, arguments.experiment, Path(temporary)))
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        print(" | ".join(COLUMNS))
        for runtime in arguments.runtime or RUNTIMES:
            settings = (runtime, model_dir, size, arguments.images, arguments.runs, arguments.most_images)
            with context.Pool(1) as pool:
                row = pool.apply(measure_runtime, settings)
            writer.writerow(row)
            file.flush()
            print(" | ".join(str(row.get(column, "")) for column in COLUMNS), flush=True)


def model_folder(model: Path | None, experiment: str, temporary: Path) -> Path:
    """The folder to export from: a copy, so that exports land in none of the user's."""
    if model is None:
        return random_model(experiment, temporary)
    for name in ("config.yaml", "dataset_info.yaml"):
        shutil.copy(model / name, temporary / name)
    (temporary / "checkpoints").symlink_to((model / "checkpoints").resolve())
    return temporary


if __name__ == "__main__":
    sys.exit(main())
