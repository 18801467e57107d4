"""Times the making of training targets, on one thread, against a loop over instances: python benchmarks/targets.py

Labels are drawn; with --data, also those of the folders `cityscapes` and `coco` in it. Every case runs in a process
of its own. Writes a row a case to the terminal, medians over its labels, and all of them to a CSV file.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import statistics
import sys
from pathlib import Path
from typing import Any

# Data set, height, width, instances.
DRAWN = (
    *(("cityscapes", 1025, 2049, instances) for instances in (20, 60, 200)),
    *(("coco", 641, 641, instances) for instances in (8, 40)),
)
COLUMNS = ("labels", "number", "height", "width", "instances", "ms", "loop_ms", "ratio")


def use_one_thread() -> None:
    """Sets TensorFlow up in a process that has not used it yet, on the host alone."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def measure_drawn(name: str, height: int, width: int, instances: int, runs: int) -> dict[str, Any]:
    """Measures three drawn labels."""
    from labels import draw_label

    from deeplab2_lite.dataset_info import load_dataset_info

    info = load_dataset_info(name)
    labels = [draw_label(info, height, width, instances, seed) for seed in range(3)]
    return _measure(f"drawn as {name}", labels, info, runs)


def measure_real(name: str, folder: Path, runs: int, most: int) -> dict[str, Any]:
    """Measures labels of a data set, evenly taken from its folder."""
    import labels

    from deeplab2_lite.dataset_info import load_dataset_info

    info = load_dataset_info(name)
    found = list({"cityscapes": labels.cityscapes_labels, "coco": labels.coco_labels}[name](folder, info))
    return _measure(name, found[:: -(-len(found) // most)], info, runs)


def _measure(name: str, labels: list[Any], info: Any, runs: int) -> dict[str, Any]:
    import numpy as np
    import tensorflow as tf
    from instance_loop import targets_by_loop
    from labels import count_instances
    from measure import compare

    from deeplab2_lite.config import TargetConfig
    from deeplab2_lite.data.targets import make_targets
    from deeplab2_lite.panoptic_losses import Targets

    config = TargetConfig()
    height, width = labels[0].shape
    spec = [tf.TensorSpec([height, width], tf.int32)]
    make = tf.function(lambda panoptic: make_targets(panoptic, info, config), spec, autograph=False)
    ratios, instances = [], []
    for label in labels:
        panoptic = tf.constant(label)
        instances.append(count_instances(label, info))
        reference = targets_by_loop(label, info, config)
        for got, wanted, field in zip(make(panoptic), reference, Targets._fields, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6, err_msg=field)

        # On the host both return when all is done, so that no result has to be waited for.
        def ours(panoptic: tf.Tensor = panoptic) -> tuple[()]:
            make(panoptic)
            return ()

        def loop(label: np.ndarray = label) -> tuple[()]:
            targets_by_loop(label, info, config)
            return ()

        ratios.append(compare(ours, loop, runs))
    return {
        "labels": name,
        "number": len(labels),
        "height": height,
        "width": width,
        "instances": round(statistics.median(instances)),
        "ms": round(statistics.median(ratio.first for ratio in ratios), 1),
        "loop_ms": round(statistics.median(ratio.second for ratio in ratios), 1),
        "ratio": round(statistics.median(ratio.ratio for ratio in ratios), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of `cityscapes` and `coco`, as they are downloaded")
    parser.add_argument("--runs", type=int, default=7, help="of each of the two, in turn, for each label")
    parser.add_argument("--most", type=int, default=30, help="labels of a data set")
    parser.add_argument("--output", type=Path, default=Path("benchmark_targets.csv"))
    arguments = parser.parse_args()
    runs = arguments.runs
    cases: list[Any] = [(measure_drawn, (*case, runs)) for case in DRAWN]
    for name in ("cityscapes", "coco"):
        if arguments.data is not None and (arguments.data / name).is_dir():
            cases.append((measure_real, (name, arguments.data / name, runs, arguments.most)))
    context = multiprocessing.get_context("spawn")
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        print(" | ".join(COLUMNS))
        for measure, case in cases:
            with context.Pool(1, use_one_thread) as pool:
                row = pool.apply(measure, case)
            writer.writerow(row)
            file.flush()
            print(" | ".join(str(row[name]) for name in COLUMNS), flush=True)


if __name__ == "__main__":
    sys.exit(main())
