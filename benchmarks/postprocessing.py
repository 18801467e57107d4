"""Times the post-processing against brute force: python benchmarks/postprocessing.py

Every case runs in a process of its own, so that memory freed by one does not hide what another takes.
Writes a row a case to the terminal, and all of them to a CSV file.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

SIZES = ((513, 1025), (1025, 2049), (2177, 2177))
CENTERS = (0, 20, 200)
BATCHES = (1, 4)
COLUMNS = (
    "from", "height", "width", "batch", "centers", "things_percent",
    "ms", "brute_force_ms", "ratio", "peak_mb", "brute_force_peak_mb", "xla_ms",
)  # fmt: skip


def measure_case(start: str, height: int, width: int, batch: int, centers: int, runs: int) -> dict[str, Any]:
    """Measures one case, in a process of its own."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import brute_force
    import numpy as np
    import tensorflow as tf
    from measure import compare, median_milliseconds, peak_megabytes
    from scenes import INFO, SETTINGS, draw_scene

    from deeplab2_lite.postprocessing import panoptic_segmentation

    heads, upsampling = draw_scene(height, width, centers, batch)
    size = (height, width)
    if start == "full":
        heads, upsampling, size = upsampling.apply(heads), None, None

    def ours(*heads: tf.Tensor) -> Any:
        return panoptic_segmentation(*heads, **SETTINGS, upsampling=upsampling)

    specs = [tf.TensorSpec.from_tensor(head) for head in heads]
    graph = tf.function(ours, specs, autograph=False).get_concrete_function()
    compiled = tf.function(ours, specs, autograph=False, jit_compile=True)

    def reference() -> tf.Tensor:
        return brute_force.segment_batch(heads, SETTINGS, size)

    peak = peak_megabytes(lambda: graph(*heads))
    result = graph(*heads)
    reference_peak = peak_megabytes(reference)
    same = np.mean(reference().numpy() == result.panoptic.numpy())
    assert same > 0.9999, f"differs from brute force in {1 - same:.2%} of the pixels"
    assert int(tf.reduce_sum(tf.cast(result.instances.valid, tf.int32))) == batch * centers
    times = compare(lambda: graph(*heads), reference, runs)
    return {
        "from": start,
        "height": height,
        "width": width,
        "batch": batch,
        "centers": centers,
        "things_percent": round(100 * float(np.isin(result.semantic, INFO.thing_ids).mean())),
        "ms": round(median_milliseconds(lambda: graph(*heads), max(7, 3 * runs)), 1),
        "brute_force_ms": round(times.second),
        "ratio": round(times.ratio, 1),
        "peak_mb": peak and round(peak),
        "brute_force_peak_mb": reference_peak and round(reference_peak),
        "xla_ms": round(median_milliseconds(lambda: compiled(*heads), max(7, 3 * runs)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of the brute force; ours gets 7 at least")
    parser.add_argument("--size", action="append", metavar="HxW", help="instead of the three sizes")
    parser.add_argument("--batch", action="append", type=int, help="instead of 1 and 4")
    parser.add_argument("--output", type=Path, default=Path("benchmark_postprocessing.csv"))
    arguments = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in arguments.size] if arguments.size else SIZES
    cases = itertools.product(("full", "stride 4"), sizes, arguments.batch or BATCHES, CENTERS)
    context = multiprocessing.get_context("spawn")
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        print(" | ".join(COLUMNS))
        for start, (height, width), batch, centers in cases:
            with context.Pool(1) as pool:
                row = pool.apply(measure_case, (start, height, width, batch, centers, arguments.runs))
            writer.writerow(row)
            file.flush()
            print(" | ".join(str(row[name]) for name in COLUMNS), flush=True)


if __name__ == "__main__":
    sys.exit(main())
