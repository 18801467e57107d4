"""COCO's segmentations as masks: equal to pycocotools' where they are sound, refused where they are not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from deeplab2_lite.data.converters.coco_masks import check_segmentation, decode_mask, encode_segmentation, mask_area
from deeplab2_lite.errors import UserError


def run_lengths(mask):
    """Lengths of runs down the columns, zeros first."""
    counts, current, length = [], 0, 0
    for value in mask.T.ravel().tolist():
        if value != current:
            counts.append(length)
            current, length = value, 0
        length += 1
    return [*counts, length]


@st.composite
def masks(draw):
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    small = rng.random((height, width)) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    # Long runs have counts of several characters, and negative differences.
    return np.kron(small, np.ones((draw(st.sampled_from([1, 40])), 1), bool)).astype(bool)


@given(masks(), st.sampled_from(["list", "string"]))
def test_run_lengths_are_the_mask_that_they_were_made_of(mask, form):
    height, width = mask.shape
    counts = run_lengths(mask)
    if form == "string":
        counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    segmentation = {"size": [height, width], "counts": counts}
    check_segmentation(segmentation, height, width, "here")
    runs = encode_segmentation(segmentation, height, width)
    np.testing.assert_array_equal(decode_mask(runs), mask)
    assert mask_area(runs) == mask.sum()


@given(
    st.lists(
        st.lists(st.tuples(st.floats(-3, 15, width=32), st.floats(-3, 12, width=32)).map(list), min_size=3, max_size=6),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_are_the_union_that_pycocotools_draws(polygons):
    segmentation = [[value for point in polygon for value in point] for polygon in polygons]
    check_segmentation(segmentation, 9, 12, "here")
    expected = np.zeros((9, 12), bool)
    for polygon in segmentation:
        expected |= coco_mask.decode(coco_mask.frPyObjects([polygon], 9, 12))[:, :, 0].astype(bool)
    runs = encode_segmentation(segmentation, 9, 12)
    np.testing.assert_array_equal(decode_mask(runs), expected)
    assert mask_area(runs) == expected.sum()


def test_a_square_has_its_area():
    runs = encode_segmentation([[1, 2, 5, 2, 5, 6, 1, 6]], 8, 8)
    expected = np.zeros((8, 8), bool)
    expected[2:6, 1:5] = True
    np.testing.assert_array_equal(decode_mask(runs), expected)


def sound():
    return coco_mask.encode(np.asfortranarray(np.eye(6, 5, dtype=np.uint8)))["counts"].decode()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "expected polygons or run lengths, got None"),
        ([], r"expected polygons or run lengths, got \[\]"),
        ("abc", "expected polygons or run lengths, got 'abc'"),
        ([1, 2, 3, 4, 5, 6], "expected polygons of 3 or more x, y, got 1"),
        ([[0, 0, 4, 4]], r"expected polygons of 3 or more x, y, got \[0, 0, 4, 4\]"),
        ([[0, 0, 4, 4, 4, 0], [1] * 7], r"expected polygons of 3 or more x, y, got \[1, "),
        ([[0, 0, 4, 4, 4, "0"]], "expected coordinates in pixels, got '0'"),
        ([[0, 0, 4, 4, 4, True]], "expected coordinates in pixels, got True"),
        ([[0, 0, 4, 4, 4, float("nan")]], "expected coordinates in pixels, got nan"),
        ([[0, 0, 4, 4, 4, float("inf")]], "expected coordinates in pixels, got inf"),
        ([[0, 0, 4, 4, 4, 10**400]], "expected coordinates in pixels, got 1000"),
        ({"size": [5, 6], "counts": [30]}, r"its size is \[5, 6\], but its image has \[6, 5\]"),
        ({"counts": [30]}, r"its size is None"),
        ({"size": [6, 5]}, "expected run lengths that sum up to 6x5 pixels, got None"),
        ({"size": [6, 5], "counts": []}, "sum up to 6x5"),
        ({"size": [6, 5], "counts": ""}, "sum up to 6x5"),
        ({"size": [6, 5], "counts": [20, 11]}, "sum up to 6x5"),
        ({"size": [6, 5], "counts": [40, -10]}, "sum up to 6x5"),
        ({"size": [6, 5], "counts": [15, 15.0]}, "sum up to 6x5"),
        ({"size": [6, 5], "counts": sound()[:-1]}, "sum up to 6x5"),
        ({"size": [6, 5], "counts": sound() + "1"}, "sum up to 6x5"),
        ({"size": [6, 5], "counts": sound() + "P"}, "sum up to 6x5"),
        ({"size": [6, 5], "counts": "o" * 20 + "0"}, "sum up to 6x5"),
        ({"size": [6, 5], "counts": "\u00e9" + sound()}, "sum up to 6x5"),
        ({"size": [6, 5], "counts": sound() + "\0"}, "sum up to 6x5"),
    ],
)
def test_unsound_segmentations_are_refused(segmentation, message):
    with pytest.raises(UserError, match=f"^here: segmentation: .*{message}") as caught:
        check_segmentation(segmentation, 6, 5, "here")
    assert "\n" not in str(caught.value)


@given(st.text(alphabet=[chr(c) for c in range(44, 116)], max_size=12))
def test_no_string_gets_past_the_check_that_is_no_mask(text):
    try:
        check_segmentation({"size": [6, 5], "counts": text}, 6, 5, "here")
    except UserError:
        return
    mask = decode_mask(encode_segmentation({"size": [6, 5], "counts": text}, 6, 5))
    assert mask.shape == (6, 5)
