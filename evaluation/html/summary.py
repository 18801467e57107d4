"""Sections of the HTML report: the figures of the whole data set, and those of each class."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.evaluation.html.elements import Markup, element, number, percent, table
from deeplab2_lite.evaluation.report import EvaluationReport, per_category_rows, per_class_rows, scalars

_QUALITY = re.compile(r"(.+)/(All|Things|Stuff)/(PQ|SQ|RQ)")
LONG_NAMES = {
    "panoptic_quality": "Panoptic quality",
    "boundary_panoptic_quality": "Boundary panoptic quality",
    "semantic/mIoU": "mIoU",
    "semantic/pixel_accuracy": "Pixel accuracy",
    "semantic/category_mIoU": "Category mIoU",
    "semantic/iIoU": "iIoU",
    "semantic/category_iIoU": "Category iIoU",
    "semantic/boundary_mIoU": "Boundary mIoU",
    "detection/AP50": "Detection AP50",
    "instance/AP": "AP",
    "instance/AP50": "AP50",
    "instance/AP75": "AP75",
    "instance/AP_small": "AP small",
    "instance/AP_medium": "AP medium",
    "instance/AP_large": "AP large",
}
_MEANINGS = {
    "PQ": "Panoptic quality: SQ times RQ",
    "SQ": "Segmentation quality: mean IoU of matched segments",
    "RQ": "Recognition quality: F1 score of segments at IoU above 0.5",
    "TP": "Matched segments",
    "FP": "Predicted segments without a match",
    "FN": "True segments without a match",
    "IoU": "Intersection over union of the class's pixels",
    "mIoU": "Mean IoU of the classes that occur",
    "Pixel accuracy": "Share of labelled pixels whose class is right",
    "Detection AP50": "TP / (TP + FP + FN) of all things at IoU above 0.5, pooled over the data set",
    "AP": "Average precision of instances, mean over IoU 0.5 to 0.95",
    "AP50": "Average precision of instances at IoU 0.5",
    "AP75": "Average precision of instances at IoU 0.75",
    "AP small": "AP of instances of fewer than 32 x 32 pixels",
    "AP medium": "AP of instances of 32 x 32 to 96 x 96 pixels",
    "AP large": "AP of instances of more than 96 x 96 pixels",
    "iIoU": "IoU in which small instances weigh as much as large ones (Cityscapes)",
    "boundary PQ": "Panoptic quality with the IoU of bands along the borders, where that is smaller",
    "boundary IoU": "Intersection over union of bands along the borders",
}


def figure_cell(value: float) -> Markup:
    """Returns a table cell of a fraction, in percent, with a bar behind it."""
    if math.isnan(value):
        return element("td", percent(value), class_="none")
    return element("td", percent(value), data_v=f"{value:.6f}", style=f"--w:{100 * min(max(value, 0), 1):.1f}%")


def count_cell(value: int) -> Markup:
    """Returns a table cell of a count."""
    return element("td", number(int(value)), data_v=str(int(value)))


def class_cell(info: DatasetInfo, class_id: int | None, head: bool = False) -> Markup:
    """Returns a table cell of a class's name beside its colour; None is void."""
    return element("th" if head else "td", class_label(info, class_id), class_="name", scope="row" if head else None)


def class_label(info: DatasetInfo, class_id: int | None) -> Markup:
    """Returns a class's name beside its colour; None is void."""
    c = ClassInfo("void", False, (0, 0, 0), -1) if class_id is None else info.classes[class_id]
    swatch = element("i", class_="swatch", style=f"background:rgb({','.join(map(str, c.color))})", aria_hidden="true")
    return element("span", swatch, c.name, class_="class")


def column(name: str, **attributes: str) -> Markup:
    """Returns the head of a column, with the meaning of its name where that is known."""
    meaning = _MEANINGS.get(name)
    content = element("abbr", name, title=meaning) if meaning else name
    return element("th", content, scope="col", **attributes)


def summary_section(report: EvaluationReport) -> Markup:
    """Returns the figures of the whole data set as cards."""
    figures = {tag: value for tag, value in scalars(report).items() if tag not in report.extra}
    # These have a card even if they hold no number at all.
    measured = {"panoptic_quality": report.panoptic, "boundary_panoptic_quality": report.boundary}
    qualities: dict[str, dict[tuple[str, str], float]] = {
        name: {} for name, result in measured.items() if result is not None
    }
    singles: dict[str, float] = {}
    for tag, value in figures.items():
        found = _QUALITY.fullmatch(tag)
        if found:
            qualities.setdefault(found[1], {})[found[2], found[3]] = value
        else:
            singles[tag] = value
    cards = [_quality_card(LONG_NAMES.get(name, words(name)), values) for name, values in qualities.items()]
    small = [_card(LONG_NAMES.get(tag, words(tag)), percent(value)) for tag, value in singles.items()]
    small += [_card(name, number(float(value))) for name, value in report.extra.items()]
    if not cards and not small:
        return element("p", "Nothing was measured.", class_="note")
    return element("div", cards, element("dl", small, class_="cards"), class_="summary")


def class_section(report: EvaluationReport) -> Markup:
    """Returns the table of classes."""
    rows = per_class_rows(report)
    names = [key for key in rows[0] if key not in ("id", "name", "isthing")]
    header = [
        element("th", "#", scope="col", class_="id"),
        element("th", "class", scope="col", class_="name"),
        element("th", "kind", scope="col", class_="kind"),
        *(column(name) for name in names),
    ]
    body = []
    for row in rows:
        kind = "thing" if row["isthing"] else "stuff"
        cells = [figure_cell(row[name]) if isinstance(row[name], float) else count_cell(row[name]) for name in names]
        label = class_cell(report.info, row["id"], head=True)
        body.append([element("td", str(row["id"]), class_="id"), label, element("td", kind, class_="kind"), *cells])
    classes = table("Figures of each class, in percent", header, body, class_="sortable figures")
    return element("div", classes, _categories(report))


def _categories(report: EvaluationReport) -> list[Markup]:
    rows = per_category_rows(report)
    if not rows:
        return []
    names = [key for key in rows[0] if key != "name"]
    header = [element("th", "category", scope="col", class_="name"), *(column(name) for name in names)]
    body = [
        [element("th", row["name"], scope="row", class_="name"), *(figure_cell(row[name]) for name in names)]
        for row in rows
    ]
    content = table("Figures of each category, in percent", header, body, class_="sortable figures")
    return [element("h3", "Categories"), content]


def _quality_card(title: str, values: Mapping[tuple[str, str], float]) -> Markup:
    columns = ("PQ", "SQ", "RQ")
    rows = []
    for group in ("All", "Things", "Stuff"):
        cells = [element("td", percent(values.get((group, name), math.nan))) for name in columns]
        rows.append(element("tr", element("th", group, scope="row"), cells))
    header = element("tr", element("td"), [column(name) for name in columns])
    content = (element("caption", title), element("thead", header), element("tbody", rows))
    return element("div", element("table", content, class_="quality"), class_="quality-card")


def _card(name: str, value: str) -> Markup:
    meaning = _MEANINGS.get(name)
    return element(
        "div", element("dt", element("abbr", name, title=meaning) if meaning else name), element("dd", value)
    )


def words(tag: str) -> str:
    """Returns the tag of a figure as words."""
    return tag.replace("_", " ").replace("/", " ")
