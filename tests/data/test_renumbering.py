"""From stored ids to those of the label space, against a reading of the rules pixel by pixel."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deeplab2_lite.data.renumbering import renumber, renumbering_table
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, load_dataset_info
from deeplab2_lite.stored_labels import StoredLabels

SHAPE = (3, 5)
PETS = DatasetInfo(
    "pets",
    (
        ClassInfo("floor", False, (0, 0, 0), 0),
        ClassInfo("cat", True, (9, 9, 9), 1),
        ClassInfo("dog", True, (5, 5, 5), 2),
    ),
    label_divisor=10,
    stored=StoredLabels(label_divisor=16, ignore_label=4, class_ids=(7, 2, 0)),
)
SPACES = {"pets": PETS, "coco": load_dataset_info("deeplab2_coco"), "ade20k": load_dataset_info("deeplab2_ade20k")}


def slow(stored_id: int, info: DatasetInfo) -> int | None:
    """The id in the label space; None where the stored one has no meaning."""
    stored_class, instance = divmod(stored_id, info.stored.label_divisor)
    if stored_class == info.stored.ignore_label:
        return info.ignore_label * info.label_divisor if instance == 0 else None
    if stored_class not in info.stored.class_ids:
        return None
    class_id = info.stored.class_ids.index(stored_class)
    if not info.classes[class_id].isthing:
        return class_id * info.label_divisor
    return class_id * info.label_divisor + instance if instance < info.label_divisor else None


@pytest.fixture(scope="module", params=sorted(SPACES))
def space(request):
    info = SPACES[request.param]

    @tf.function(input_signature=[tf.TensorSpec(SHAPE, tf.int32)])
    def in_graph(stored):
        return renumber(stored, info)

    return info, in_graph, [slow(i, info) for i in range(info.stored.num_ids)]


@given(data=st.data())
def test_every_pixel_is_what_the_rules_say(space, data):
    info, in_graph, meaning = space
    faulty = data.draw(st.booleans())
    ids = st.integers(0, info.stored.num_ids + 3 if faulty else info.stored.num_ids - 1)
    stored = data.draw(hnp.arrays(np.int32, SHAPE, elements=ids))
    if not faulty:
        stored = np.vectorize(
            lambda i: i if meaning[i] is not None else info.stored.class_ids[0] * info.stored.label_divisor
        )(stored)
        stored = stored.astype(np.int32)
    expected = [slow(int(i), info) for i in stored.ravel()]
    result = in_graph(stored)
    assert bool(result.is_known) == (None not in expected)
    assert (result.message.numpy() == b"") == bool(result.is_known)
    found = [None if i < 0 else i for i in result.panoptic.numpy().ravel().tolist()]
    assert found == expected


def test_the_whole_table(space):
    info, _, meaning = space
    table = renumbering_table(info)
    assert table.dtype == np.int32 and len(table) == info.stored.num_ids + 1
    assert [None if i < 0 else i for i in table.tolist()] == [*meaning, None]


@pytest.mark.parametrize(
    ("stored_id", "message"),
    [
        (7 * 16 + 16, "id 128, at stored label_divisor 16 class 8 instance 0: none of the 3 of pets nor void (4);"),
        (3 * 16 + 1, "id 49, at stored label_divisor 16 class 3 instance 1: none of the 3 of pets nor void (4);"),
        (-1, "id -1, at stored label_divisor 16 class -1 instance 15: none of the 3 of pets nor void (4);"),
        (2**31 - 1, "id 2147483647, at stored label_divisor 16 class 134217727 instance 15: none of the 3"),
        (4 * 16 + 2, "id 66, at stored label_divisor 16 class 4 instance 2: void, which has no instances;"),
        (2 * 16 + 10, "id 42, at stored label_divisor 16 class 2 instance 10: numbered beyond 9, the most at"),
    ],
)
def test_ids_without_meaning_are_explained(stored_id, message):
    stored = np.full(SHAPE, 2 * 16 + 9, np.int32)
    assert bool(renumber(tf.constant(stored), PETS).is_known)
    stored[1, 2] = stored_id
    result = renumber(tf.constant(stored), PETS)
    assert not bool(result.is_known)
    text = result.message.numpy().decode()
    assert text.startswith(f"the label holds {message}") and text.endswith(
        "; expected what `stored` of data.dataset_info says"
    )


def test_ids_may_fill_three_bytes():
    """Instances numbered in 16 bits, as some video data sets have them."""
    stored = StoredLabels(label_divisor=2**16, ignore_label=255, class_ids=(0, 1, 2))
    info = dataclasses.replace(PETS, stored=stored)
    result = renumber(tf.constant([[65536 + 9, 255 * 65536, 0]]), info)
    assert result.panoptic.numpy().tolist() == [[19, 2550, 0]]
