"""Section of the HTML report: which classes are taken for which."""

from __future__ import annotations

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.html.elements import NO_VALUE, Markup, element, percent, table
from deeplab2_lite.evaluation.html.summary import class_cell, count_cell
from deeplab2_lite.evaluation.metrics.mean_iou import MeanIoUResult

_MOST_PAIRS = 20
# Up to so many classes the cells have room for decimals.
_FEW_CLASSES = 24
_SHADES = 10


def confusion_section(result: MeanIoUResult, info: DatasetInfo) -> Markup:
    """Returns the most confused pairs of classes and the whole matrix, its rows normalized."""
    totals = result.confusion.sum(axis=1)
    shares = result.confusion / np.maximum(totals, 1)[:, None]
    if not totals.any():
        return element("p", "The truth has no labelled pixels.", class_="note")
    note = element("p", "Percent of the pixels of each true class; a blank cell has none.", class_="note")
    matrix = (element("h3", "Matrix"), note, _matrix(shares, totals, info), element("output", class_="readout"))
    pairs = (element("h3", "Most confused"), _pairs(result.confusion, shares, info))
    return element("div", element("div", pairs), element("div", matrix), class_="confusion")


def _pairs(confusion: np.ndarray, shares: np.ndarray, info: DatasetInfo) -> Markup:
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS]
    pairs = [divmod(int(position), wrong.shape[1]) for position in order]
    pairs = [pair for pair in pairs if wrong[pair] > 0]
    if not pairs:
        return element("p", "No pixel has a wrong class.", class_="note")
    header = [
        element("th", "true class", scope="col", class_="name"),
        element("th", "predicted as", scope="col", class_="name"),
        element("th", "% of the true class", scope="col"),
        element("th", "pixels", scope="col"),
    ]
    rows = [
        [
            class_cell(info, i, head=True),
            class_cell(info, j if j < info.num_classes else None),
            element("td", percent(float(shares[i, j])), data_v=f"{shares[i, j]:.6f}"),
            count_cell(int(confusion[i, j])),
        ]
        for i, j in pairs
    ]
    return table("Most confused pairs of classes", header, rows, class_="sortable figures compact")


def _matrix(shares: np.ndarray, totals: np.ndarray, info: DatasetInfo) -> Markup:
    few = info.num_classes <= _FEW_CLASSES
    names = [*info.class_names, "void"]
    header = [
        element("td", element("span", "true ↓"), element("span", "predicted →"), class_="corner"),
        *(element("th", element("span", name), scope="col", title=name) for name in names),
    ]
    rows = []
    for i, name in enumerate(info.class_names):
        cells = [_cell(float(share), i == j, few) for j, share in enumerate(shares[i])]
        if not totals[i]:
            cells = [element("td", NO_VALUE if i == j else "") for j in range(len(names))]
        rows.append([element("th", name, scope="row", title=name), *cells])
    return table(
        "Confusion matrix, in percent of each true class", header, rows, class_="matrix" if few else "matrix many"
    )


def _cell(share: float, right: bool, few: bool) -> Markup:
    if share == 0:
        return element("td")
    shade = min(_SHADES, round(_SHADES * share**0.5))
    text = percent(share) if few else f"{100 * share:.0f}"
    return element("td", text, class_=f"{'r' if right else 'w'}{shade}")
