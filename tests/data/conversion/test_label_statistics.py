"""Counts of labels are those that a walk over the pixels gives."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from deeplab2_lite.data.conversion.label_statistics import (
    LabelStatistics,
    count_image_class,
    count_label,
    sum_statistics,
)
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo

INFO = DatasetInfo(
    "streets",
    (
        ClassInfo("road", False, (0, 0, 0), 0),
        ClassInfo("car", True, (0, 0, 9), 1),
        ClassInfo("person", True, (0, 9, 0), 2),
    ),
    ignore_label=5,
    label_divisor=4,
)
# Road, a crowd of cars, cars 1 and 3, persons 1 and 2, void.
IDS = [0, 4, 5, 7, 9, 10, 20]


def slow_count(panoptic):
    pixels, segments, images = [0, 0, 0], [0, 0, 0], [0, 0, 0]
    void, seen = 0, set()
    for value in panoptic.ravel().tolist():
        if value // 4 == 5:
            void += 1
            continue
        pixels[value // 4] += 1
        images[value // 4] = 1
        is_crowd = value // 4 in (1, 2) and value % 4 == 0
        if value not in seen and not is_crowd:
            segments[value // 4] += 1
        seen.add(value)
    return LabelStatistics(1, void, tuple(pixels), tuple(segments), tuple(images))


@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from(IDS)))
def test_counts_equal_a_walk_over_the_pixels(panoptic):
    assert count_label(panoptic, INFO) == slow_count(panoptic)


def test_counts_add_up():
    maps = [np.array([[0, 5, 7]]), np.array([[20, 4, 0]]), np.array([[9, 9, 9]])]
    total = sum_statistics([count_label(panoptic, INFO) for panoptic in maps], 3)
    assert total == LabelStatistics(3, 1, (2, 3, 3), (2, 2, 1), (2, 2, 1))
    assert sum_statistics([], 3) == LabelStatistics.empty(3)
    assert LabelStatistics.from_dict(total.to_dict()) == total


def test_classes_of_whole_images_are_counted():
    total = sum_statistics([count_image_class(class_id, 3) for class_id in (2, 0, 2)], 3)
    assert total == LabelStatistics(3, 0, (0, 0, 0), (0, 0, 0), (1, 0, 2))


def test_unknown_classes_are_no_counts():
    with pytest.raises(ValueError, match="unknown classes"):
        count_label(np.array([[12]]), INFO)
