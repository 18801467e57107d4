"""Overlapping masks: every pixel goes to what lies in front, and what nobody sees is no instance."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.data.conversion.labelled_record import Segment
from deeplab2_lite.data.converters.overlaps import back_to_front, panoptic_from_owners
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError

PERSON, SKY, TIE = range(3)
INFO = DatasetInfo(
    "wardrobe",
    tuple(ClassInfo(name, name != "sky", (0, 0, 0), i) for i, name in enumerate(["person", "sky", "tie"])),
    label_divisor=100,
)


def paint(segments, masks, size):
    owners = np.zeros(size, np.int32)
    for position in back_to_front(segments, [int(mask.sum()) for mask in masks], INFO):
        owners[masks[position]] = position + 1
    return owners


@st.composite
def overlapping(draw):
    height, width = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 7))
    density = draw(st.sampled_from([0.1, 0.5, 0.9]))
    segments = [Segment(i, draw(st.integers(0, 2)), draw(st.booleans())) for i in range(count)]
    return segments, [rng.random((height, width)) < density for _ in range(count)], (height, width)


@given(overlapping())
def test_each_pixel_goes_to_the_foremost_mask(drawn):
    segments, masks, size = drawn

    def in_front(challenger, holder):
        ranks = [0 if segments[i].class_id == SKY else 1 if segments[i].iscrowd else 2 for i in (challenger, holder)]
        if ranks[0] != ranks[1]:
            return ranks[0] > ranks[1]
        areas = [int(masks[i].sum()) for i in (challenger, holder)]
        return areas[0] < areas[1] or (areas[0] == areas[1] and challenger > holder)

    winners = np.zeros(size, int)
    for pixel in np.ndindex(*size):
        best = None
        for i, mask in enumerate(masks):
            if mask[pixel] and (best is None or in_front(i, best)):
                best = i
        winners[pixel] = 0 if best is None else best + 1
    owners = paint(segments, masks, size)
    np.testing.assert_array_equal(owners, winners)

    expected = np.full(size, INFO.void_id)
    counts = {PERSON: 0, TIE: 0}
    for i, segment in enumerate(segments):
        if (winners != i + 1).all():
            continue
        expected[winners == i + 1] = segment.class_id * 100
        if segment.class_id != SKY and not segment.iscrowd:
            counts[segment.class_id] += 1
            expected[winners == i + 1] += counts[segment.class_id]
    panoptic = panoptic_from_owners(owners, segments, INFO.ignore_label, INFO, Path("a.jpg"))
    assert panoptic.dtype == np.int32
    np.testing.assert_array_equal(panoptic, expected)


def test_a_tie_lies_in_front_of_its_person():
    person, tie = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    tie[1:, 1] = True
    for order in ([0, 1], [1, 0]):
        segments = [[Segment(7, PERSON), Segment(8, TIE)][i] for i in order]
        owners = paint(segments, [[person, tie][i] for i in order], (3, 3))
        panoptic = panoptic_from_owners(owners, segments, INFO.ignore_label, INFO, Path("a.jpg"))
        assert panoptic.tolist() == [[1, 1, 1], [1, 201, 1], [1, 201, 1]]


def test_uncovered_pixels_and_void_segments():
    segments = [Segment(0, INFO.ignore_label), Segment(1, PERSON)]
    panoptic = panoptic_from_owners(np.array([[0, 1, 2]]), segments, SKY, INFO, Path("a.jpg"))
    assert panoptic.tolist() == [[100, 25500, 1]]


def test_hidden_instances_do_not_count_against_the_divisor():
    segments = [Segment(i, PERSON) for i in range(150)]
    owners = np.arange(100, dtype=np.int32)[None]
    panoptic = panoptic_from_owners(owners, segments, INFO.ignore_label, INFO, Path("a.jpg"))
    assert panoptic.max() == INFO.void_id and panoptic[0, 99] == 99
    with pytest.raises(UserError, match=r"a\.jpg: 100 instances of 'person', but label_divisor 100 holds 99"):
        panoptic_from_owners(owners + 1, segments, INFO.ignore_label, INFO, Path("a.jpg"))
