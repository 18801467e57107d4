"""Targets against a slow reading of paper section 3.1 in NumPy."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import TargetConfig
from deeplab2_lite.data.targets import Targets, make_targets
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo

HEIGHT, WIDTH = 64, 80
INFO = DatasetInfo(
    "test",
    (
        ClassInfo("road", False, (1, 1, 1), 0),
        ClassInfo("car", True, (2, 2, 2), 1),
        ClassInfo("sky", False, (3, 3, 3), 2),
        ClassInfo("person", True, (4, 4, 4), 3),
    ),
    ignore_label=255,
    label_divisor=1000,
)
CONFIG = TargetConfig(center_sigma=2.0, small_instance_area=60, small_instance_weight=3.0)
ROAD, CAR, PERSON, VOID = 0, 1000, 3000, 255000


@tf.function(input_signature=[tf.TensorSpec([HEIGHT, WIDTH], tf.int32)])
def targets_in_graph(panoptic):
    return make_targets(panoptic, INFO, CONFIG)


def slow_targets(panoptic: np.ndarray, info: DatasetInfo, config: TargetConfig) -> Targets:
    height, width = panoptic.shape
    semantic = panoptic // info.label_divisor
    semantic_weight = np.where(semantic == info.ignore_label, 0, 1).astype(np.float32)
    center_weight = np.where(semantic == info.ignore_label, 0, 1).astype(np.float32)
    heatmap = np.zeros((height, width), np.float32)
    offset = np.zeros((height, width, 2), np.float32)
    offset_weight = np.zeros((height, width), np.float32)
    radius = int(3 * config.center_sigma) + 1
    for identifier in np.unique(panoptic):
        class_id, instance = divmod(int(identifier), info.label_divisor)
        if class_id not in info.thing_ids:
            continue
        ys, xs = np.nonzero(panoptic == identifier)
        if instance == 0:
            center_weight[ys, xs] = 0
            continue
        center_y, center_x = ys.mean(), xs.mean()
        if len(ys) < config.small_instance_area:
            semantic_weight[ys, xs] = config.small_instance_weight
        offset[ys, xs, 0], offset[ys, xs, 1] = center_y - ys, center_x - xs
        offset_weight[ys, xs] = 1
        row, column = int(np.floor(center_y + 0.5)), int(np.floor(center_x + 0.5))
        for y in range(max(0, row - radius), min(height, row + radius + 1)):
            for x in range(max(0, column - radius), min(width, column + radius + 1)):
                squared = (y - row) ** 2 + (x - column) ** 2
                heatmap[y, x] = max(heatmap[y, x], np.exp(-squared / (2 * config.center_sigma**2)))
    return Targets(semantic, semantic_weight, heatmap, center_weight, offset, offset_weight)


def assert_equals_slow_reading(panoptic: np.ndarray) -> None:
    expected = slow_targets(panoptic, INFO, CONFIG)
    actual = targets_in_graph(panoptic)
    for name in Targets._fields:
        got, wanted = getattr(actual, name).numpy(), getattr(expected, name)
        assert got.dtype == wanted.dtype, name
        np.testing.assert_allclose(got, wanted, rtol=2e-7, atol=1e-7, err_msg=name)


@st.composite
def label_maps(draw):
    """Rectangles of any id over each other: visible parts of any shape, some cut off at the border."""
    panoptic = np.full((HEIGHT, WIDTH), draw(st.sampled_from([ROAD, VOID, CAR, CAR + 1])), np.int32)
    for _ in range(draw(st.integers(0, 12))):
        top, left = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
        height, width = draw(st.integers(1, 25)), draw(st.integers(1, 25))
        class_id, instance = draw(st.sampled_from([0, 1, 2, 3, 255])), draw(st.integers(0, 3))
        panoptic[top : top + height, left : left + width] = class_id * 1000 + instance * (class_id in (1, 3))
    return panoptic


@hypothesis.given(label_maps())
def test_drawn_maps(panoptic):
    assert_equals_slow_reading(panoptic)


@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from([2, 10, 999]))
@hypothesis.settings(max_examples=5)
def test_noise(seed, instances):
    """Hundreds of instances, scattered over single pixels."""
    generator = np.random.default_rng(seed)
    class_id = generator.choice([0, 1, 2, 3, 255], (HEIGHT, WIDTH))
    instance = generator.integers(0, instances, (HEIGHT, WIDTH)) * np.isin(class_id, INFO.thing_ids)
    assert_equals_slow_reading((class_id * 1000 + instance).astype(np.int32))


@pytest.mark.parametrize("fill", [ROAD, VOID, CAR], ids=["stuff", "void", "crowd"])
def test_no_instances(fill):
    targets = targets_in_graph(np.full((HEIGHT, WIDTH), fill, np.int32))
    assert not np.any(targets.center_heatmap) and not np.any(targets.center_offset)
    assert not np.any(targets.offset_weight)
    np.testing.assert_array_equal(targets.semantic_weight, np.float32(fill != VOID))
    np.testing.assert_array_equal(targets.center_weight, np.float32(fill == ROAD))


def test_more_than_a_thousand_instances():
    """A block of 2x2 px each, 1280 in all: no id is dropped, offsets are half a pixel each way."""
    rows, columns = np.indices((HEIGHT, WIDTH)) // 2
    number = rows * (WIDTH // 2) + columns
    panoptic = np.where(number < 640, CAR + 1 + number, PERSON + 1 + number - 640).astype(np.int32)
    targets = targets_in_graph(panoptic)
    np.testing.assert_array_equal(np.abs(targets.center_offset), np.float32(0.5))
    # Centres at .5 round up, to the lower right pixel of each block.
    np.testing.assert_array_equal(targets.center_heatmap.numpy() == 1, (np.indices((HEIGHT, WIDTH)) % 2 == 1).all(0))


def test_gaussian_of_the_paper():
    """8 px, peak exactly 1, symmetric, 51x51 px wide."""
    panoptic = np.zeros((129, 129), np.int32)
    panoptic[60:69, 50:79] = CAR + 1
    heatmap = make_targets(tf.constant(panoptic), INFO, TargetConfig()).center_heatmap.numpy()
    assert heatmap[64, 64] == 1 and np.sum(heatmap == 1) == 1
    np.testing.assert_array_equal(heatmap, heatmap[::-1])
    np.testing.assert_array_equal(heatmap, heatmap[:, ::-1])
    np.testing.assert_array_equal(heatmap, heatmap.T)
    assert heatmap[64, 72] == np.float32(np.exp(-0.5))
    ys, xs = np.nonzero(heatmap)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (39, 89, 39, 89)


def test_small_is_less_than_64_by_64_visible_pixels():
    panoptic = np.zeros((70, 140), np.int32)
    panoptic[:64, :64] = CAR + 1
    panoptic[:64, 70:134] = CAR + 2
    panoptic[0, 70] = VOID
    weight = make_targets(tf.constant(panoptic), INFO, TargetConfig()).semantic_weight.numpy()
    assert weight[10, 10] == 1 and weight[10, 80] == 3 and weight[0, 70] == 0 and weight[69, 0] == 1


def test_sums_beyond_32_bits_are_exact():
    """One instance of 1100x4200 px: the sum of its columns is 9.7e9."""
    panoptic = np.full((1100, 4200), CAR + 1, np.int32)
    offset = make_targets(tf.constant(panoptic), INFO, TargetConfig()).center_offset.numpy()
    np.testing.assert_array_equal(offset[[0, -1], [0, -1]], [[549.5, 2099.5], [-549.5, -2099.5]])


def test_shapes_are_static_in_a_dataset():
    dataset = tf.data.Dataset.from_tensors(tf.zeros([9, 17], tf.int32)).map(lambda p: make_targets(p, INFO, CONFIG))
    assert isinstance(dataset.element_spec, Targets)
    for name, spec in dataset.element_spec._asdict().items():
        assert spec.shape == ([9, 17, 2] if name == "center_offset" else [9, 17])
