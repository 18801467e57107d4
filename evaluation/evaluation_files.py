"""What an evaluation leaves in its folder beside the figures: the counts of each image, for all that comes later."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.comparison.count_table import CountTable
from deeplab2_lite.evaluation.comparison.image_scores import image_scores
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts
from deeplab2_lite.evaluation.report import EvaluationReport
from deeplab2_lite.files import write_text_atomically

METRICS_FILE = "metrics.json"
IMAGES_FILE = "images.jsonl"
# Not `dataset_info.yaml`, which belongs to records and may lie in the folder that a user names.
LABEL_SPACE_FILE = "label_space.yaml"
IMAGES_TABLE_FILE = "images.csv"

_TABLE_FIGURES = {
    "PQ": "panoptic_quality/All/PQ",
    "SQ": "panoptic_quality/All/SQ",
    "RQ": "panoptic_quality/All/RQ",
    "boundary PQ": "boundary_panoptic_quality/All/PQ",
    "detection AP50": "detection/AP50",
    "mIoU": "semantic/mIoU",
    "boundary mIoU": "semantic/boundary_mIoU",
    "pixel accuracy": "semantic/pixel_accuracy",
}


def write_images(report: EvaluationReport, folder: str | Path) -> list[Path]:
    """Writes `images.jsonl` with `label_space.yaml`, for `read_evaluation`, and `images.csv`, for people.

    Args:
        report: The figures with their images.
        folder: An existing folder.

    Returns:
        The paths of `images.jsonl` and `images.csv`. The first has a line for each image, the latter a row for
        each, the worst first: its own figures in 0..1 and its matched, spurious and missed segments.
    """
    folder = Path(folder)
    write_text_atomically(folder / LABEL_SPACE_FILE, yaml.safe_dump(report.info.to_dict(), sort_keys=False))
    lines = "".join(json.dumps(counts.to_json()) + "\n" for counts in report.images)
    return [
        write_text_atomically(folder / IMAGES_FILE, lines),
        write_text_atomically(folder / IMAGES_TABLE_FILE, _table(report)),
    ]


def read_evaluation(path: str | Path) -> EvaluationReport:
    """Reads an evaluation for a comparison.

    Args:
        path: The folder that `deeplab2-lite evaluate` wrote, or a model folder that holds it as `evaluation/`.

    Returns:
        Label space, step and counts; the figures themselves are not made again.

    Raises:
        UserError: There is no evaluation, or it is damaged.
    """
    folder = Path(path)
    if not (folder / IMAGES_FILE).is_file() and (folder / "evaluation" / IMAGES_FILE).is_file():
        folder = folder / "evaluation"
    for name in (METRICS_FILE, LABEL_SPACE_FILE, IMAGES_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{path}: no {name} here; expected a folder that 'deeplab2-lite evaluate' wrote")
    info = load_dataset_info(folder / LABEL_SPACE_FILE)
    step = _json(folder / METRICS_FILE, (folder / METRICS_FILE).read_text(encoding="utf-8"))["step"]
    images = []
    for number, line in enumerate((folder / IMAGES_FILE).read_text(encoding="utf-8").splitlines(), 1):
        where = f"{folder / IMAGES_FILE} line {number}"
        content = _json(where, line)
        try:
            images.append(ImageCounts.from_json(content, info.num_classes))
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise UserError(f"{where}: no counts of an image ({error!r})") from None
    return EvaluationReport(info, step, len(images), images=tuple(images))


def _json(where: str | Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None


def _table(report: EvaluationReport) -> str:
    table = CountTable.of(report.images, report.info)
    figures = table.figures().overall
    columns = {name: figures[tag] for name, tag in _TABLE_FIGURES.items() if tag in figures}
    for name, kind in (("TP", "tp"), ("FP", "fp"), ("FN", "fn")):
        if "panoptic" in table.columns:
            columns[name] = table.columns["panoptic"][kind].sum(axis=1).astype(np.int64)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *columns])
    for i in image_scores(report).worst_first():
        values = [column[i].item() for column in columns.values()]
        writer.writerow([report.images[i].name, *("" if math.isnan(value) else value for value in values)])
    return text.getvalue()
