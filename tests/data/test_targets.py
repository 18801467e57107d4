"""Targets against a slow reading of paper section 3.1 in NumPy."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import TargetConfig
from deeplab2_lite.data.targets import make_targets
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.panoptic_losses import Targets

from .target_reference import (
    CAR,
    CLASSES,
    CONFIG,
    HEIGHT,
    INFO,
    PERSON,
    ROAD,
    VOID,
    WIDTH,
    assert_equal_targets,
    crowded,
    label_maps,
    noise,
    slow_targets,
)


@tf.function(input_signature=[tf.TensorSpec([HEIGHT, WIDTH], tf.int32)])
def targets_in_graph(panoptic):
    return make_targets(panoptic, INFO, CONFIG)


def assert_equals_slow_reading(panoptic: np.ndarray) -> None:
    assert_equal_targets(targets_in_graph(panoptic), slow_targets(panoptic, INFO, CONFIG))


@hypothesis.given(label_maps())
def test_drawn_maps(panoptic):
    assert_equals_slow_reading(panoptic)


@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from([2, 10, 999]))
@hypothesis.settings(max_examples=5)
def test_noise(seed, instances):
    """Hundreds of instances, scattered over single pixels."""
    assert_equals_slow_reading(noise(seed, instances))


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


def test_more_than_a_thousand_instances_of_one_class():
    panoptic, info = crowded(seed=0)
    assert_equal_targets(make_targets(tf.constant(panoptic), info, CONFIG), slow_targets(panoptic, info, CONFIG))


@pytest.mark.parametrize("ignore_label", [4, 255, 8191, 8192, 16000])
def test_label_spaces_of_other_void(ignore_label):
    """Classes and kinds share the bits of an integer, of 16 or of 32."""
    info = DatasetInfo("test", CLASSES, ignore_label=ignore_label, label_divisor=1000)
    panoptic = noise(seed=1, instances=20)
    panoptic[panoptic == VOID] = info.void_id
    # Ids between the classes and void belong to nothing, but are no reason to fail.
    panoptic[0, :3] = (ignore_label - 1) * 1000
    assert_equal_targets(make_targets(tf.constant(panoptic), info, CONFIG), slow_targets(panoptic, info, CONFIG))


def test_a_label_space_without_things():
    info = DatasetInfo("stuff", (CLASSES[0], CLASSES[2]))
    panoptic = np.array([[0, 0, 255000], [1000, 0, 1000]], np.int32)
    assert_equal_targets(make_targets(tf.constant(panoptic), info, CONFIG), slow_targets(panoptic, info, CONFIG))


def test_weight_below_one_of_small_instances():
    config = dataclasses.replace(CONFIG, small_instance_weight=0.1)
    panoptic = noise(seed=2, instances=200)
    assert_equal_targets(make_targets(tf.constant(panoptic), INFO, config), slow_targets(panoptic, INFO, config))


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


@pytest.mark.parametrize("shape", [(3, 16000), (16000, 3), (1, 40000)], ids=["wide", "high", "widest"])
def test_offsets_far_from_a_centre_are_those_of_float64(shape):
    """Of an instance with holes, so that its runs are many and its centre is no round number."""
    panoptic = np.where(np.random.default_rng(3).random(shape) < 0.9, CAR + 1, ROAD).astype(np.int32)
    offset = make_targets(tf.constant(panoptic), INFO, CONFIG).center_offset.numpy()
    pixels = np.argwhere(panoptic == CAR + 1)
    np.testing.assert_allclose(offset[tuple(pixels.T)], pixels.mean(axis=0) - pixels, rtol=1.2e-7, atol=1e-7)
    assert not offset[panoptic == ROAD].any()


def test_shapes_are_static_in_a_dataset():
    dataset = tf.data.Dataset.from_tensors(tf.zeros([9, 17], tf.int32)).map(lambda p: make_targets(p, INFO, CONFIG))
    assert isinstance(dataset.element_spec, Targets)
    for name, spec in dataset.element_spec._asdict().items():
        assert spec.shape == ([9, 17, 2] if name == "center_offset" else [9, 17])


def test_shapes_may_be_dynamic():
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def of_any_size(panoptic):
        return make_targets(panoptic, INFO, CONFIG)

    for panoptic in (noise(seed=4, instances=9), noise(seed=5, instances=9)[:7, :70]):
        assert_equal_targets(of_any_size(panoptic), slow_targets(panoptic, INFO, CONFIG))
