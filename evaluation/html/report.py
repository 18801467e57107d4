"""One self-contained HTML page of an evaluation: figures, curves, confusions, and the worst images in pictures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from deeplab2_lite.evaluation.comparison.differences import Comparison
from deeplab2_lite.evaluation.comparison.image_scores import image_scores
from deeplab2_lite.evaluation.html.comparison import comparison_section
from deeplab2_lite.evaluation.html.confusion import confusion_section
from deeplab2_lite.evaluation.html.curves import curves_section
from deeplab2_lite.evaluation.html.elements import Markup, element
from deeplab2_lite.evaluation.html.images import images_section, samples_section
from deeplab2_lite.evaluation.html.pictures import Sample
from deeplab2_lite.evaluation.html.summary import class_section, summary_section
from deeplab2_lite.evaluation.report import EvaluationReport
from deeplab2_lite.files import write_text_atomically

__all__ = ["Sample", "write_html_report"]


def write_html_report(
    report: EvaluationReport,
    path: str | Path,
    *,
    samples: Sequence[Sample] = (),
    comparison: Comparison | None = None,
) -> Path:
    """Writes a report as one HTML file that needs nothing else: no network, no other file, no server.

    It reads well without JavaScript, which only sorts tables and enlarges pictures. The same input gives the same
    bytes. Pictures take at most 14 MB, however many samples there are.

    Args:
        report: The figures; curves and figures of single images follow from its `images`.
        path: The file, such as `report.html`; its folder must exist.
        samples: Images to be shown, in any order; the worst by the report's `images` come first.
        comparison: With a baseline.

    Returns:
        The path.

    Raises:
        UserError: The maps of a sample do not fit each other or the label space.
    """
    return write_text_atomically(path, _page(report, samples, comparison))


def _page(report: EvaluationReport, samples: Sequence[Sample], comparison: Comparison | None) -> str:
    scores = image_scores(report)
    sections = [
        ("summary", "Summary", summary_section(report)),
        ("comparison", "Against the baseline", None if comparison is None else comparison_section(comparison)),
        ("classes", "Classes", class_section(report)),
        ("curves", "Precision and recall", curves_section(report)),
        (
            "confusion",
            "Confusion of classes",
            None if report.semantic is None else confusion_section(report.semantic, report.info),
        ),
        ("images", "Images", images_section(report, scores, samples) if report.images else None),
        ("samples", "Worst images", samples_section(report, scores, samples) if samples else None),
    ]
    present = [(anchor, title, content) for anchor, title, content in sections if content is not None]
    images = "1 image" if report.num_images == 1 else f"{report.num_images:,} images"
    step = "" if report.step is None else f"step {report.step:,} · "
    facts = (
        f"{images} · {step}things: {len(report.info.thing_ids)}, stuff: {len(report.info.stuff_ids)} "
        "· figures in percent"
    )
    body = element(
        "body",
        element(
            "header",
            element("h1", report.info.name, element("small", " evaluation")),
            element("p", facts),
            element("nav", [element("a", title, href=f"#{anchor}") for anchor, title, _ in present]),
        ),
        element("main", [element("section", element("h2", title), body, id=anchor) for anchor, title, body in present]),
        element("script", _resource("report.js")),
    )
    return f"<!DOCTYPE html>\n{element('html', _head(report), body, lang='en')}\n"


def _head(report: EvaluationReport) -> Markup:
    # Nothing is ever loaded, and no script runs but ours, whatever a name in the report may hold.
    digest = base64.b64encode(hashlib.sha256(_resource("report.js").encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element(
            "title", f"{report.info.name}: evaluation" + ("" if report.step is None else f" of step {report.step}")
        ),
        element("style", _resource("report.css")),
    )


def _resource(name: str) -> Markup:
    """Reads a style sheet or script that lies beside this module."""
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))
