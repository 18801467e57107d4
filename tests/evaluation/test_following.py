"""Instances keep their numbers from frame to frame."""

from __future__ import annotations

import numpy as np

from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.evaluation.following import Follower

INFO = load_dataset_info("shapes")


def frame(*segments, width=30):
    """A row of 4 pixels' height on sky; segments are (id, first column, last column)."""
    panoptic = np.full((4, width), 4000, np.int32)
    for panoptic_id, first, last in segments:
        panoptic[:, first : last + 1] = panoptic_id
    return panoptic


def test_what_moves_a_little_keeps_its_number():
    follow = Follower(INFO)
    np.testing.assert_array_equal(follow(frame((6001, 0, 5), (6002, 10, 15))), frame((6001, 0, 5), (6002, 10, 15)))
    # The order of the scores has changed, and all have moved by two pixels.
    np.testing.assert_array_equal(follow(frame((6002, 2, 7), (6001, 12, 17))), frame((6001, 2, 7), (6002, 12, 17)))
    # Three times again, step by step.
    for i in range(2, 5):
        found = follow(frame((6002, 2 * i, 2 * i + 5), (6001, 2 * i + 10, 2 * i + 15)))
        np.testing.assert_array_equal(found, frame((6001, 2 * i, 2 * i + 5), (6002, 2 * i + 10, 2 * i + 15)))


def test_what_is_new_or_jumps_gets_a_free_number():
    follow = Follower(INFO)
    follow(frame((6001, 0, 5), (6002, 10, 15)))
    # One is gone, one is new, one stays.
    found = follow(frame((6001, 10, 15), (6002, 20, 25)))
    np.testing.assert_array_equal(found, frame((6002, 10, 15), (6001, 20, 25)))
    # IoU 2 / 10 is too little: the number is free, and so is the other.
    np.testing.assert_array_equal(follow(frame((6002, 14, 19))), frame((6001, 14, 19)))


def test_the_greatest_overlap_wins_and_classes_stay_apart():
    follow = Follower(INFO)
    follow(frame((6001, 0, 9), (5001, 20, 25)))
    found = follow(frame((6001, 0, 3), (6002, 4, 9), (7001, 20, 25)))
    np.testing.assert_array_equal(found, frame((6002, 0, 3), (6001, 4, 9), (7001, 20, 25)))


def test_stuff_and_void_stay():
    panoptic = np.array([[4000, 255000, 6005, 6000]], np.int32)
    assert Follower(INFO)(panoptic).tolist() == [[4000, 255000, 6001, 6000]]
