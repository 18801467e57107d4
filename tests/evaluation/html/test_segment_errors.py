"""Errors of an image, held against a loop over its segments, and against what panoptic quality counts."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.html.error_picture import ERROR_NAMES, draw_errors, error_swatch
from deeplab2_lite.evaluation.html.segment_errors import PixelError, SegmentGroup, class_errors, segment_errors
from deeplab2_lite.evaluation.metrics.panoptic_quality import PanopticQuality

INFO = DatasetInfo(
    "streets",
    (
        ClassInfo("road", False, (0, 0, 0), 0),
        ClassInfo("car", True, (0, 0, 9), 1),
        ClassInfo("person", True, (0, 9, 0), 2),
    ),
    label_divisor=100,
)
VOID = INFO.void_id
# Two stuff segments of road (every id is one), crowds of both thing classes, and void with and without instance.
IDS = [0, 3, 100, 101, 102, 200, 201, VOID, VOID + 1]


def upscaled(ids):
    return arrays(np.int32, (5, 6), elements=st.sampled_from(ids)).map(lambda m: np.kron(m, np.ones((2, 1), np.int32)))


@st.composite
def drawn_maps(draw):
    truth = draw(upscaled(IDS))
    # Much of the prediction agrees with the truth, else nothing would ever match.
    kept = draw(arrays(bool, truth.shape, elements=st.booleans(), fill=st.just(True)))
    return truth, np.where(kept, truth, draw(upscaled(IDS)))


def is_void(panoptic_id):
    return panoptic_id // 100 == 255


def is_crowd(panoptic_id):
    return panoptic_id in (100, 200)


def brute_force(truth, prediction):
    """Matches, missed and spurious ids, and the kind of each pixel, read from the definitions."""
    true_ids = [i for i in np.unique(truth).tolist() if not is_void(i)]
    predicted_ids = [i for i in np.unique(prediction).tolist() if not is_void(i)]
    void = truth // 100 == 255
    matches = set()
    for t in true_ids:
        for p in predicted_ids:
            a, b = truth == t, prediction == p
            if t // 100 == p // 100 and not is_crowd(t) and (a & b).sum() / ((a | b) & ~(void & ~a)).sum() > 0.5:
                matches.add((t, p))
    missed = {t for t in true_ids if not is_crowd(t)} - {t for t, _ in matches}
    spurious = set()
    for p in set(predicted_ids) - {p for _, p in matches}:
        mask = prediction == p
        crowd = (truth == p // 100 * 100) & is_crowd(p // 100 * 100)
        if (mask & (void | crowd)).sum() <= mask.sum() / 2:
            spurious.add(p)
    kinds = np.zeros(truth.shape, np.uint8)
    for position in np.ndindex(truth.shape):
        t, p = int(truth[position]), int(prediction[position])
        if is_void(t) or (is_crowd(t) and (is_void(p) or t // 100 == p // 100)):
            kind = PixelError.IGNORED
        elif (t, p) in matches:
            kind = PixelError.MATCHED
        elif t in missed and p in spurious:
            kind = PixelError.POOR_OVERLAP if t // 100 == p // 100 else PixelError.WRONG_CLASS
        elif t in missed:
            kind = PixelError.FALSE_NEGATIVE
        elif p in spurious:
            kind = PixelError.FALSE_POSITIVE
        else:
            kind = PixelError.OUTLINE
        kinds[position] = kind
    return matches, missed, spurious, kinds


@given(drawn_maps())
def test_every_pixel_is_what_the_definition_says(maps):
    truth, prediction = maps
    errors = segment_errors(truth, prediction, INFO)
    matches, missed, spurious, kinds = brute_force(truth, prediction)
    np.testing.assert_array_equal(errors.pixels, kinds)
    assert errors.matched == len(matches)
    for groups, ids, own, other in (
        (errors.missed, missed, truth, prediction),
        (errors.spurious, spurious, prediction, truth),
    ):
        assert [g.pixels for g in groups] == sorted((g.pixels for g in groups), reverse=True)
        assert {g.class_id for g in groups} == {i // 100 for i in ids}
        for group in groups:
            of_class = [i for i in ids if i // 100 == group.class_id]
            covered = np.minimum(other[np.isin(own, of_class)] // 100, INFO.num_classes)
            assert (group.segments, group.pixels) == (len(of_class), covered.size)
            assert group.other_pixels == np.bincount(covered).max()
            other_class = INFO.num_classes if group.other_class is None else group.other_class
            assert (covered == other_class).sum() == group.other_pixels


@given(drawn_maps())
def test_segments_are_those_that_panoptic_quality_counts(maps):
    errors, counts = segment_errors(*maps, INFO), PanopticQuality(INFO).count(*maps)
    assert errors.matched == counts.tp.sum()
    for groups, expected in ((errors.missed, counts.fn), (errors.spurious, counts.fp)):
        found = np.zeros(INFO.num_classes, int)
        for group in groups:
            found[group.class_id] = group.segments
        np.testing.assert_array_equal(found, expected)


@given(drawn_maps())
def test_classes_alone(maps):
    truth, prediction = maps
    errors = class_errors(truth, prediction, INFO)
    expected = np.where(truth // 100 == prediction // 100, PixelError.MATCHED, PixelError.WRONG_CLASS)
    expected[prediction // 100 == 255] = PixelError.FALSE_NEGATIVE
    expected[truth // 100 == 255] = PixelError.IGNORED
    np.testing.assert_array_equal(errors.pixels, expected)
    wrong = np.isin(expected, [PixelError.WRONG_CLASS, PixelError.FALSE_NEGATIVE])
    assert {g.class_id: g.pixels for g in errors.missed} == {
        c: int((wrong & (truth // 100 == c)).sum()) for c in np.unique(truth[wrong] // 100).tolist()
    }
    assert errors.spurious == ()


def test_void_neither_counts_against_a_match_nor_as_an_error():
    truth, prediction = np.full((4, 10), VOID, np.int32), np.full((4, 10), 201, np.int32)
    truth[:, :2], prediction[:, :4] = 101, 101
    errors = segment_errors(truth, prediction, INFO)
    # Half of the car and all of the person lie on void: the one is matched, the other forgiven.
    assert (errors.matched, errors.missed, errors.spurious) == (1, (), ())
    assert (errors.pixels[:, :2] == PixelError.MATCHED).all() and not errors.pixels[:, 2:].any()


def test_groups_name_what_lies_there():
    truth, prediction = np.zeros((4, 10), np.int32), np.zeros((4, 10), np.int32)
    truth[:, :2] = 101  # missed: half under a person, half under void
    prediction[:, :1], prediction[:3, 1] = 201, VOID
    errors = segment_errors(truth, prediction, INFO)
    assert errors.missed == (SegmentGroup(1, 1, 8, 2, 4),)
    assert errors.spurious == (SegmentGroup(2, 1, 4, 1, 4),)
    assert (errors.pixels[:, 0] == PixelError.WRONG_CLASS).all()
    assert (errors.pixels[:, 1] == PixelError.FALSE_NEGATIVE).all()


def test_empty_image_and_misfits():
    empty = np.zeros((0, 5), np.int32)
    assert segment_errors(empty, empty, INFO).pixels.shape == (0, 5)
    with pytest.raises(UserError, match="prediction: expected the truth's shape"):
        segment_errors(np.zeros((2, 2), np.int32), np.zeros((2, 3), np.int32), INFO)
    with pytest.raises(UserError, match="semantic id 7 is unknown"):
        class_errors(np.zeros((2, 2), np.int32), np.full((2, 2), 700, np.int32), INFO)


def test_every_kind_has_a_name_and_a_look_of_its_own():
    assert set(ERROR_NAMES) == set(PixelError)
    swatches = {kind: error_swatch(kind).astype(int) for kind in PixelError}
    grey = {kind: s @ (0.299, 0.587, 0.114) for kind, s in swatches.items()}
    lines = {kind: values < values.max() - 8 for kind, values in grey.items()}
    for kind in PixelError:
        for other in PixelError:
            if kind < other:
                assert np.abs(swatches[kind] - swatches[other]).max() > 20, (kind, other)
    # Errors differ in pattern, not in colour alone.
    patterns = [
        lines[k]
        for k in (
            PixelError.FALSE_POSITIVE,
            PixelError.FALSE_NEGATIVE,
            PixelError.WRONG_CLASS,
            PixelError.POOR_OVERLAP,
            PixelError.OUTLINE,
        )
    ]
    for i, pattern in enumerate(patterns):
        assert all((pattern != other).mean() > 0.1 for other in patterns[:i])


def test_the_ground_shows_the_image():
    pixels = np.full((8, 8), PixelError.MATCHED, np.uint8)
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    picture = draw_errors(pixels, image)
    assert (picture[:, 4:] > picture[:, :4].max()).all() and picture.min() > 150
    assert (draw_errors(pixels) == draw_errors(pixels)[0, 0]).all()
