"""A contact sheet shows each sample beside its label, within its width, whatever the samples' sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab2_lite.data.inspection.contact_sheet import SHEET_WIDTH, Sample, choose_samples, draw_contact_sheet
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError

INFO = DatasetInfo(
    "pets",
    (
        ClassInfo("floor", False, (0, 0, 200), 0),
        ClassInfo("cat", True, (200, 60, 0), 1),
        ClassInfo("wall", False, (0, 200, 0), 2),
    ),
)
MAGENTA = (250, 0, 250)


def sample(height, width, panoptic=0, color=MAGENTA, caption="a.png"):
    image = np.full((height, width, 3), color, np.uint8)
    return Sample(image, np.broadcast_to(np.int32(panoptic), (height, width)), caption)


def box_of(sheet, color):
    rows, columns = np.nonzero((sheet == color).all(axis=2))
    assert rows.size, color
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


@given(st.integers(1, 40), st.integers(1, 60))
def test_samples_are_spread_evenly_and_never_twice(count, available):
    records = list(range(100, 100 + available))
    chosen = choose_samples(records, count)
    assert chosen == choose_samples(records, count)
    assert len(chosen) == min(count, available)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(records)
    # No stretch of the split much longer than its share goes without one.
    gaps = np.diff([99, *chosen, 100 + available])
    assert gaps.max() <= -(-available // len(chosen)) + 1


def test_nothing_is_chosen_of_nothing():
    assert choose_samples([], 3) == []
    assert choose_samples([4, 5], 0) == []


@pytest.mark.parametrize("size", [(60, 90), (1000, 1400)])
def test_label_is_drawn_beside_its_image_in_the_same_place(size):
    height, width = size
    panoptic = np.zeros(size, np.int32)
    panoptic[height // 2 :, : width // 2] = 2000
    panoptic[height // 2 :, width // 2 :] = 255000
    sheet = draw_contact_sheet([sample(height, width, panoptic)], INFO, "pets val")
    top, bottom, left, right = box_of(sheet, MAGENTA)
    assert (sheet[top:bottom, left:right] == MAGENTA).all()
    assert (right - left) / (bottom - top) == pytest.approx(width / height, rel=0.02)
    drawn = sheet[top:bottom, right + 6 : right + 6 + right - left].astype(int)
    rows, columns = drawn.shape[0] // 8, drawn.shape[1] // 8
    # Corners are far from borders and names: 0.55 of the class's colour over 0.45 of the image.
    places = (rows, columns), (rows, -columns), (-rows, columns), (-rows, -columns)
    # Of a few pixels, since void is hatched.
    corners = [np.median(drawn[y - 4 : y + 4, x - 4 : x + 4], axis=(0, 1)) for y, x in places]
    colors = [(0, 0, 200), (0, 0, 200), (0, 200, 0), (0, 0, 0)]
    for corner, color in zip(corners, colors, strict=True):
        np.testing.assert_allclose(corner, 0.55 * np.array(color) + 0.45 * np.array(MAGENTA), atol=1)


SIDES = st.sampled_from([1, 7, 40, 300])


@settings(max_examples=20)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=9))
def test_sheet_is_never_too_wide(sizes):
    samples = [sample(*size, panoptic=1001, caption="x" * 500) for size in sizes]
    sheet = draw_contact_sheet(samples, INFO, "y" * 500)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] <= SHEET_WIDTH
    assert sheet.shape[2] == 3


def test_every_sample_is_there_in_order():
    colors = [(250, 10 * i, 250 - 10 * i) for i in range(16)]
    samples = (sample(240 + 20 * (i % 3), 320, color=color) for i, color in enumerate(colors))
    sheet = draw_contact_sheet(samples, INFO, "pets val: 16 of 16")
    boxes = [box_of(sheet, color) for color in colors]
    places = [(top, left) for top, _, left, _ in boxes]
    assert places == sorted(places)
    # Rows are full: the rightmost label of each ends near the sheet's margin.
    for row in {top for top, *_ in boxes}:
        right = max(2 * right - left for top, _, left, right in boxes if top == row)
        assert sheet.shape[1] - 60 < right < sheet.shape[1]


def test_samples_of_one_size_stand_in_equal_rows():
    colors = [(250, 20 * i, 250 - 20 * i) for i in range(8)]
    sheet = draw_contact_sheet([sample(200, 400, color=color) for color in colors], INFO, "")
    boxes = [box_of(sheet, color) for color in colors]
    assert len({bottom - top for top, bottom, _, _ in boxes}) == 1
    assert len({top for top, *_ in boxes}) == 4


def test_legend_has_the_classes_that_are_shown():
    plain = draw_contact_sheet([sample(100, 100, 0)], INFO, "")
    both = draw_contact_sheet([sample(100, 100, np.repeat([0, 2000], 50))], INFO, "")

    def swatch(sheet, color):
        return (sheet == color).all(axis=2).sum()

    assert swatch(plain, (0, 0, 200)) > 100
    assert swatch(plain, (0, 200, 0)) == 0
    assert swatch(both, (0, 200, 0)) > 100


def test_no_samples_are_refused():
    with pytest.raises(UserError, match="expected at least one"):
        draw_contact_sheet([], INFO, "")
