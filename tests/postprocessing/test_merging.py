"""Merging of semantic map and instances, and their measures, by hand-made cases."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.postprocessing.instances import areas_and_boxes
from deeplab2_lite.postprocessing.merging import Votes, paint, vote


class Merged(NamedTuple):
    votes: Votes
    panoptic: tf.Tensor


def merge(semantic, instance, is_thing, top_k, label_divisor, ignore_label, stuff_area_limit) -> Merged:
    votes = vote(semantic, instance, len(is_thing), top_k, label_divisor)
    return Merged(votes, paint(votes, is_thing, label_divisor, ignore_label, stuff_area_limit))


def rows(text: str) -> tf.Tensor:
    return tf.constant([[[int(digit) for digit in row] for row in text.split("/")]])


def test_the_case_that_other_implementations_share() -> None:
    merged = merge(
        rows("0000/0110/0220/2233"),
        rows("0000/0000/0110/2233"),
        is_thing=(False, False, True, True),
        top_k=3,
        label_divisor=256,
        ignore_label=255,
        stuff_area_limit=3,
    )
    void = 65280
    expected = [[0, 0, 0, 0], [0, void, void, 0], [0, 513, 513, 0], [514, 514, 769, 769]]
    np.testing.assert_array_equal(merged.panoptic[0], expected)
    np.testing.assert_array_equal(merged.votes.class_id[0], [2, 2, 3])
    np.testing.assert_array_equal(merged.votes.panoptic_id[0], [513, 514, 769])


def test_majority_vote_repaints_the_minority_and_ties_take_the_smaller_id() -> None:
    merged = merge(rows("2212211"), rows("1112222"), (False, True, True), 2, 10, 9, 0)
    np.testing.assert_array_equal(merged.panoptic[0, 0], [21, 21, 21, 11, 11, 11, 11])
    np.testing.assert_array_equal(merged.votes.panoptic_id[0], [21, 11])


def test_stuff_of_exactly_the_limit_stays_and_images_count_alone() -> None:
    semantic = tf.concat([rows("0001"), rows("0011")], axis=0)
    merged = merge(semantic, tf.zeros_like(semantic), (False, False), 1, 10, 9, stuff_area_limit=2)
    np.testing.assert_array_equal(merged.panoptic[:, 0], [[0, 0, 0, 90], [0, 0, 10, 10]])


def test_areas_and_boxes_of_instances() -> None:
    area, box = areas_and_boxes(tf.concat([rows("0110/0013"), rows("0000/2000")], axis=0), 3)
    np.testing.assert_array_equal(area, [[3, 0, 1], [0, 1, 0]])
    none = [0, 0, 0, 0]
    np.testing.assert_array_equal(box, [[[0, 1, 2, 3], none, [1, 3, 2, 4]], [none, [1, 0, 2, 1], none]])
