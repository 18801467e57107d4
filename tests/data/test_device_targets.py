"""Targets made on the device: those of the host, in static shapes, under XLA."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite.config import ExperimentConfig, ModelConfig, TargetConfig
from deeplab2_lite.config_validation import validate
from deeplab2_lite.data.device_targets import make_targets_on_device
from deeplab2_lite.data.targets import make_targets
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.panoptic_losses import Targets

from .target_reference import (
    CAR,
    CLASSES,
    CONFIG,
    HEIGHT,
    INFO,
    ROAD,
    VOID,
    WIDTH,
    assert_equal_targets,
    crowded,
    label_maps,
    noise,
    slow_targets,
)

BATCH = 3


def on_device(panoptic: np.ndarray, info: DatasetInfo = INFO, config: TargetConfig = CONFIG) -> Targets:
    def make(panoptic):
        return make_targets_on_device(panoptic, info, config)

    return tf.function(make, jit_compile=True)(tf.constant(panoptic))


@tf.function(input_signature=[tf.TensorSpec([BATCH, HEIGHT, WIDTH], tf.int32)], jit_compile=True)
def with_xla(panoptic):
    return make_targets_on_device(panoptic, INFO, CONFIG)


@tf.function(input_signature=[tf.TensorSpec([BATCH, HEIGHT, WIDTH], tf.int32)])
def without_xla(panoptic):
    return make_targets_on_device(panoptic, INFO, CONFIG)


@tf.function(input_signature=[tf.TensorSpec([HEIGHT, WIDTH], tf.int32)])
def on_host(panoptic):
    return make_targets(panoptic, INFO, CONFIG)


def assert_equals_slow_reading_and_host(panoptic: np.ndarray) -> None:
    """Every image of a batch has its own instances, whatever ids the others share with it."""
    batch = np.stack([panoptic, panoptic[::-1], np.roll(panoptic, (7, 5), axis=(0, 1))])
    host = [on_host(image) for image in batch]
    slow = slow_targets(panoptic, INFO, CONFIG)
    for make in (with_xla, without_xla):
        actual = make(batch)
        assert_equal_targets(image_of(actual, 0), slow, rtol=1e-6, atol=1e-6)
        for i in range(BATCH):
            assert_equal_targets(image_of(actual, i), host[i], rtol=1e-6, atol=1e-6)


def image_of(targets: Targets, i: int) -> Targets:
    return Targets(*(tensor[i] for tensor in targets))


@hypothesis.given(label_maps())
def test_drawn_maps(panoptic):
    assert_equals_slow_reading_and_host(panoptic)


@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from([2, 10, 999]))
@hypothesis.settings(max_examples=4)
def test_noise(seed, instances):
    assert_equals_slow_reading_and_host(noise(seed, instances))


@pytest.mark.parametrize("fill", [ROAD, VOID, CAR], ids=["stuff", "void", "crowd"])
def test_no_instances(fill):
    targets = with_xla(np.full((BATCH, HEIGHT, WIDTH), fill, np.int32))
    assert not np.any(targets.center_heatmap) and not np.any(targets.center_offset)
    assert not np.any(targets.offset_weight)
    np.testing.assert_array_equal(targets.semantic_weight, np.float32(fill != VOID))
    np.testing.assert_array_equal(targets.center_weight, np.float32(fill == ROAD))


def test_more_than_a_thousand_instances_of_one_class():
    panoptic, info = crowded(seed=0)
    actual = image_of(on_device(panoptic[np.newaxis], info), 0)
    assert_equal_targets(actual, slow_targets(panoptic, info, CONFIG), rtol=1e-6, atol=1e-6)


def test_a_label_space_without_things():
    info = DatasetInfo("stuff", (CLASSES[0], CLASSES[2]))
    panoptic = np.array([[0, 0, 255000], [1000, 0, 1000]], np.int32)
    assert_equal_targets(image_of(on_device(panoptic[np.newaxis], info), 0), slow_targets(panoptic, info, CONFIG))


@pytest.mark.parametrize("size", [(1100, 4200), (1025, 2049)], ids=["64 bits", "32 bits"])
def test_sums_of_one_instance_as_large_as_its_image(size):
    """Void from the middle on: all coordinates that count have one sign, and their sum is the largest there is."""
    panoptic = np.full((1, *size), CAR + 1, np.int32)
    panoptic[..., : size[1] // 2] = VOID
    offset = on_device(panoptic).center_offset.numpy()
    middle = [(size[0] - 1) / 2, (size[1] // 2 + size[1] - 1) / 2]
    np.testing.assert_array_equal(offset[0, [0, -1], [size[1] // 2, -1]], np.float32(
        [[middle[0], middle[1] - size[1] // 2], [middle[0] - size[0] + 1, middle[1] - size[1] + 1]]
    ))  # fmt: skip


def test_a_size_that_is_not_static_is_refused():
    with pytest.raises(ValueError, match="static"):
        tf.function(lambda p: make_targets_on_device(p, INFO, CONFIG)).get_concrete_function(
            tf.TensorSpec([None, HEIGHT, WIDTH], tf.int32)
        )


def test_a_classifier_has_no_targets_to_make():
    config = ExperimentConfig(model=ModelConfig(tasks="classification"), targets=TargetConfig(on_device=True))
    with pytest.raises(UserError, match=r"^targets: has no meaning for model\.tasks classification"):
        validate(config)


@pytest.mark.real_data
def test_real_labels(real_data):
    """Two streets, of label ids as they are, under the paper's Gaussian."""
    classes = tuple(ClassInfo(str(i), 24 <= i <= 33, (i, i, i), i) for i in range(1, 34))
    info = DatasetInfo("streets", (ClassInfo("0", False, (0, 0, 0), 0), *classes))
    files = sorted((real_data / "cityscapes" / "gtFine").glob("*/*/*_instanceIds.png"))[:2]
    values = np.stack([np.asarray(Image.open(file)) for file in files]).astype(np.int32)
    panoptic = np.where(values >= 1000, values + 1, values * 1000)
    panoptic[values <= 3] = info.void_id
    assert len(np.unique(panoptic[values >= 1000])) > 10
    actual = on_device(panoptic, info, TargetConfig())
    for i, image in enumerate(panoptic):
        expected = make_targets(tf.constant(image), info, TargetConfig())
        assert_equal_targets(image_of(actual, i), expected, rtol=1e-6, atol=1e-6)
