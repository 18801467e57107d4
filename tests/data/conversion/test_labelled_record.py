"""Records of labelled images: ids, sizes, and shrinking image and label on one grid."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite.data.conversion.labelled_record import Segment, labelled_record, number_segments
from deeplab2_lite.data.images import StoredImage
from deeplab2_lite.data.records import parse_record
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError

INFO = DatasetInfo(
    "streets",
    (
        ClassInfo("road", False, (0, 0, 0), 0),
        ClassInfo("car", True, (0, 0, 9), 1),
        ClassInfo("person", True, (0, 9, 0), 2),
    ),
    label_divisor=4,
)
IMAGE, LABEL = Path("a.png"), Path("labels/a.png")


def stored(pixels, image_format="png", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return StoredImage(buffer.getvalue(), image_format, *pixels.shape[:2], 3 if pixels.ndim == 3 else 1)


def test_instances_count_from_one_within_each_class_in_the_order_given():
    segments = [Segment(9, 2), Segment(4, 0), Segment(3, 1), Segment(8, 2, True), Segment(1, 2), Segment(7, 1)]
    assert number_segments(segments, INFO, LABEL) == [9, 0, 5, 8, 10, 6]


def test_more_instances_than_the_divisor_holds_are_refused():
    assert number_segments([Segment(i, 1) for i in range(3)], INFO, LABEL) == [5, 6, 7]
    message = r"labels/a\.png: 4 instances of 'car', but label_divisor 4 holds 3; expected --label_divisor=5 or more"
    with pytest.raises(UserError, match=message):
        number_segments([Segment(i, 1) for i in range(4)], INFO, LABEL)


def test_image_and_label_of_different_sizes_are_refused():
    with pytest.raises(UserError, match=r"labels/a\.png: 2x3 pixels, but its image a\.png has 3x2"):
        labelled_record(stored(np.zeros((3, 2), np.uint8)), IMAGE, np.zeros((2, 3), int), LABEL, INFO)


def test_the_record_counts_its_label():
    converted = labelled_record(stored(np.zeros((1, 3), np.uint8)), IMAGE, np.array([[0, 5, 6]]), LABEL, INFO)
    assert converted.statistics.pixels == (1, 2, 0)
    assert converted.statistics.segments == (1, 2, 0)


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
@pytest.mark.parametrize(("size", "longest_side", "expected"), [((30, 60), 20, (10, 20)), ((45, 15), 9, (9, 3))])
def test_shrinking_keeps_image_and_label_on_one_grid(image_format, size, longest_side, expected):
    # The image holds the grey level of each pixel's class, in blocks that a whole factor divides.
    factor = max(size) // longest_side
    blocks = np.random.default_rng(0).integers(0, 3, (size[0] // factor // 2 + 1, size[1] // factor // 2 + 1))
    coarse = np.kron(blocks, np.ones((2 * factor, 2 * factor), int))[: size[0], : size[1]]
    options = {"quality": 100} if image_format == "jpeg" else {}
    image = stored((coarse * 100).astype(np.uint8), image_format, **options)
    converted = labelled_record(image, IMAGE, coarse * 4, LABEL, INFO, longest_side)
    record = parse_record(converted.serialized, INFO)
    assert record.panoptic.shape == expected
    semantic = record.panoptic.numpy() // 4
    np.testing.assert_array_equal(semantic, coarse[factor // 2 :: factor, factor // 2 :: factor])
    # Where all neighbours agree, so do image and label.
    padded = np.pad(semantic, 1, mode="edge")
    neighbours = [padded[i : i + expected[0], j : j + expected[1]] for i in range(3) for j in range(3)]
    flat = np.all([n == semantic for n in neighbours], axis=0)
    assert flat.any()
    difference = np.abs(record.image.numpy()[..., 0].astype(int) - 100 * semantic)
    assert difference[flat].max() <= (0 if image_format == "png" else 6)


def test_images_that_are_small_already_keep_their_bytes():
    image = stored(np.random.default_rng(0).integers(0, 255, (8, 6, 3)).astype(np.uint8), "jpeg")
    panoptic = np.zeros((8, 6), int)
    whole = labelled_record(image, IMAGE, panoptic, LABEL, INFO)
    for longest_side in (8, 9):
        assert labelled_record(image, IMAGE, panoptic, LABEL, INFO, longest_side) == whole
    assert image.encoded in whole.serialized


def test_the_shrunken_size_rounds_half_up_as_inference_does():
    image = stored(np.zeros((5, 10), np.uint8))
    converted = labelled_record(image, IMAGE, np.zeros((5, 10), int), LABEL, INFO, 9)
    assert parse_record(converted.serialized, INFO).image.shape == (5, 9, 3)
