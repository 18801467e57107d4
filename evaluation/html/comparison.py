"""Section of the HTML report: what changed since a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deeplab2_lite.evaluation.comparison.differences import CONFIDENCE, Comparison, Difference, ImageDifference
from deeplab2_lite.evaluation.html.elements import NO_VALUE, Markup, element, table
from deeplab2_lite.evaluation.html.summary import LONG_NAMES, class_cell, figure_cell, words

_MOST_IMAGES = 10
# Width and height of the drawn intervals.
_WIDTH, _HEIGHT = 160, 14


def comparison_section(comparison: Comparison) -> Markup:
    """Returns the differences of the figures, of the classes and of the images."""
    images = "1 image" if comparison.num_images == 1 else f"{comparison.num_images:,} images"
    left_out = f" {len(comparison.left_out):,} that only one of them has are left out." if comparison.left_out else ""
    ours, theirs = (
        "" if step is None else f" of step {step:,}" for step in (comparison.step, comparison.baseline_step)
    )
    note = (
        f"This evaluation{ours} against the baseline{theirs}, on {images} that both "
        f"have.{left_out} Brackets hold the {100 * CONFIDENCE:.0f} % confidence interval of the change; ▲ and ▼ mark "
        "changes whose interval leaves out 0."
    )
    overall = _differences(
        "Differences of the figures of the whole data set",
        "figure",
        [(element("th", _title(tag), scope="row", class_="name"), one) for tag, one in comparison.overall.items()],
    )
    classes = [
        element(
            "details",
            element("summary", f"{figure} of each class"),
            _differences(
                f"Differences of the {figure} of each class",
                "class",
                [(class_cell(comparison.info, i, head=True), one) for i, one in enumerate(differences)],
            ),
            open=position == 0,
        )
        for position, (figure, differences) in enumerate(comparison.classes.items())
    ]
    losses = [image for image in comparison.images if image.change < 0][:_MOST_IMAGES]
    gains = [image for image in reversed(comparison.images) if image.change > 0][:_MOST_IMAGES]
    lists = [
        _images(f"Greatest losses of an image's {comparison.image_figure}", losses),
        _images(f"Greatest gains of an image's {comparison.image_figure}", gains),
    ]
    return element("div", element("p", note, class_="note"), overall, classes, element("div", lists, class_="lists"))


def _differences(label: str, first: str, rows: Sequence[tuple[Markup, Difference]]) -> Markup:
    header = [
        element("th", first, scope="col", class_="name"),
        *(element("th", name, scope="col") for name in ("before", "after", "change")),
        element("th", "interval", scope="col", class_="name"),
    ]
    reach = max((abs(v) for _, one in rows for v in (one.change, one.low, one.high) if not math.isnan(v)), default=0.0)
    body = [
        [name, figure_cell(one.before), figure_cell(one.after), _change_cell(one), _interval_cell(one, reach)]
        for name, one in rows
    ]
    return table(label, header, body, class_="sortable figures compact")


def _change_cell(one: Difference | ImageDifference) -> Markup:
    if math.isnan(one.change):
        return element("td", NO_VALUE, class_="none")
    # What is 0 after rounding has no sign.
    text = f"{100 * one.change:+.1f}" if abs(one.change) >= 0.0005 else "0.0"
    mark = style = None
    if isinstance(one, Difference) and one.is_significant:
        mark, style = ("▲", "gain") if one.change > 0 else ("▼", "loss")
    sign = element("span", mark or "", class_="mark")
    return element("td", text, sign, data_v=f"{one.change:.6f}", class_=style)


def _interval_cell(one: Difference, reach: float) -> Markup:
    if math.isnan(one.change) or not reach:
        return element("td", "", class_="name")
    text = "too few images" if math.isnan(one.low) else f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]"

    def place(value: float) -> float:
        return round(_WIDTH * (0.5 + 0.48 * value / reach), 1)

    middle = _HEIGHT / 2
    parts = [element("path", d=f"M{_WIDTH / 2:g} 0V{_HEIGHT}", class_="zero")]
    if not math.isnan(one.low):
        parts.append(element("path", d=f"M{place(one.low):g} {middle:g}H{place(one.high):g}", class_="range"))
    parts.append(element("circle", cx=place(one.change), cy=middle, r=3.5, class_="dot"))
    drawing = element("svg", parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="interval", aria_hidden="true")
    return element("td", drawing, element("span", text), class_="name", data_v=f"{one.change:.6f}")


def _images(title: str, images: Sequence[ImageDifference]) -> Markup:
    heading = element("h4", title)
    if not images:
        return element("div", heading, element("p", "none", class_="note"))
    header = [
        element("th", "image", scope="col", class_="name"),
        *(element("th", name, scope="col") for name in ("before", "after", "change")),
    ]
    rows = [
        [
            element("th", image.name, scope="row", class_="name", title=image.name),
            figure_cell(image.before),
            figure_cell(image.after),
            _change_cell(image),
        ]
        for image in images
    ]
    return element("div", heading, table(title, header, rows, class_="sortable figures compact"))


def _title(tag: str) -> str:
    known = LONG_NAMES.get(tag)
    if known:
        return known
    prefix, _, rest = tag.partition("/")
    return f"{LONG_NAMES.get(prefix, words(prefix))} {words(rest)}"
