"""Connected regions of a label image, by runs of equal pixels and a union of those that touch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class _Runs(NamedTuple):
    """Runs of equal values within rows, in scan order; ends are exclusive."""

    row: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    value: np.ndarray


def connected_components(values: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Numbers the regions of equal values; pixels that touch at a corner alone are connected, too.

    Args:
        values: Non-negative integers [height, width].
        selected: Which pixels belong to regions, bool [height, width].

    Returns:
        int32 [height, width]: regions from 1 in the order of their first pixels by rows, 0 where not selected.
    """
    runs = _find_runs(np.where(selected, values, -1))
    _, region = np.unique(_roots(*_touching(runs, values.shape[1]), len(runs.row)), return_inverse=True)
    # At each run's begin goes its region, at its end the same is taken back, and the sum along the row fills it.
    steps = np.zeros((values.shape[0], values.shape[1] + 1), np.int32)
    np.add.at(steps, (runs.row, runs.begin), region + 1)
    np.add.at(steps, (runs.row, runs.end), -(region + 1))
    return np.cumsum(steps, axis=1, dtype=np.int32)[:, :-1]


def _find_runs(values: np.ndarray) -> _Runs:
    width = values.shape[1]
    # A column that is never selected ends the runs of each row.
    flat = np.pad(values, ((0, 0), (0, 1)), constant_values=-1).ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=-2))
    ends = np.append(starts[1:], flat.size)
    chosen = flat[starts] >= 0
    starts, ends = starts[chosen], ends[chosen]
    row, begin = np.divmod(starts, width + 1)
    return _Runs(row, begin, begin + ends - starts, flat[starts])


def _touching(runs: _Runs, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs of runs of equal value in neighbouring rows that overlap, or touch at a corner."""
    stride = width + 1
    below = (runs.row + 1) * stride
    first = np.searchsorted(runs.row * stride + runs.end, below + runs.begin, side="left")
    last = np.searchsorted(runs.row * stride + runs.begin, below + runs.end, side="right")
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(counts)), counts)
    offset = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    lower = np.repeat(first, counts) + offset
    same = runs.value[upper] == runs.value[lower]
    return upper[same], lower[same]


def _roots(upper: np.ndarray, lower: np.ndarray, count: int) -> np.ndarray:
    """Returns for each run the first run that is connected with it."""
    root = np.arange(count)
    while True:
        joined = root.copy()
        least = np.minimum(root[upper], root[lower])
        np.minimum.at(joined, root[upper], least)
        np.minimum.at(joined, root[lower], least)
        while not np.array_equal(joined, joined[joined]):
            joined = joined[joined]
        if np.array_equal(joined, root):
            return root
        root = joined
