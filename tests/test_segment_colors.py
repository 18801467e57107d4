"""Colours of segments: those of neighbours are never nearly the same."""

from __future__ import annotations

import numpy as np
import pytest

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, load_dataset_info
from deeplab2_lite.segment_colors import present_ids, segment_colors, thing_pixels

CELLS = DatasetInfo(
    "cells", (ClassInfo("ground", False, (40, 40, 40), 0), ClassInfo("cell", True, (60, 180, 230), 1)), ignore_label=9
)


def oklab(color):
    """Ottosson's OKLab, written out."""
    red, green, blue = (v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in color)
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    middle = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return np.array(
        [
            0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
            1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
            0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
        ]
    )


def mosaic(rng, rows, columns, side, first_id):
    """Instances in the cells of a grid, in a drawn order."""
    ids = first_id + rng.permutation(rows * columns).reshape(rows, columns)
    return ids.repeat(side, axis=0).repeat(side, axis=1).astype(np.int32)


# With many classes of things, each has a narrow part of the colours.
@pytest.mark.parametrize(("info", "class_id", "least"), [(CELLS, 1, 0.12), (load_dataset_info("cityscapes"), 13, 0.1)])
def test_two_hundred_neighbours_are_told_apart(info, class_id, least):
    panoptic = mosaic(np.random.default_rng(0), 10, 20, 6, class_id * info.label_divisor + 1)
    colors = segment_colors(panoptic, info)
    assert len(set(colors.values())) == 200
    for before, after in ((panoptic[:, :-6], panoptic[:, 6:]), (panoptic[:-6], panoptic[6:])):
        pairs = {(a, b) for a, b in zip(before.ravel().tolist(), after.ravel().tolist(), strict=True) if a != b}
        distances = [np.linalg.norm(oklab(colors[a]) - oklab(colors[b])) for a, b in pairs]
        assert len(distances) > 150 and min(distances) >= least


def test_those_that_nearly_touch_are_neighbours_too():
    """Numbers of which some have nearly the colour of the next one, unless that is heeded."""
    ids = [1001 + (number * 34) % 199 for number in range(199)]
    gap, width = 3, 4
    panoptic = np.zeros((4, len(ids) * (width + gap)), np.int32)
    for place, panoptic_id in enumerate(ids):
        panoptic[:, place * (width + gap) : place * (width + gap) + width] = panoptic_id
    colors = segment_colors(panoptic, CELLS)
    alone = {i: segment_colors(np.array([[i]]), CELLS)[i] for i in ids}

    def least(chosen):
        labs = np.array([oklab(chosen[i]) for i in ids])
        return np.linalg.norm(np.diff(labs, axis=0), axis=1).min()

    assert least(alone) < 0.12 <= least(colors)


def test_a_colour_follows_from_the_id_alone_where_it_can():
    alone = segment_colors(np.array([[1001]]), CELLS)[1001]
    far = np.zeros((50, 50), np.int32)
    far[0, 0], far[40, 40] = 1001, 1002
    assert segment_colors(far, CELLS)[1001] == alone
    assert segment_colors(far, CELLS)[1002] == segment_colors(np.array([[1002]]), CELLS)[1002]
    # The smaller id keeps its colour in any company.
    assert segment_colors(mosaic(np.random.default_rng(1), 10, 10, 3, 1001), CELLS)[1001] == alone


def test_stuff_crowd_and_void():
    colors = segment_colors(np.array([[0, 1000, 1001, 9000]]), CELLS)
    assert list(colors) == [0, 1000, 1001]
    assert colors[0] == (40, 40, 40) and colors[1000] == (60, 180, 230) != colors[1001]


def test_parts_of_a_map():
    panoptic = np.array([[0, 1000, 1003, 9000]])
    assert present_ids(panoptic).tolist() == [0, 1000, 1003, 9000]
    assert thing_pixels(panoptic, CELLS).tolist() == [[False, True, True, False]]
    assert present_ids(np.zeros((0, 3), np.int32)).tolist() == []
