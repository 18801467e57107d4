"""Sums of fractions that do not depend on the order, nor on how they were spread over workers.

A fraction in 0..1 is kept as a multiple of 2^-53 in two integers, whose sums are exact. The IoU of a match, above
0.5, is such a multiple as it is; smaller fractions lose less than 2^-53.
"""

from __future__ import annotations

import numpy as np

from deeplab2_lite.evaluation.metrics.overlaps import sum_by

_BITS = 53
_LOW_BITS = 26


def sum_fractions(index: np.ndarray, fractions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Adds up the fractions that bear each index.

    Args:
        index: Integers in 0..size-1, [fractions].
        fractions: float64 [fractions] in 0..1.
        size: Number of sums.

    Returns:
        Upper and lower part of each sum, int64 [size]; each part may be added to those of other sums.
    """
    scaled = np.ldexp(fractions, _BITS).astype(np.int64)
    return sum_by(index, scaled >> _LOW_BITS, size), sum_by(index, scaled & ((1 << _LOW_BITS) - 1), size)


def fraction_sums(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Returns sums as float64, each rounded once, from their upper and lower parts."""
    pairs = zip(high.tolist(), low.tolist(), strict=True)
    return np.array([((upper << _LOW_BITS) + lower) / 2**_BITS for upper, lower in pairs], np.float64)
