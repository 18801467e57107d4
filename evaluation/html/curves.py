"""Section of the HTML report: precision against recall of scored instances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeplab2_lite.evaluation.html.charts import Curve, line_chart
from deeplab2_lite.evaluation.html.elements import Markup, element, fact_line, percent
from deeplab2_lite.evaluation.html.precision_recall import RECALLS, PrecisionRecall, precision_recall
from deeplab2_lite.evaluation.html.summary import class_label
from deeplab2_lite.evaluation.report import EvaluationReport

# Classes whose curves are shown at once; those of the others are folded away.
_SHOWN = 11
_MARKED_SCORES = np.arange(0.9, 0.0, -0.1)


def curves_section(report: EvaluationReport) -> Markup | None:
    """Returns charts of the classes, the most frequent first; None where no image counts scored instances."""
    counts = [image.instance for image in report.images if image.instance]
    if report.instance is None or not counts:
        return None
    rules = next(iter(counts[0]))
    images = [of_image[rules] for of_image in counts if rules in of_image]
    at_50, at_75 = (precision_recall(images, rules, threshold) for threshold in (0.5, 0.75))
    if not at_50:
        return element("p", "The truth holds no instance: there are no curves.", class_="note")
    order = sorted(range(len(at_50)), key=lambda i: -at_50[i].instances)
    charts = [_chart(report, at_50[i], at_75[i]) for i in order]
    if len(charts) > 1:
        charts.insert(0, _mean_chart(at_50, at_75))
    shown, folded = charts[: _SHOWN + 1], charts[_SHOWN + 1 :]
    rest = None
    if folded:
        title = f"{len(folded)} more classes"
        rest = element("details", element("summary", title), element("div", folded, class_="charts"))
    return element(
        "div",
        element(
            "p",
            f"Instances by the rules of {'COCO' if rules == 'coco' else 'Cityscapes'}. ",
            element("span", class_="key solid", aria_hidden="true"),
            "solid: IoU 0.5, ",
            element("span", class_="key dashed", aria_hidden="true"),
            "dashed: IoU 0.75. Dots mark scores of 0.9, 0.8, ...: at that threshold the detections have this "
            "precision and recall. The classes with the most instances come first.",
            class_="note",
        ),
        element("div", shown, class_="charts"),
        rest or (),
    )


def _chart(report: EvaluationReport, at_50: PrecisionRecall, at_75: PrecisionRecall) -> Markup:
    name = report.info.classes[at_50.class_id].name
    curves = [
        Curve(f"{name}, IoU {iou}: AP {percent(curve.average_precision)}", *_from_zero(curve), style)
        for iou, curve, style in (("0.75", at_75, "second"), ("0.5", at_50, "first"))
    ]
    facts = [
        f"AP50 {percent(at_50.average_precision)}",
        f"AP75 {percent(at_75.average_precision)}",
        "1 instance" if at_50.instances == 1 else f"{at_50.instances:,} instances",
    ]
    best = at_50.best_f1()
    if best is not None and at_50.precision[best] > 0:
        precision, recall = at_50.precision[best], at_50.recall[best]
        f1 = 2 * precision * recall / (precision + recall)
        facts.append(f"best F1 {percent(f1)} at score {at_50.scores[best]:.2f}")
    return _figure(class_label(report.info, at_50.class_id), facts, f"{name}: {', '.join(facts)}", curves, _dots(at_50))


def _mean_chart(at_50: Sequence[PrecisionRecall], at_75: Sequence[PrecisionRecall]) -> Markup:
    curves = []
    facts = []
    for iou, of_classes, style in (("0.75", at_75, "second"), ("0.5", at_50, "first")):
        mean = np.mean([curve.interpolated() for curve in of_classes], axis=0)
        figure = float(np.mean([curve.average_precision for curve in of_classes]))
        curves.append(Curve(f"mean, IoU {iou}: AP {percent(figure)}", RECALLS, mean, style))
        facts.insert(0, f"AP{iou[2:].ljust(2, '0')} {percent(figure)}")
    facts.append("mean over classes, interpolated")
    title = f"all {len(at_50)} classes"
    return _figure(element("span", title, class_="class"), facts, f"{title}: {', '.join(facts)}", curves, [])


def _figure(
    title: Markup, facts: Sequence[str], label: str, curves: Sequence[Curve], dots: Sequence[tuple[float, float, str]]
) -> Markup:
    chart = line_chart(f"Precision against recall. {label}", curves, dots, "recall", "precision")
    caption = element("figcaption", element("b", title), fact_line(facts))
    return element("figure", caption, chart)


def _from_zero(curve: PrecisionRecall) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and precision, with the first precision held back to recall 0."""
    first = curve.precision[:1]
    return np.append(0 * first, curve.recall), np.append(first, curve.precision)


def _dots(curve: PrecisionRecall) -> list[tuple[float, float, str]]:
    """Marks the points at round scores; a score that no detection more reaches than the last has no dot."""
    dots = []
    last = -1
    for score in _MARKED_SCORES.round(1):
        # Scores descend: the last point that is at least this score.
        point = int(np.searchsorted(-curve.scores, -score, side="right")) - 1
        if point <= last:
            continue
        last = point
        precision, recall = float(curve.precision[point]), float(curve.recall[point])
        title = f"score {score:.1f} and above: precision {percent(precision)}, recall {percent(recall)}"
        dots.append((recall, precision, title))
    return dots
