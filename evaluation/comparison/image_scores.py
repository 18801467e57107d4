"""One figure for each image: which are the worst."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deeplab2_lite.evaluation.comparison.count_table import CountTable
from deeplab2_lite.evaluation.report import EvaluationReport

_MEASURES = {"PQ": "panoptic_quality/All/PQ", "mIoU": "semantic/mIoU"}


class ImageScores(NamedTuple):
    """A figure of each image alone.

    Attributes:
        measure: Its name: "PQ", or "mIoU" where nothing panoptic was counted.
        values: Fractions in 0..1, float64 [images]; NaN where an image has nothing to count.
    """

    measure: str
    values: np.ndarray

    def worst_first(self) -> list[int]:
        """Returns the positions of the images from the worst on; ties in their order, NaN last."""
        return np.argsort(self.values, kind="stable").tolist()


def image_scores(report: EvaluationReport) -> ImageScores:
    """Returns the figure of each image of a report, as if the data set were this image alone.

    Args:
        report: With `images`.

    Returns:
        Figures in the order of the images.
    """
    if report.images:
        figures = CountTable.of(report.images, report.info).figures().overall
        for measure, tag in _MEASURES.items():
            if tag in figures:
                return ImageScores(measure, figures[tag])
    return ImageScores("mIoU" if report.panoptic is None else "PQ", np.full(len(report.images), np.nan))
