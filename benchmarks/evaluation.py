"""Times the evaluation of PNG files against cityscapesScripts, on the same files: python benchmarks/evaluation.py

Truths are drawn, or with --data those of the folder `cityscapes` in it; predictions are drawn over them. Files are
written as Pillow writes them, which is what panopticapi and cityscapesScripts do. PQ alone is timed, and PQ with IoU
and iIoU of classes and categories, for which cityscapesScripts has two scripts that read files of their own. All take
turns, piece by piece, so that they see the same noise of the machine; cityscapesScripts sees --official images. Fails
unless PQ is equal. Writes a row each to the terminal, and all of them to a CSV file.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from labels import cityscapes_labels, draw_label
from PIL import Image

from deeplab2_lite.dataset_info import DatasetInfo, load_dataset_info
from deeplab2_lite.evaluation import PanopticQuality
from deeplab2_lite.evaluation.evaluate import Evaluation
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts
from deeplab2_lite.evaluation.metrics.panoptic_quality import PanopticCounts, match_segments
from deeplab2_lite.evaluation.report import EvaluationReport
from deeplab2_lite.evaluation.sources.panoptic_files import PanopticFolder, load_overlaps
from deeplab2_lite.processes import map_in_order

HEIGHT, WIDTH = 1024, 2048
PIECES = 5
COLUMNS = ("figures", "evaluator", "processes", "images", "images_per_second", "times_official", "cpu_ms")
PQ, ALL = "PQ", "PQ, IoU, iIoU"
_OFFICIAL = "cityscapesScripts"


Key = tuple[str, str, int]  # figures, evaluator, processes


class Files(NamedTuple):
    """Truths and predictions; images share PNGs, so that few are written."""

    folder: Path
    truth: dict[str, Any]
    prediction: dict[str, Any]


class Seconds(NamedTuple):
    """Of wall clock and of this process, for each piece of the images."""

    wall: list[float]
    cpu: list[float]


def draw_prediction(truth: np.ndarray, info: DatasetInfo, generator: np.random.Generator) -> np.ndarray:
    """Wavy outlines; some instances missed, joined, taken for another class or made up; void called something."""
    height, width = truth.shape
    y, x = np.ogrid[:height, :width]
    phase = generator.uniform(0, 2 * np.pi, 4)
    rows = y + np.rint(3 * np.sin(x / 23 + phase[0]) + 3 * np.sin(y / 31 + phase[1])).astype(int)
    columns = x + np.rint(3 * np.sin(y / 19 + phase[2]) + 3 * np.sin(x / 37 + phase[3])).astype(int)
    prediction = truth[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    ids, inverse = np.unique(prediction, return_inverse=True)
    changed = ids.copy()
    for position, panoptic_id in enumerate(ids.tolist()):
        class_id, instance = divmod(panoptic_id, info.label_divisor)
        kind = generator.random()
        if class_id not in info.thing_ids:
            changed[position] = panoptic_id if class_id != info.ignore_label else 0
        elif instance == 0 or kind < 0.1:
            changed[position] = info.stuff_ids[2] * info.label_divisor
        elif kind < 0.2:
            changed[position] = generator.choice(info.thing_ids) * info.label_divisor + 500 + instance
        elif kind < 0.3:
            changed[position] = class_id * info.label_divisor + 1
    prediction = changed[inverse].reshape(truth.shape).astype(np.int32)
    for number in range(10):
        top, left = generator.integers(0, height - 40), generator.integers(0, width - 60)
        size = generator.integers(8, 60, 2)
        class_id = generator.choice(info.thing_ids)
        prediction[top : top + size[0], left : left + size[1]] = class_id * info.label_divisor + 900 + number
    return prediction


def write_files(folder: Path, truths: Sequence[np.ndarray], images: int, info: DatasetInfo) -> Files:
    """Writes a PNG for each truth and its prediction, and JSONs of so many images that take turns with them."""
    generator = np.random.default_rng(0)
    contents = []
    for kind in ("truth", "prediction"):
        (folder / kind).mkdir(parents=True)
        annotations = []
        for number, truth in enumerate(truths):
            panoptic = truth if kind == "truth" else draw_prediction(truth, info, generator)
            annotations.append(_write_png(folder / kind / f"{number}.png", panoptic, info))
            _write_cityscapes(folder / f"{kind}_{number}", panoptic, info)
        categories = [
            {"id": c.original_id, "name": c.name, "isthing": int(c.isthing), "supercategory": c.category}
            for c in info.classes
        ]
        turns = [{"image_id": f"{i}", **annotations[i % len(annotations)]} for i in range(images)]
        contents.append({"annotations": turns, "categories": categories})
        (folder / f"{kind}.json").write_text(json.dumps(contents[-1]))
    return Files(folder, *contents)


def _write_png(path: Path, panoptic: np.ndarray, info: DatasetInfo) -> dict[str, Any]:
    ids = np.where(panoptic == info.void_id, 0, panoptic + 1)  # void is 0 in files
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(path)
    segments = []
    for value, area in zip(*np.unique(ids[ids > 0], return_counts=True), strict=True):
        class_id, instance = divmod(int(value) - 1, info.label_divisor)
        is_crowd = int(info.classes[class_id].isthing and instance == 0)
        category = info.classes[class_id].original_id
        segments.append({"id": int(value), "category_id": category, "area": int(area), "iscrowd": is_crowd})
    return {"file_name": path.name, "segments_info": segments}


def _write_cityscapes(prefix: Path, panoptic: np.ndarray, info: DatasetInfo) -> None:
    """Writes the `labelIds` and `instanceIds` that the pixel-level script reads."""
    original = np.array([*(c.original_id for c in info.classes), 0])
    labels = original[np.minimum(panoptic // info.label_divisor, info.num_classes)]
    instance = panoptic % info.label_divisor
    Image.fromarray(labels.astype(np.uint8)).save(f"{prefix}_labelIds.png")
    values = np.where((panoptic != info.void_id) & (instance > 0), labels * 1000 + instance - 1, labels)
    Image.fromarray(values.astype(np.uint16)).save(f"{prefix}_instanceIds.png")


def official_pixels(files: Files, begin: int, end: int) -> None:
    """Counts for IoU and iIoU in consecutive images."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    if not hasattr(np, "in1d"):  # the script asks for what NumPy 2.4 took away
        np.in1d = lambda first, second: np.isin(first, second).ravel()
    numbers = [Path(a["file_name"]).stem for a in files.truth["annotations"][begin:end]]
    truths, predictions = (
        [str(files.folder / f"{kind}_{number}_labelIds.png") for number in numbers] for kind in ("truth", "prediction")
    )
    arguments = script.CArgs()
    arguments.__dict__.update(script.args.__dict__, quiet=True, JSONOutput=False)
    script.evaluateImgLists(predictions, truths, arguments)


def official_counts(files: Files, begin: int, end: int) -> dict[int, list[float]]:
    """Returns true positives, false ones, false negatives and sum of IoUs by category id, of consecutive images."""
    from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as script

    pairs = list(zip(files.truth["annotations"], files.prediction["annotations"], strict=True))[begin:end]
    categories = {category["id"]: category for category in files.truth["categories"]}
    folders = str(files.folder / "truth"), str(files.folder / "prediction")
    with contextlib.redirect_stdout(io.StringIO()):
        found = script.pq_compute_single_core(0, pairs, *folders, categories)
    return {i: [c.tp, c.fp, c.fn, c.iou] for i, c in found.pq_per_cat.items()}


def our_counts(files: Files, info: DatasetInfo, begin: int, end: int, processes: int) -> PanopticQuality:
    """Returns the quality of consecutive images."""
    folders, metric = _folders(files, info), PanopticQuality(info)
    function = functools.partial(_count_pair, info, *folders)
    for counts in map_in_order(function, folders[0].names[begin:end], processes, "evaluation"):
        metric.add(counts)
    return metric


def _count_pair(info: DatasetInfo, truth: PanopticFolder, prediction: PanopticFolder, name: str) -> PanopticCounts:
    return match_segments(load_overlaps(truth, prediction, name), info)


def our_report(files: Files, info: DatasetInfo, begin: int, end: int, processes: int) -> EvaluationReport:
    """Returns all figures of consecutive images that panoptic maps have."""
    folders, evaluation = _folders(files, info), Evaluation(info)
    function = functools.partial(_count_all, evaluation, *folders)
    for counts in map_in_order(function, folders[0].names[begin:end], processes, "evaluation"):
        evaluation.add(counts)
    return evaluation.report(0)


def _folders(files: Files, info: DatasetInfo) -> list[PanopticFolder]:
    return [
        PanopticFolder(files.folder / f"{kind}.json", files.folder / kind, info, is_prediction=kind == "prediction")
        for kind in ("truth", "prediction")
    ]


def _count_all(evaluation: Evaluation, truth: PanopticFolder, prediction: PanopticFolder, name: str) -> ImageCounts:
    return evaluation.count_overlaps(load_overlaps(truth, prediction, name), name)


def decode(files: Files, begin: int, end: int) -> None:
    """Decodes the PNGs, which no evaluator that reads files by Pillow can do without."""
    for content, kind in ((files.truth, "truth"), (files.prediction, "prediction")):
        for annotation in content["annotations"][begin:end]:
            with Image.open(files.folder / kind / annotation["file_name"]) as image:
                image.load()


def check_equal(files: Files, info: DatasetInfo, images: int) -> None:
    """Raises unless both evaluators count the same in the first images."""
    expected, result = official_counts(files, 0, images), our_counts(files, info, 0, images, 1).result()
    for class_id, c in enumerate(info.classes):
        ours = [getattr(result, key)[class_id] for key in ("tp", "fp", "fn", "iou_sum")]
        np.testing.assert_allclose(ours, expected.get(c.original_id, [0, 0, 0, 0.0]), rtol=0, atol=1e-9)
    if not 0.1 < result.pq < 0.95:
        raise ValueError(f"PQ {result.pq}: expected predictions that are neither right nor wrong")


def in_turn(runs: dict[Key, Callable[[int, int], Any]], images: dict[Key, int]) -> dict[Key, Seconds]:
    """Runs every function on its images, piece by piece, all functions on one piece before the next."""
    found = {name: Seconds([], []) for name in runs}
    for piece in range(PIECES):
        for name, run in runs.items():
            begin, end = (images[name] * position // PIECES for position in (piece, piece + 1))
            wall, cpu = time.perf_counter(), time.process_time()
            run(begin, end)
            found[name].wall.append((time.perf_counter() - wall) / (end - begin))
            found[name].cpu.append((time.process_time() - cpu) / (end - begin))
    return found


def measure(
    files: Files, info: DatasetInfo, images: int, official: int, processes: Sequence[int]
) -> list[dict[str, Any]]:
    """Returns a row for each evaluator and kind of figures, after checking that they agree."""
    check_equal(files, info, min(official, 10))
    ours = {PQ: our_counts, ALL: our_report}

    def all_official(begin: int, end: int) -> None:
        official_counts(files, begin, end)
        official_pixels(files, begin, end)

    runs = {
        (PQ, _OFFICIAL, 1): functools.partial(official_counts, files),
        (PQ, "decoding alone", 1): functools.partial(decode, files),
        (ALL, _OFFICIAL, 1): all_official,
        **{(f, "deeplab2_lite", 1): lambda b, e, run=run: run(files, info, b, e, 1) for f, run in ours.items()},
    }
    numbers = {key: images if key[1] == "deeplab2_lite" else official for key in runs}
    seconds = in_turn(runs, numbers)
    # Processes take a moment to start, so they get all images at once, as in the command.
    for figures, run in ours.items():
        for count in processes:
            wall = time.perf_counter()
            run(files, info, 0, images, count)
            key = (figures, "deeplab2_lite", count)
            seconds[key] = Seconds([(time.perf_counter() - wall) / images] * PIECES, [float("nan")])
            numbers[key] = images
    return [_row(key, seconds[key], seconds[key[0], _OFFICIAL, 1], numbers[key]) for key in sorted(seconds)]


def _row(key: Key, ours: Seconds, theirs: Seconds, images: int) -> dict[str, Any]:
    ratios = [official / own for official, own in zip(theirs.wall, ours.wall, strict=True)]
    return {
        "figures": key[0],
        "evaluator": key[1],
        "processes": key[2],
        "images": images,
        "images_per_second": round(1 / statistics.median(ours.wall), 2),
        "times_official": round(statistics.median(ratios), 2),
        "cpu_ms": round(1e3 * statistics.median(ours.cpu), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500, help="that deeplab2_lite evaluates")
    parser.add_argument("--official", type=int, default=50, help="that cityscapesScripts evaluates")
    parser.add_argument("--distinct", type=int, default=20, help="truths and predictions that images take turns with")
    parser.add_argument("--instances", type=int, default=60, help="of 8 classes of things, in a drawn truth")
    parser.add_argument("--processes", type=int, nargs="+", default=[2], help="besides 1")
    parser.add_argument("--data", type=Path, help="take the truths of the folder `cityscapes` in it")
    parser.add_argument("--output", type=Path, default=Path("evaluation.csv"))
    arguments = parser.parse_args()
    info = load_dataset_info("cityscapes")
    if arguments.data is None:
        truths = [draw_label(info, HEIGHT, WIDTH, arguments.instances, seed) for seed in range(arguments.distinct)]
    else:
        truths = [label[:HEIGHT, :WIDTH] for label in cityscapes_labels(arguments.data / "cityscapes", info)]
        truths = truths[-arguments.distinct :]
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), truths, arguments.images, info)
        sizes = [path.stat().st_size for path in Path(folder).glob("*/*.png")]
        segments = [len(annotation["segments_info"]) for annotation in files.prediction["annotations"]]
        print(
            f"{len(truths)} truths and predictions of {HEIGHT}x{WIDTH}: {statistics.mean(segments):.0f} predicted "
            f"segments an image, {statistics.mean(sizes) / 1e3:.0f} kB a map"
        )
        rows = measure(files, info, arguments.images, arguments.official, arguments.processes)
    for row in rows:
        print("  ".join(f"{key} {row[key]}" for key in COLUMNS))
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
