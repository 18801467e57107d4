"""Sections of the HTML report: how images fare, and the worst of them in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.comparison.image_scores import ImageScores
from deeplab2_lite.evaluation.html.charts import histogram, scatter
from deeplab2_lite.evaluation.html.elements import Markup, element, fact_line, number, percent, table
from deeplab2_lite.evaluation.html.error_picture import ERROR_NAMES, error_swatch
from deeplab2_lite.evaluation.html.pictures import Sample, check_sample, draw_panels, encode_picture
from deeplab2_lite.evaluation.html.segment_errors import (
    PixelError,
    SegmentErrors,
    SegmentGroup,
    class_errors,
    segment_errors,
)
from deeplab2_lite.evaluation.html.summary import class_cell, class_label, count_cell, figure_cell
from deeplab2_lite.evaluation.report import EvaluationReport

# All pictures of a report together, before base64 makes a third more of them.
PICTURE_BYTES = 10_500_000
_MOST_PICTURE_BYTES = 200_000
_MOST_ROWS = 50
_MOST_POINTS = 2000


class _Shown(NamedTuple):
    """A sample and what is said of it."""

    sample: Sample
    score: float
    anchor: str


def images_section(report: EvaluationReport, scores: ImageScores, samples: Sequence[Sample]) -> Markup:
    """Returns how the figure spreads over images, and a table of the worst."""
    measure = scores.measure
    known = scores.values[~np.isnan(scores.values)]
    if not known.size:
        return element("p", "No image has a figure of its own.", class_="note")
    spread = [
        f"{name} {percent(float(statistic(known)))}"
        for name, statistic in (("mean", np.mean), ("median", np.median), ("lowest", np.min))
    ]
    label = f"{measure} of images: {', '.join(spread)}"
    charts = [_figure(f"{measure} of single images", spread, histogram(label, known, measure))]
    segments = [0 if c.panoptic is None else int(c.panoptic.tp.sum() + c.panoptic.fn.sum()) for c in report.images]
    if measure == "PQ" and len(report.images) <= _MOST_POINTS:
        titles = [
            f"{c.name}: PQ {percent(v)}, {n} true segments"
            for c, v, n in zip(report.images, scores.values.tolist(), segments, strict=True)
        ]
        label = "PQ of each image against its number of true segments"
        chart = scatter(label, segments, scores.values, titles, "true segments", measure)
        charts.append(_figure("PQ and crowdedness", ["a point for each image"], chart))
    # Should two samples have one name, a link leads to the first.
    anchors = {sample.name: _anchor(i) for i, sample in reversed(list(enumerate(samples)))}
    return element("div", element("div", charts, class_="charts"), _worst_table(report, scores, anchors))


def samples_section(report: EvaluationReport, scores: ImageScores, samples: Sequence[Sample]) -> Markup:
    """Returns the pictures of samples, worst first, with what is wrong in them."""
    by_name = {counts.name: float(value) for counts, value in zip(report.images, scores.values, strict=True)}
    shown = [_Shown(sample, by_name.get(sample.name, np.nan), _anchor(i)) for i, sample in enumerate(samples)]
    shown.sort(key=lambda one: (np.isnan(one.score), one.score))
    panels = sum(3 if sample.image is None else 4 for sample in samples)
    max_bytes = min(_MOST_PICTURE_BYTES, PICTURE_BYTES // max(1, panels))
    is_panoptic = scores.measure == "PQ"
    find = segment_errors if is_panoptic else class_errors
    articles = []
    for one in shown:
        check_sample(one.sample)
        errors = find(one.sample.truth, one.sample.prediction, report.info)
        articles.append(_article(one, errors, scores.measure, report.info, max_bytes))
    return element("div", _legend(is_panoptic), articles)


def _anchor(position: int) -> str:
    """Returns the id of the article about a sample."""
    return f"sample-{position}"


def _worst_table(report: EvaluationReport, scores: ImageScores, anchors: dict[str, str]) -> Markup:
    order = [i for i in scores.worst_first() if not np.isnan(scores.values[i])][:_MOST_ROWS]
    is_panoptic = scores.measure == "PQ"
    kinds = ("TP", "FP", "FN") if is_panoptic else ()
    header = [
        element("th", "image", scope="col", class_="name"),
        *(element("th", name, scope="col") for name in (scores.measure, *kinds)),
    ]
    rows = []
    for i in order:
        counts = report.images[i]
        name = element("a", counts.name, href=f"#{anchors[counts.name]}") if counts.name in anchors else counts.name
        cells = [count_cell(int(getattr(counts.panoptic, kind.lower()).sum())) for kind in kinds]
        head = element("th", name, scope="row", class_="name", title=counts.name)
        rows.append([head, figure_cell(float(scores.values[i])), *cells])
    title = f"The {len(rows)} worst of {len(report.images)} images" if len(rows) < len(report.images) else "All images"
    content = table(title, header, rows, class_="sortable figures compact")
    return element("details", element("summary", title), content, open=len(rows) <= 10)


def _article(one: _Shown, errors: SegmentErrors, measure: str, info: DatasetInfo, max_bytes: int) -> Markup:
    figures = []
    for title, picture in draw_panels(one.sample, errors, info).items():
        encoded = encode_picture(picture, max_bytes)
        size = {"width": str(encoded.width), "height": str(encoded.height)}
        image = element("img", src=encoded.uri, alt=f"{title} of {one.sample.name}", decoding="async", **size)
        figures.append(element("figure", image, element("figcaption", title)))
    heading = element("h3", one.sample.name, element("span", f"{measure} {percent(one.score)}", class_="score"))
    lists = (
        [
            _groups("Missed", errors.missed, "mostly predicted as", info),
            _groups("Spurious", errors.spurious, "mostly lies on", info),
        ]
        if measure == "PQ"
        else [_groups("Wrong pixels", errors.missed, "mostly predicted as", info, segments=False)]
    )
    panels = element("div", figures, class_=f"panels panels{len(figures)}")
    return element("article", heading, panels, element("div", lists, class_="lists"), id=one.anchor, class_="sample")


def _groups(
    title: str, groups: Sequence[SegmentGroup], relation: str, info: DatasetInfo, segments: bool = True
) -> Markup:
    total = sum(group.segments for group in groups)
    heading = element("h4", f"{title}: {total}" if segments else title)
    if not groups:
        return element("div", heading, element("p", "none", class_="note"))
    names = ("segments", "pixels") if segments else ("pixels",)
    header = [
        element("th", "class", scope="col", class_="name"),
        *(element("th", name, scope="col") for name in names),
        element("th", relation, scope="col", class_="name"),
    ]
    rows = []
    for group in groups:
        share = f" ({number(group.other_pixels)} px)"
        counts = [count_cell(getattr(group, name)) for name in names]
        other = element("td", class_label(info, group.other_class), share, class_="name")
        rows.append([class_cell(info, group.class_id, head=True), *counts, other])
    return element("div", heading, table(f"{title} segments by class", header, rows, class_="sortable compact"))


def _legend(is_panoptic: bool) -> Markup:
    flat = (PixelError.MATCHED, PixelError.FALSE_NEGATIVE, PixelError.WRONG_CLASS, PixelError.IGNORED)
    items = []
    for kind, (name, meaning) in ERROR_NAMES.items():
        if is_panoptic or kind in flat:
            swatch = encode_picture(error_swatch(kind), 10_000)
            image = element("img", src=swatch.uri, alt="", width=str(swatch.width), height=str(swatch.height))
            words = meaning if is_panoptic else _FLAT_MEANINGS[kind]
            items.append(element("li", image, element("span", element("b", name), element("small", words))))
    return element("ul", items, class_="legend", aria_label="Colours and patterns of the error pictures")


_FLAT_MEANINGS = {
    PixelError.MATCHED: "the class is right",
    PixelError.FALSE_NEGATIVE: "predicted void",
    PixelError.WRONG_CLASS: "another class is predicted",
    PixelError.IGNORED: "not counted",
}


def _figure(title: str, facts: Sequence[str], chart: Markup) -> Markup:
    caption = element("figcaption", element("b", title), fact_line(facts))
    return element("figure", caption, chart)
