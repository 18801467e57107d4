"""Times the input pipeline on one core, from record to targets: python benchmarks/input_pipeline.py

Beside it the pipeline as it is usually written, on the same images in the same process ("usual"), and that one with
a loop that looks at each instance's pixels once ("lean"). Images are drawn; with --data, the photographs of the
folders `cityscapes` and `coco` in it are taken instead. Every case runs in a process of its own, bound to one core.
Times are those that the core spends on this process, so that others on it do not count. Writes a table a case to the
terminal, and all of them to a CSV file.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# The settings of configs/cityscapes and configs/coco. Name of the case, data set, and what `data` holds.
_COCO = {"crop_size": (641, 641)}
CASES = (
    ("cityscapes", "cityscapes", {}, {}),
    ("coco", "coco", {**_COCO, "longest_side": 641}, {"max_scale": 1.5}),
    ("coco, own size", "coco", _COCO, {"max_scale": 1.5}),
)
STAGES = ("read", "decode image", "decode label", "check", "augment", "targets", "batch, rest")
COLUMNS = ("case", "images", "what", "ours", "usual", "ratio", "lean", "lean_ratio")
_WARM_UP = 2


def use_one_core() -> None:
    """Sets TensorFlow up in a process that has not used it yet, on one core of the host."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def convert(name: str, source: Path, output: Path) -> None:
    """Makes records of a data set as it is downloaded."""
    layout = {"cityscapes": ["cityscapes", "--splits", "train"], "coco": ["coco_panoptic"]}[name]
    command = [sys.executable, "-m", "deeplab2_lite.cli", "convert", *layout, "--input", str(source)]
    subprocess.run([*command, "--output", str(output)], check=True, stderr=subprocess.DEVNULL)


def draw_records(name: str, output: Path, count: int = 8) -> None:
    """Makes records of drawn images, of the usual size and number of instances."""
    import numpy as np
    import tensorflow as tf
    from labels import draw_label
    from PIL import Image

    from deeplab2_lite.data.record_format import make_record
    from deeplab2_lite.dataset_info import load_dataset_info

    info = load_dataset_info(name)
    height, width, instances, image_format = {
        "cityscapes": (1024, 2048, 40, "png"),
        "coco": (480, 640, 8, "jpeg"),
    }[name]
    with tf.io.TFRecordWriter(str(output / "train-00000-of-00001.tfrecord")) as writer:
        for seed in range(count):
            panoptic = draw_label(info, height, width, instances, seed)
            generator = np.random.default_rng(seed)
            colors = generator.integers(40, 216, (256, 3))[panoptic * 31 % 256]
            image = (colors + generator.normal(0, 3, colors.shape)).clip(0, 255).astype(np.uint8)
            path = output / f"image.{image_format}"
            Image.fromarray(image).save(path)
            writer.write(make_record(path.read_bytes(), image_format, f"{seed}.{image_format}", panoptic))
    info.save(output)


def measure_case(
    name: str, folder: Path, data: dict[str, Any], augmentation: dict[str, Any], images: int, runs: int
) -> list[dict[str, Any]]:
    """Measures one case, in a process of its own."""
    import tensorflow as tf
    import usual_pipeline
    from instance_loop import targets_by_loop

    from deeplab2_lite.config import AugmentationConfig, DataConfig, ExperimentConfig, TrainConfig
    from deeplab2_lite.data.pipeline import training_dataset
    from deeplab2_lite.data.record_index import open_records, record_reader
    from deeplab2_lite.dataset_info import load_dataset_info

    settings = DataConfig(**data, augmentation=AugmentationConfig(**augmentation))
    config = ExperimentConfig(data=settings, train=TrainConfig(batch_size=1))
    info, index = load_dataset_info(folder), open_records(folder, "train")
    read = record_reader(index)
    stored = [read(tf.constant(record, tf.int64)).numpy() for record in range(len(index))]
    raw = [usual_pipeline.with_raw_label(record) for record in stored]
    with tempfile.TemporaryDirectory() as scratch:
        raw_path = str(Path(scratch) / "raw.tfrecord")
        with tf.io.TFRecordWriter(raw_path) as writer:
            for record in raw:
                writer.write(record)
        tf.random.set_seed(0)
        ours = training_dataset(config, info, index)
        usual, lean = (
            usual_pipeline.usual_dataset(raw_path, info, settings, config.targets, loop)
            for loop in (usual_pipeline.targets_by_masks, targets_by_loop)
        )
        times = [[_milliseconds(dataset, images) for dataset in (ours, usual, lean)] for _ in range(runs)]
        totals = [statistics.median(column) for column in zip(*times, strict=True)]
        ratio, lean_ratio = (round(statistics.median(t[i] / t[0] for t in times), 2) for i in (1, 2))
        stages = [
            _with_rest(_stages_of_ours(config, info, read, len(index), images), totals[0]),
            _with_rest(_stages_of_usual(config, info, raw_path, images), totals[1]),
        ]
    rates, milliseconds = ([round(value, 2) for value in values] for values in ([1e3 / t for t in totals], totals))
    rows = [
        ("images/s", *rates[:2], ratio, rates[2], lean_ratio),
        ("ms", *milliseconds[:2], ratio, milliseconds[2], lean_ratio),
        *((f"ms: {stage}", *(round(times[stage], 1) for times in stages), "", "", "") for stage in STAGES),
        _kilobytes("kB of a record", stored, raw),
        _kilobytes("kB of a label", *([_label_of(r) for r in records] for records in (stored, raw))),
    ]
    common = {"case": name, "images": len(index)}
    return [{**common, **dict(zip(COLUMNS[2:], row, strict=True))} for row in rows]


def _milliseconds(dataset: Any, images: int) -> float:
    """Time of an image on the core, in a pipeline that runs steadily."""
    batches = iter(dataset)
    for _ in range(_WARM_UP):
        next(batches)
    start = time.process_time()
    for _ in range(images):
        next(batches)
    return 1e3 * (time.process_time() - start) / images


def _stages_of_ours(config: Any, info: Any, read: Callable[..., Any], records: int, images: int) -> dict[str, float]:
    import tensorflow as tf

    from deeplab2_lite.data.augment import augment
    from deeplab2_lite.data.record_format import IMAGE_KEY, LABEL_KEY
    from deeplab2_lite.data.records import decode_image, decode_panoptic_tensor, parse_record
    from deeplab2_lite.data.targets import make_targets

    features = {key: tf.io.FixedLenFeature([], tf.string) for key in (IMAGE_KEY, LABEL_KEY)}
    clock = _Clock()
    timed_read = clock.stage("read", read)
    image_of = clock.stage(
        "decode image", lambda s: decode_image(tf.io.parse_single_example(s, features)[IMAGE_KEY], "")
    )
    label_of = clock.stage(
        "decode label", lambda s: decode_panoptic_tensor(tf.io.parse_single_example(s, features)[LABEL_KEY])
    )
    parsed_of = clock.stage("check", lambda s: parse_record(s, info)[:2])
    augmented = clock.stage("augment", lambda i, p, d: augment(i, p, d, config.data, info.void_id))
    targets_of = clock.stage("targets", lambda p: make_targets(p, info, config.targets))
    for number in clock.rounds(images):
        serialized = timed_read(tf.constant(number % records, tf.int64))
        image_of(serialized)
        label_of(serialized)
        draws = tf.constant([0, number], tf.int64)
        targets_of(augmented(*parsed_of(serialized), draws).panoptic)
    means = clock.means()
    # Decoding is part of it.
    means["check"] = max(0.0, means["check"] - means["decode image"] - means["decode label"])
    return means


def _stages_of_usual(config: Any, info: Any, path: str, images: int) -> dict[str, float]:
    import tensorflow as tf
    import usual_pipeline

    clock = _Clock()
    records = iter(tf.data.TFRecordDataset(path).repeat())
    image_of = clock.stage("decode image", usual_pipeline.decode_image)
    label_of = clock.stage("decode label", usual_pipeline.decode_label)
    augmented = clock.stage("augment", lambda i, p: usual_pipeline.augment(i, p, config.data, info.void_id))
    targets_of = clock.stage("targets", lambda p: usual_pipeline.make_targets(p, info, config.targets))
    for _ in clock.rounds(images):
        serialized = clock.timed("read", lambda: next(records))
        targets_of(augmented(image_of(serialized), label_of(serialized))[1])
    return {"check": 0.0, **clock.means()}


class _Clock:
    """Mean times of stages, after a round that warms up."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}

    def stage(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        import tensorflow as tf

        graph = tf.function(function, autograph=False, reduce_retracing=True)
        return lambda *arguments: self.timed(name, lambda: graph(*arguments))

    def timed(self, name: str, run: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = run()
        self._times.setdefault(name, []).append(1e3 * (time.process_time() - start))
        return result

    def rounds(self, count: int) -> Iterator[int]:
        # A new size of image may make a function be traced again, up to the third.
        for number in range(-3, count):
            if number == 0:
                self._times.clear()
            yield number + 3

    def means(self) -> dict[str, float]:
        return {name: statistics.fmean(times) for name, times in self._times.items()}


def _with_rest(stages: dict[str, float], total: float) -> dict[str, float]:
    return {**stages, "batch, rest": total - sum(stages.values())}


def _label_of(serialized: bytes) -> bytes:
    import tensorflow as tf

    from deeplab2_lite.data.record_format import LABEL_KEY

    return tf.train.Example.FromString(serialized).features.feature[LABEL_KEY].bytes_list.value[0]


def _kilobytes(what: str, ours: list[bytes], usual: list[bytes]) -> tuple[Any, ...]:
    sizes = [sum(map(len, contents)) / len(contents) / 1e3 for contents in (ours, usual)]
    return (what, round(sizes[0], 1), round(sizes[1], 1), round(sizes[1] / sizes[0], 1), "", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of `cityscapes` and `coco`, as they are downloaded")
    parser.add_argument("--runs", type=int, default=3, help="of each of the two, in turn")
    parser.add_argument("--images", type=int, default=16, help="of a run; four times as many of COCO")
    parser.add_argument("--output", type=Path, default=Path("benchmark_input_pipeline.csv"))
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with arguments.output.open("w", newline="") as file, tempfile.TemporaryDirectory() as scratch:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        print(" | ".join(COLUMNS))
        for (name, data_set, *settings), number in zip(CASES, itertools.count()):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            source = arguments.data and arguments.data / data_set
            images = arguments.images * (4 if data_set == "coco" else 1)
            with context.Pool(1, use_one_core) as pool:
                if source and source.is_dir():
                    convert(data_set, source, folder)
                else:
                    pool.apply(draw_records, (data_set, folder))
                rows = pool.apply(measure_case, (name, folder, *settings, images, arguments.runs))
            for row in rows:
                writer.writerow(row)
                print(" | ".join(str(row[column]) for column in COLUMNS), flush=True)
            file.flush()


if __name__ == "__main__":
    sys.exit(main())
