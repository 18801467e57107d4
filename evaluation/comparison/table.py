"""A comparison as text for the terminal, and as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from deeplab2_lite.evaluation.comparison.differences import (
    CONFIDENCE,
    FEWEST_IMAGES,
    Comparison,
    Difference,
    ImageDifference,
)
from deeplab2_lite.evaluation.text_table import aligned
from deeplab2_lite.files import write_text_atomically

# Of each class, figures that others follow from are shown alone; the JSON has them all.
_CLASS_COLUMNS = ("PQ", "boundary PQ", "IoU", "iIoU", "boundary IoU", "AP", "Cityscapes AP")
_MOST_IMAGES = 5


def format_comparison(comparison: Comparison) -> str:
    """Returns a comparison as text for the terminal, in percent with one decimal.

    Args:
        comparison: Two evaluations.

    Returns:
        The figures of the data set and of each class, each with the confidence interval of its change, "*" where
        that leaves out 0; and the images that gained or lost most. "-" stands where there is nothing to say.
    """
    images = "1 image" if comparison.num_images == 1 else f"{comparison.num_images} images"
    lines = [f"against the baseline, on {images}; intervals of {100 * CONFIDENCE:g} % over images, * leaves out 0"]
    if comparison.left_out:
        shown = ", ".join(comparison.left_out[:3]) + (", ..." if len(comparison.left_out) > 3 else "")
        lines.append(f"{len(comparison.left_out)} images are in one of the two alone and left out: {shown}")
    if comparison.num_images < FEWEST_IMAGES:
        lines.append(f"no intervals: they need at least {FEWEST_IMAGES} images")
    header = ["before", "after", "change", "interval", ""]
    overall = [[name, *_cells(difference)] for name, difference in comparison.overall.items() if _exists(difference)]
    parts = ["\n".join(lines), aligned([["", *header], *overall])]
    for figure in _CLASS_COLUMNS:
        differences = comparison.classes.get(figure, ())
        rows = [
            [info.name, *_cells(difference)]
            for info, difference in zip(comparison.info.classes, differences, strict=False)
            if _exists(difference)
        ]
        if rows:
            parts.append(aligned([[f"{figure} by class", *header], *rows]))
    losses = [image for image in comparison.images if image.change < 0][:_MOST_IMAGES]
    gains = [image for image in comparison.images[::-1] if image.change > 0][:_MOST_IMAGES]
    for title, chosen in (("greatest losses", losses), ("greatest gains", gains)):
        if chosen:
            parts.append(aligned([[f"{title} in {comparison.image_figure}", *header[:3]], *map(_image_row, chosen)]))
    return "\n\n".join(parts) + "\n"


def write_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Writes all of a comparison as JSON, whole or not at all.

    Args:
        comparison: Two evaluations.
        path: The file; its folder must exist.

    Returns:
        The path. Fractions are in 0..1; what does not exist is null.
    """
    names = comparison.info.class_names
    content = {
        "dataset": comparison.info.name,
        "step": comparison.step,
        "baseline_step": comparison.baseline_step,
        "num_images": comparison.num_images,
        "left_out": list(comparison.left_out),
        "confidence": CONFIDENCE,
        "overall": {name: _plain(difference) for name, difference in comparison.overall.items()},
        "classes": [
            {"id": i, "name": name, **{figure: _plain(of_all[i]) for figure, of_all in comparison.classes.items()}}
            for i, name in enumerate(names)
        ],
        "image_figure": comparison.image_figure,
        "images": [_plain(image) for image in comparison.images],
    }
    return write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _exists(difference: Difference) -> bool:
    return not (math.isnan(difference.before) and math.isnan(difference.after))


def _cells(difference: Difference) -> list[str]:
    interval = "-" if math.isnan(difference.low) else f"{_signed(difference.low)} .. {_signed(difference.high)}"
    figures = [_percent(difference.before), _percent(difference.after), _signed(difference.change)]
    return [*figures, interval, "*" if difference.is_significant else ""]


def _image_row(image: ImageDifference) -> list[str]:
    return [image.name, _percent(image.before), _percent(image.after), _signed(image.change)]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:+.1f}"


def _plain(row: Difference | ImageDifference) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row._asdict().items()
    }
