"""Metrics that are sums of integers by class: how their counts are added up, merged, and carried as JSON."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, Generic, Self, TypeVar

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.overlaps import check_mergeable

# A NamedTuple of arrays, int64 [classes] each.
Counts = TypeVar("Counts", bound=tuple)


class ClassCountMetric(abc.ABC, Generic[Counts]):
    """A streaming metric whose images add integers to each class, so that sums do not depend on their order."""

    def __init__(self, info: DatasetInfo, kind: type[Counts]) -> None:
        """Makes an empty metric.

        Args:
            info: The label space of truth and prediction.
            kind: The type of its counts.
        """
        self._info = info
        self._kind = kind
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._counts = self._kind(*np.zeros((len(self._kind._fields), self._info.num_classes), np.int64))

    @abc.abstractmethod
    def count(self, truth: Any, prediction: Any) -> Counts:
        """Counts one image, without adding it; see the metric."""

    def update(self, truth: Any, prediction: Any) -> None:
        """Adds an image.

        Args:
            truth: Ids, integers [height, width]; see `count`.
            prediction: Ids of the same shape; likewise.

        Raises:
            UserError: Types, shapes or ids do not fit; nothing is counted then.
        """
        self.add(self.count(truth, prediction))

    def add(self, counts: Counts) -> None:
        """Adds what images count.

        Args:
            counts: Of `count`, by a metric of the same label space.
        """
        self._counts = self._kind(*(ours + theirs for ours, theirs in zip(self._counts, counts, strict=True)))

    def merge(self, other: Self) -> None:
        """Adds what another metric has seen, exactly as if its images had been seen here.

        Args:
            other: A metric of the same label space; it stays as it is.

        Raises:
            UserError: It is of another label space.
        """
        check_mergeable(self, other, self._info, other._info)
        self.add(other._counts)


def counts_to_json(counts: tuple[np.ndarray, ...]) -> dict[str, list[int]]:
    """Returns the counts of the classes that have any, by class id, as JSON can hold them."""
    columns = np.stack(counts, axis=1)
    return {str(i): columns[i].tolist() for i in np.flatnonzero(columns.any(axis=1))}


def counts_from_json(kind: type[Counts], content: Mapping[str, list[int]], num_classes: int) -> Counts:
    """Reads what `counts_to_json` returned.

    Args:
        kind: The type of the counts.
        content: Values by class id.
        num_classes: Of the label space.

    Returns:
        The counts.
    """
    columns = np.zeros((num_classes, len(kind._fields)), np.int64)
    for class_id, values in content.items():
        columns[int(class_id)] = values
    return kind(*columns.T)
