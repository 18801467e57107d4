"""What an evaluation found, as a table for the terminal, as JSON, as CSV and as TensorBoard scalars."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.boundary_iou import BoundaryIoUResult
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts
from deeplab2_lite.evaluation.metrics.instance_ap import InstanceAPResult
from deeplab2_lite.evaluation.metrics.instance_iou import InstanceIoUResult
from deeplab2_lite.evaluation.metrics.mean_iou import MeanIoUResult
from deeplab2_lite.evaluation.metrics.panoptic_quality import PanopticQualityResult, QualityAverage
from deeplab2_lite.evaluation.text_table import aligned
from deeplab2_lite.files import write_text_atomically


@dataclass(frozen=True)
class EvaluationReport:
    """The results of one evaluation. A metric that does not apply to the model is None.

    Attributes:
        info: The label space; its name is the data set's.
        step: Training step of the weights; None where no single one is known.
        num_images: Images evaluated.
        panoptic: Panoptic quality.
        semantic: Mean IoU.
        instance: Instance AP.
        extra: Further figures by name, such as losses or seconds per image.
        images: What each image counts, in order.
        boundary: Boundary panoptic quality.
        boundary_iou: Boundary IoU of classes.
        instance_iou: Cityscapes' iIoU.
    """

    info: DatasetInfo
    step: int | None
    num_images: int
    panoptic: PanopticQualityResult | None = None
    semantic: MeanIoUResult | None = None
    instance: InstanceAPResult | None = None
    extra: Mapping[str, float] = field(default_factory=dict)
    images: tuple[ImageCounts, ...] = ()
    boundary: PanopticQualityResult | None = None
    boundary_iou: BoundaryIoUResult | None = None
    instance_iou: InstanceIoUResult | None = None


def scalars(report: EvaluationReport) -> dict[str, float]:
    """Returns the figures of the whole data set by TensorBoard tag, such as "panoptic_quality/All/PQ".

    Args:
        report: The results.

    Returns:
        Fractions in 0..1 (and `extra` as it is); figures that do not exist (NaN) are left out.
    """
    return {tag: value for tag, value in _figures(report).items() if not math.isnan(value)}


def per_class_rows(report: EvaluationReport) -> list[dict[str, int | float | str | bool]]:
    """Returns one row of figures for each class.

    Args:
        report: The results.

    Returns:
        Rows in order of class id with `id`, `name`, `isthing`, then `PQ SQ RQ TP FP FN`, `boundary PQ`, `IoU`,
        `iIoU`, `boundary IoU` and `AP AP50` where those metrics are there; fractions in 0..1, NaN where a class does
        not occur.
    """
    rows = []
    for i, c in enumerate(report.info.classes):
        row: dict[str, int | float | str | bool] = {"id": i, "name": c.name, "isthing": c.isthing}
        if report.panoptic is not None:
            for key in ("pq", "sq", "rq"):
                row[key.upper()] = float(getattr(report.panoptic, f"per_class_{key}")[i])
            for key in ("tp", "fp", "fn"):
                row[key.upper()] = int(getattr(report.panoptic, key)[i])
        if report.boundary is not None:
            row["boundary PQ"] = float(report.boundary.per_class_pq[i])
        for key, result in (
            ("IoU", report.semantic),
            ("iIoU", report.instance_iou),
            ("boundary IoU", report.boundary_iou),
        ):
            if result is not None:
                row[key] = float(result.per_class_iou[i])
        if report.instance is not None:
            row["AP"] = float(report.instance.per_class_ap[i])
            row["AP50"] = float(report.instance.per_class_ap50[i])
        rows.append(row)
    return rows


def per_category_rows(report: EvaluationReport) -> list[dict[str, float | str]]:
    """Returns one row of figures for each category of classes.

    Args:
        report: The results.

    Returns:
        Rows with `name`, `IoU` and, where it is there, `iIoU`, fractions in 0..1, NaN where a category does not occur;
        none where the label space has not at least two categories.
    """
    if report.semantic is None or not _has_categories(report):
        return []
    rows = []
    for i, category in enumerate(report.info.categories):
        row: dict[str, float | str] = {"name": category, "IoU": float(report.semantic.per_category_iou[i])}
        if report.instance_iou is not None:
            row["iIoU"] = float(report.instance_iou.per_category_iou[i])
        rows.append(row)
    return rows


def format_table(report: EvaluationReport) -> str:
    """Returns the results as text for the terminal, in percent with one decimal.

    Args:
        report: The results.

    Returns:
        A heading, averages, and a row for each category and class; "-" stands where a figure does not exist.
    """
    images = "1 image" if report.num_images == 1 else f"{report.num_images} images"
    parts = [f"{report.info.name}: {images}" + ("" if report.step is None else f", step {report.step}")]
    for title, result in (("", report.panoptic), ("boundary", report.boundary)):
        if result is not None:
            summary = [
                [name, *(_percent(v) for v in (average.pq, average.sq, average.rq)), str(average.num_classes)]
                for name, average in _averages(result)
            ]
            parts.append(aligned([[title, "PQ", "SQ", "RQ", "classes"], *summary]))
    figures = _summary_line(report)
    if figures:
        parts.append("   ".join(f"{name} {_percent(value)}" for name, value in figures.items()))
    if report.extra:
        parts.append("   ".join(f"{name} {value:.6g}" for name, value in report.extra.items()))
    for title, rows in (("category", per_category_rows(report)), ("class", per_class_rows(report))):
        columns = [key for key in (rows[0] if rows else ()) if key not in ("id", "isthing")]
        if len(columns) > 1:
            header = [title if key == "name" else key for key in columns]
            body = [[_cell(row[key]) for key in columns] for row in rows]
            parts.append(aligned([header, *body]))
    return "\n\n".join(parts) + "\n"


def write_json(report: EvaluationReport, path: str | Path) -> Path:
    """Writes all figures as one flat JSON object, whole or not at all.

    Args:
        report: The results.
        path: The file, such as `metrics.json`; its folder must exist.

    Returns:
        The path. Fractions are in 0..1; a figure that does not exist is null.
    """
    content: dict[str, int | float | str | None] = {
        "dataset": report.info.name,
        "step": report.step,
        "num_images": int(report.num_images),
    }
    content.update(_figures(report))
    names = Counter(report.info.class_names)
    for row in per_class_rows(report):
        # Two classes may bear one name: their ids tell them apart.
        name = row["name"] if names[row["name"]] == 1 else f"{row['name']}#{row['id']}"
        content.update({f"class/{name}/{key}": v for key, v in row.items() if key not in ("id", "name", "isthing")})
    for row in per_category_rows(report):
        content.update({f"category/{row['name']}/{key}": value for key, value in row.items() if key != "name"})
    strict = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in content.items()
    }
    return write_text_atomically(path, json.dumps(strict, indent=2, allow_nan=False) + "\n")


def write_csv(report: EvaluationReport, path: str | Path) -> Path:
    """Writes the figures of each class as CSV, whole or not at all.

    Args:
        report: The results.
        path: The file, such as `metrics.csv`; its folder must exist.

    Returns:
        The path. Columns are those of `per_class_rows`; a figure that does not exist is left empty.
    """
    rows = per_class_rows(report)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()})
    return write_text_atomically(path, text.getvalue())


def _figures(report: EvaluationReport) -> dict[str, float]:
    values: dict[str, float] = {}
    for tag, result in (("panoptic_quality", report.panoptic), ("boundary_panoptic_quality", report.boundary)):
        if result is not None:
            for name, average in _averages(result):
                for key in ("pq", "sq", "rq"):
                    values[f"{tag}/{name}/{key.upper()}"] = getattr(average, key)
    if report.panoptic is not None:
        values["detection/AP50"] = report.panoptic.detection_ap50()
    values.update({f"semantic/{name.replace(' ', '_')}": value for name, value in _semantic_figures(report).items()})
    if report.instance is not None:
        values.update({f"instance/{key}": v for key, v in _average_precisions(report.instance).items()})
    values.update({name: float(value) for name, value in report.extra.items()})
    return values


def _semantic_figures(report: EvaluationReport) -> dict[str, float]:
    figures: dict[str, float] = {}
    if report.semantic is not None:
        figures["mIoU"] = report.semantic.mean_iou
        figures["pixel accuracy"] = report.semantic.pixel_accuracy
        if _has_categories(report):
            figures["category mIoU"] = report.semantic.mean_category_iou
    if report.instance_iou is not None:
        figures["iIoU"] = report.instance_iou.mean_iou
        if _has_categories(report):
            figures["category iIoU"] = report.instance_iou.mean_category_iou
    if report.boundary_iou is not None:
        figures["boundary mIoU"] = report.boundary_iou.mean_iou
    return figures


def _has_categories(report: EvaluationReport) -> bool:
    return len(report.info.categories) > 1


def _averages(result: PanopticQualityResult) -> list[tuple[str, QualityAverage]]:
    return [("All", result.all), ("Things", result.things), ("Stuff", result.stuff)]


def _average_precisions(result: InstanceAPResult) -> dict[str, float]:
    return {
        "AP": result.ap,
        "AP50": result.ap50,
        "AP75": result.ap75,
        "AP_small": result.ap_small,
        "AP_medium": result.ap_medium,
        "AP_large": result.ap_large,
    }


def _summary_line(report: EvaluationReport) -> dict[str, float]:
    figures = _semantic_figures(report)
    if report.instance is not None:
        figures.update({k: v for k, v in _average_precisions(report.instance).items() if not math.isnan(v)})
    if report.panoptic is not None:
        figures["detection AP50"] = report.panoptic.detection_ap50()
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _cell(value: int | float | str | bool) -> str:
    return _percent(value) if isinstance(value, float) else str(value)
