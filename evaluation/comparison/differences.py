"""What changed between two evaluations of the same images, and whether other images would have shown it too.

Images are drawn with replacement, as many as there are, and the figures of both evaluations follow from the
same draw: the spread of their difference over many draws is its confidence interval (the paired bootstrap of
Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, by percentiles).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo, label_space_difference
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.comparison.count_table import CountTable, Figures
from deeplab2_lite.evaluation.comparison.instance_resampling import InstanceTables
from deeplab2_lite.evaluation.report import EvaluationReport

CONFIDENCE = 0.95
# Fewer images that all agree would not convince a sign test at this confidence either.
FEWEST_IMAGES = 6
# Figures of so many draws are held at once.
_DRAWS_AT_ONCE = 100


class Difference(NamedTuple):
    """How a figure changed; fractions in 0..1, NaN where it does not exist.

    Attributes:
        before: In the baseline.
        after: In the evaluation.
        change: After minus before.
        low: Lower end of the confidence interval of the change; NaN if too few images tell of it.
        high: Its upper end.
    """

    before: float
    after: float
    change: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the confidence interval leaves out 0."""
        return self.low > 0 or self.high < 0


class ImageDifference(NamedTuple):
    """How the figure of one image changed: its own PQ, or mean IoU where there is no PQ."""

    name: str
    before: float
    after: float
    change: float


@dataclass(frozen=True)
class Comparison:
    """Two evaluations side by side.

    Attributes:
        info: Their label space.
        step: Training step of the evaluation; None where no single one is known.
        baseline_step: That of the baseline.
        num_images: Images that both have.
        left_out: Images that one of them has alone, by name.
        overall: By the tag of `report.scalars`.
        classes: By figure ("PQ", "IoU", ...), one for each class.
        images: Those whose figure exists in both, greatest loss first.
        image_figure: What is compared of an image, "PQ" or "mIoU".
    """

    info: DatasetInfo
    step: int | None
    baseline_step: int | None
    num_images: int
    left_out: tuple[str, ...]
    overall: Mapping[str, Difference]
    classes: Mapping[str, tuple[Difference, ...]]
    images: tuple[ImageDifference, ...]
    image_figure: str


def compare(report: EvaluationReport, baseline: EvaluationReport, *, draws: int = 1000, seed: int = 0) -> Comparison:
    """Compares two evaluations on the images that both have.

    Args:
        report: The evaluation.
        baseline: The earlier one, such as `evaluation_files.read_evaluation` gives it; of both `images` count.
        draws: Samples of the bootstrap.
        seed: Of the samples.

    Returns:
        The differences of all figures that both have.

    Raises:
        UserError: They are of different label spaces, or have no image or no figure in common.
    """
    difference = label_space_difference(baseline.info, report.info)
    if difference is not None:
        raise UserError(f"--baseline: of another label space: {difference}")
    before, after = ({image.name: image for image in part.images} for part in (baseline, report))
    names = [name for name in after if name in before]
    if not names:
        raise UserError(f"--baseline: no image in common; it has {_some(before)}, the evaluation has {_some(after)}")
    left_out = [*(name for name in after if name not in before), *(name for name in before if name not in after)]
    pair = _Pair.of([[images[name] for name in names] for images in (before, after)], report.info)
    overall, classes = _differences(pair, len(names), draws, seed)
    image_figure, images = _image_differences(pair, names)
    return Comparison(
        report.info,
        report.step,
        baseline.step,
        len(names),
        tuple(left_out),
        overall,
        classes,
        images,
        image_figure,
    )


class _Pair(NamedTuple):
    """The counts of the same images in both evaluations, of the metrics that both have."""

    before: CountTable
    after: CountTable
    instances: tuple[InstanceTables, InstanceTables]

    @classmethod
    def of(cls, images: Sequence, info: DatasetInfo) -> _Pair:
        tables = [CountTable.of(of_one, info) for of_one in images]
        instances = [InstanceTables.of(of_one, info) for of_one in images]
        metrics = [metric for metric in tables[0].columns if metric in tables[1].columns]
        if not metrics:
            raise UserError("--baseline: no metric in common")
        rules = [name for name in instances[0].rules if name in instances[1].rules]
        return cls(*(table.keeping(metrics) for table in tables), tuple(part.keeping(rules) for part in instances))

    def figures(self, weights: np.ndarray) -> tuple[Figures, Figures]:
        """Returns the figures of both for each draw, weights [draws, images]."""
        both = []
        for table, instances in zip((self.before, self.after), self.instances, strict=True):
            ours, theirs = table.summed(weights).figures(), instances.figures(weights)
            both.append(Figures({**ours.overall, **theirs.overall}, {**ours.classes, **theirs.classes}))
        return both[0], both[1]


def _differences(
    pair: _Pair, num_images: int, draws: int, seed: int
) -> tuple[dict[str, Difference], dict[str, tuple[Difference, ...]]]:
    random = np.random.default_rng(seed)
    overall, classes = defaultdict(list), defaultdict(list)
    for first in range(0, draws if num_images >= FEWEST_IMAGES else 0, _DRAWS_AT_ONCE):
        chosen = random.integers(num_images, size=(min(_DRAWS_AT_ONCE, draws - first), num_images))
        weights = np.stack([np.bincount(row, minlength=num_images) for row in chosen]).astype(np.float64)
        before, after = pair.figures(weights)
        for name in before.overall:
            overall[name].append(after.overall[name] - before.overall[name])
        for name in before.classes:
            classes[name].append(after.classes[name] - before.classes[name])
    before, after = pair.figures(np.ones((1, num_images)))
    enough = _tell_enough(pair)
    found = {}
    for name in before.overall:
        found[name] = _difference(before.overall[name][0], after.overall[name][0], overall[name])
    by_class = {}
    for name in before.classes:
        by_class[name] = tuple(
            _difference(
                before.classes[name][0, i],
                after.classes[name][0, i],
                [block[:, i] for block in classes[name]] if enough[name][i] else [],
            )
            for i in range(pair.before.isthing.size)
        )
    return found, by_class


def _tell_enough(pair: _Pair) -> dict[str, np.ndarray]:
    """By figure, the classes that enough images tell of in both evaluations."""
    tables = ((pair.before, pair.after), pair.instances)
    return {
        name: np.minimum(before, after.occurrences()[name]) >= FEWEST_IMAGES
        for table, after in tables
        for name, before in table.occurrences().items()
    }


def _difference(before: float, after: float, changes: Sequence[np.ndarray]) -> Difference:
    low = high = math.nan
    drawn = np.concatenate(changes) if changes else np.zeros(0)
    # A class may occur in no image of a draw.
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size:
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(float(before), float(after), float(after - before), float(low), float(high))


def _image_differences(pair: _Pair, names: Sequence[str]) -> tuple[str, tuple[ImageDifference, ...]]:
    tag, figure = ("panoptic_quality/All/PQ", "PQ") if "panoptic" in pair.before.columns else ("semantic/mIoU", "mIoU")
    before, after = (table.figures().overall[tag] for table in (pair.before, pair.after))
    found = [
        ImageDifference(name, float(old), float(new), float(new - old))
        for name, old, new in zip(names, before, after, strict=True)
        if math.isfinite(new - old)
    ]
    return figure, tuple(sorted(found, key=lambda image: image.change))


def _some(names: Mapping[str, object]) -> str:
    shown = ", ".join(list(names)[:2])
    return f"{len(names)} images ({shown}{', ...' if len(names) > 2 else ''})"
