"""Times one model in every runtime, beside TensorFlow: python benchmarks/runtimes.py --input_size 513x1025

Each runtime has a process of its own, with as many threads as there are cores; the image is fixed, the time is from
uint8 image to panoptic map, both in memory. Without --model the network has random weights: its map is as unstable
as noise, so shares of equal pixels mean something with --model and real images alone.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNTIMES = ("tensorflow", "saved_model", "onnx", "openvino", "litert", "litert_float16", "stablehlo")
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


def measure_runtime(
    runtime: str, model_dir: Path, size: tuple[int, int], image_folder: Path | None, runs: int, most_images: int
) -> dict[str, Any]:
    """Exports to one runtime and times it, in a process of its own."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy as np

    from deeplab2_lite.data.images import read_rgb
    from deeplab2_lite.data.shapes import generate_scene
    from deeplab2_lite.evaluation.export_command import resized
    from deeplab2_lite.evaluation.inputs import find_images
    from deeplab2_lite.loading import load_model_dir
    from deeplab2_lite.runtimes.comparing import compare
    from deeplab2_lite.runtimes.exporting import export, load_export
    from deeplab2_lite.runtimes.program import reference_function
    from deeplab2_lite.runtimes.request import ExportRequest

    model = load_model_dir(model_dir)
    reference = reference_function(model, postprocessing=True)
    if image_folder is None:
        images = {"drawn image": generate_scene(0, "benchmark", 0, *size)[0]}
    else:
        images = {path.name: resized(read_rgb(path), size) for path in find_images(image_folder)[:most_images]}
    row: dict[str, Any] = {"runtime": runtime, "images": len(images)}
    if runtime == "tensorflow":

        def run(batch: np.ndarray) -> dict[str, np.ndarray]:
            return {name: tensor.numpy() for name, tensor in reference(batch).items()}
    else:
        name, _, precision = runtime.partition("_float")
        fixed = None if name == "saved_model" else size
        request = ExportRequest(name, fixed, precision=f"float{precision or 32}")
        folder = model_dir / "export" / runtime
        start = time.perf_counter()
        export(model, request, folder)
        row["export_seconds"] = round(time.perf_counter() - start)
        row["megabytes"] = round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6)
        run = load_export(folder, name, os.cpu_count())
    batch = next(iter(images.values()))[None]
    times = []
    for number in range(runs + 1):
        start = time.perf_counter()
        run(batch)
        times.append(1e3 * (time.perf_counter() - start))
        if number == 0 and times[0] > 60_000:
            # A minute and more: the first, which may compile, has to do.
            break
    row["ms"] = round(statistics.median(times[1:] or times))
    compared = [compare(name, image, run, reference, model, 1) for name, image in images.items()]
    row["equal_pixels"] = round(min(found.equal_pixels for found in compared), 5)
    return row


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
