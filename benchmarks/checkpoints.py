"""Times checkpoints of weights and Adam's state: python benchmarks/checkpoints.py

How long `CheckpointStore.save` blocks training and how long it takes until all is on the disk, against Orbax used
plainly on the same disk: how long its asynchronous save blocks, and its synchronous one. Reading, and how much of
that is the checksums, which writing makes too. All in turn; medians in milliseconds. Every network runs in a
process of its own.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXPERIMENTS = ("cityscapes/resnet50_beta", "shapes/mobilenet_v3_small")
COLUMNS = (
    "experiment", "parameters", "megabytes", "blocked_ms", "written_ms", "orbax_async_ms", "orbax_sync_ms",
    "read_ms", "checksums_ms",
)  # fmt: skip


def measure_experiment(experiment: str, folder: Path, runs: int) -> dict[str, Any]:
    """Measures the network of one experiment, with checkpoints in a folder."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    import deeplab2_lite as dl
    from deeplab2_lite.checkpoint_format import checksum
    from deeplab2_lite.checkpoints import CheckpointStore, named_optimizer_state, named_weights
    from deeplab2_lite.trainer.optimization import build_optimizer, optimizer_variables

    config = dl.load_config(experiment)
    network = dl.build_model(config)
    optimizer = build_optimizer(config.train.optimizer, config.train.steps, network.trainable_variables)
    weights, state = named_weights(network), named_optimizer_state(optimizer_variables(optimizer))
    # Zeros, as Adam starts with, would shrink to nothing.
    for variable in state.values():
        if variable.dtype.is_floating:
            variable.assign(tf.random.normal(variable.shape))
    store = CheckpointStore(folder / "store", max_to_keep=1)
    saves = []
    for step in range(runs + 1):
        start = time.perf_counter()
        blocked = milliseconds(lambda step=step: store.save(step, weights, state, {"config": {}}))
        store.wait()
        written = 1e3 * (time.perf_counter() - start)
        saves.append((blocked, written, *save_by_orbax(step, {"weights": weights, "optimizer": state}, folder)))
    # The first imports Orbax.
    medians = [statistics.median(times) for times in zip(*saves[1:], strict=True)]
    reads = []
    for _ in range(runs):
        start = time.perf_counter()
        checkpoint = store.load()
        read = 1e3 * (time.perf_counter() - start)
        arrays = [*checkpoint.weights.values(), *checkpoint.optimizer.values()]
        reads.append((read, milliseconds(lambda arrays=arrays: [checksum(array) for array in arrays])))
    medians += [statistics.median(times) for times in zip(*reads, strict=True)]
    store.close()
    variables = [*weights.values(), *state.values()]
    return {
        "experiment": experiment,
        "parameters": network.count_params(),
        "megabytes": round(sum(v.dtype.size * v.shape.num_elements() for v in variables) / 1e6),
        **dict(zip(COLUMNS[3:], (round(median, 1) for median in medians), strict=True)),
    }


def save_by_orbax(step: int, variables: dict[str, dict[str, Any]], folder: Path) -> tuple[float, float]:
    """Saves with Orbax alone; returns how long its asynchronous save blocks, and its synchronous one takes."""
    import numpy as np
    import tensorflow as tf

    from deeplab2_lite.orbax_import import import_orbax

    orbax = import_orbax()

    def copies() -> Any:
        # As Orbax asks for: what it is given must not change.
        return orbax.args.StandardSave(
            {
                part: {k: np.array(tf.convert_to_tensor(v)) for k, v in named.items()}
                for part, named in variables.items()
            }
        )

    path = folder / f"asynchronous_{step}"
    with orbax.AsyncCheckpointer(orbax.StandardCheckpointHandler()) as checkpointer:
        blocked = milliseconds(lambda: checkpointer.save(path, args=copies()))
        checkpointer.wait_until_finished()
    shutil.rmtree(path)
    path = folder / f"synchronous_{step}"
    with orbax.Checkpointer(orbax.StandardCheckpointHandler()) as checkpointer:
        synchronous = milliseconds(lambda: checkpointer.save(path, args=copies()))
    shutil.rmtree(path)
    return blocked, synchronous


def milliseconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", action="append", help="instead of ResNet-50 and MobileNetV3-small")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    parser.add_argument("--output", type=Path, default=Path("benchmark_checkpoints.csv"))
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        print(" | ".join(COLUMNS))
        for experiment in arguments.experiment or EXPERIMENTS:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as name, context.Pool(1) as pool:
                row = pool.apply(measure_experiment, (experiment, Path(name), arguments.runs))
            writer.writerow(row)
            file.flush()
            print(" | ".join(str(row[column]) for column in COLUMNS), flush=True)


if __name__ == "__main__":
    sys.exit(main())
