"""What meets in two maps, and sums of fractions, against loops."""

from __future__ import annotations

import collections
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.metrics import overlaps
from deeplab2_lite.evaluation.metrics.exact_sums import fraction_sums, sum_fractions


@pytest.fixture(scope="module", params=[8, 24, 2**18])
def piece(request):
    """Bytes that are compared at once: as few as find the seams."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlaps, "_PIECE", request.param)
        yield request.param


@given(st.integers(0, 2**32 - 1), st.integers(0, 25), st.sampled_from([2, 2**31 - 1]))
def test_overlaps_equal_counts_of_pixels(piece, seed, size, largest):
    rng = np.random.default_rng(seed)
    maps = [rng.choice([0, 1, largest], size=size).repeat(2)[:size].astype(np.int64) for _ in range(2)]
    found = overlaps.count_overlaps(*maps)
    expected = collections.Counter(zip(*(values.tolist() for values in maps), strict=True))
    pairs = list(zip(found.truth.tolist(), found.prediction.tolist(), strict=True))
    assert pairs == sorted(expected) and found.pixels.tolist() == [expected[pair] for pair in pairs]


@given(st.integers(0, 2**32 - 1), st.integers(0, 25), st.integers(1, 3))
def test_runs_begin_where_any_map_changes(piece, seed, size, count):
    maps = [np.random.default_rng((seed, i)).integers(0, 2, size=size) for i in range(count)]
    changes = [i for i in range(size) if i == 0 or any(values[i] != values[i - 1] for values in maps)]
    assert overlaps.run_starts(*maps).tolist() == changes


@given(st.integers(0, 2**32 - 1), st.integers(0, 25), st.integers(1, 3))
def test_runs_begin_where_any_channel_changes(piece, seed, size, channels):
    maps = [np.random.default_rng((seed, i)).choice([0, 0, 0, 7], (size, channels)).astype(np.uint8) for i in range(2)]
    joined = np.concatenate(maps, axis=1)
    changes = [i for i in range(size) if i == 0 or (joined[i] != joined[i - 1]).any()]
    assert overlaps.run_starts(*maps).tolist() == changes


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.sampled_from([2, 2**31 - 1]))
def test_overlaps_of_runs_are_those_of_maps(seed, height, width, largest):
    rng = np.random.default_rng(seed)
    maps, runs = [], []
    for _ in range(2):
        values = rng.choice([0, 0, 0, 1, largest], (height, width))
        starts = overlaps.run_starts(values.ravel())
        # A run may be followed by one of the same id.
        starts = np.union1d(starts, rng.integers(0, values.size, rng.integers(3)))
        maps.append(values)
        runs.append(overlaps.Runs(starts, values.ravel()[starts], (height, width)))
        assert runs[-1].lengths.sum() == values.size
    for ours, theirs in zip(overlaps.overlaps_of_runs(*runs), overlaps.count_overlaps(*maps), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.int64


def test_a_map_of_many_pieces():
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, size=70_000).repeat(3) for _ in range(2)]
    found = overlaps.count_overlaps(maps[0], np.roll(maps[1], 1))
    table = np.zeros((3, 3), np.int64)
    np.add.at(table, (maps[0], np.roll(maps[1], 1)), 1)
    np.testing.assert_array_equal(found.pixels.reshape(3, 3), table)


def test_ids_out_of_range_are_named():
    good = np.zeros(3, np.int64)
    for bad in (np.array([0, -1, 0]), np.array([0, 2**31, 0])):
        with pytest.raises(UserError, match=r"truth: expected ids in 0\.\.2147483647, got"):
            overlaps.count_overlaps(bad, good)
        with pytest.raises(UserError, match=r"prediction: expected ids"):
            overlaps.count_overlaps(good, bad)


def test_sums_of_very_many_fractions_are_exact():
    rng = np.random.default_rng(0)
    fractions = np.concatenate([np.ones(5000), rng.uniform(0.5, 1, 5000)])
    index = rng.integers(0, 3, fractions.size)
    sums = fraction_sums(*sum_fractions(index, fractions, 4))
    for i in range(4):
        expected = sum((Fraction(value) for value in fractions[index == i].tolist()), Fraction())
        assert sums[i] == float(expected)
    halves = [sum_fractions(index[part], fractions[part], 4) for part in (slice(0, 3000), slice(3000, None))]
    np.testing.assert_array_equal(fraction_sums(*(a + b for a, b in zip(*halves, strict=True))), sums)


def test_small_fractions_lose_next_to_nothing():
    fractions = np.random.default_rng(1).uniform(0, 1e-3, 1000)
    [total] = fraction_sums(*sum_fractions(np.zeros(1000, int), fractions, 1))
    assert total == pytest.approx(float(sum(Fraction(value) for value in fractions.tolist())), abs=1000 * 2**-53)
