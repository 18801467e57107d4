"""Times every backbone: python benchmarks/backbones.py

Building it, a forward pass of one image, and the peak memory of that pass over the weights. Each backbone
runs at its published output stride, in a process of its own. Ratios are to ResNet-50 (beta), which is timed
again, run by run, beside each of the others.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

REFERENCE = "resnet50_beta"
COLUMNS = ("backbone", "output_stride", "parameters", "build_seconds", "ms", "ratio", "peak_mb")


def output_stride(name: str) -> int:
    """The one that the backbone was published with."""
    if name.startswith("auto_deeplab"):
        return 8
    return 32 if name.startswith("hrnet") and not name.endswith("atrous") else 16


def measure_backbone(name: str, height: int, width: int, runs: int) -> dict[str, Any]:
    """Measures one backbone, in a process of its own."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf
    import tf_keras as keras
    from measure import compare, peak_megabytes

    from deeplab2_lite.backbones import BACKBONES
    from deeplab2_lite.complexity.counting import count_parameters
    from deeplab2_lite.config import BackboneConfig, ExperimentConfig
    from deeplab2_lite.layers.settings import LayerSettings

    image = tf.random.uniform([1, height, width, 3], maxval=255.0, seed=0)

    def build(name: str) -> keras.Model:
        inputs = keras.Input((height, width, 3))
        config = BackboneConfig(name=name, output_stride=output_stride(name))
        features = BACKBONES[name](inputs, config, LayerSettings.from_config(ExperimentConfig()))
        return keras.Model(inputs, [features.output, *features.skips.values()])

    def forward(model: keras.Model) -> Any:
        spec = tf.TensorSpec.from_tensor(image)
        return tf.function(lambda x: model(x, training=False), [spec], autograph=False).get_concrete_function()

    start = time.perf_counter()
    model = build(name)
    seconds = time.perf_counter() - start
    run = forward(model)
    peak = peak_megabytes(lambda: run(image))
    reference = forward(build(REFERENCE))
    times = compare(lambda: reference(image), lambda: run(image), runs)
    return {
        "backbone": name,
        "output_stride": output_stride(name),
        "parameters": count_parameters(model),
        "build_seconds": round(seconds, 1),
        "ms": round(times.second),
        "ratio": round(times.ratio, 2),
        "peak_mb": peak and round(peak),
    }


def main() -> None:
    from deeplab2_lite.backbones import BACKBONES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", action="append", choices=sorted(BACKBONES), help="instead of all")
    parser.add_argument("--input_size", default="513x1025", metavar="HxW")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmark_backbones.csv"))
    arguments = parser.parse_args()
    size = tuple(int(side) for side in arguments.input_size.split("x"))
    context = multiprocessing.get_context("spawn")
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        print(" | ".join(COLUMNS))
        for name in arguments.backbone or sorted(BACKBONES):
            with context.Pool(1) as pool:
                row = pool.apply(measure_backbone, (name, *size, arguments.runs))
            writer.writerow(row)
            file.flush()
            print(" | ".join(str(row[column]) for column in COLUMNS), flush=True)


if __name__ == "__main__":
    sys.exit(main())
