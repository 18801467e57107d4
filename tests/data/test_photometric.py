"""Colour policies: what is drawn, how often, how strong, and that pixels and labels stay where they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, ClassificationConfig, DataConfig, PhotometricConfig
from deeplab2_lite.data import color_operations as operations
from deeplab2_lite.data.augment import augment, augment_for_classification
from deeplab2_lite.data.color_policies import POLICIES, ColorOperation, Step, scaled_argument
from deeplab2_lite.data.draws import Draw, draw_integer, draw_uniform
from deeplab2_lite.data.photometric import apply_operation, change_colors

VOID = 255000
RAMP = np.broadcast_to(np.arange(256, dtype=np.float32)[None, :, None], (3, 256, 3))
FUNCTIONS = {operation: getattr(operations, operation.name.lower()) for operation in list(ColorOperation)[1:]}
WITHOUT_ARGUMENT = (ColorOperation.AUTO_CONTRAST, ColorOperation.EQUALIZE, ColorOperation.INVERT)
STEPS = [step for policy in POLICIES.values() for sub_policy in policy for step in sub_policy]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image with fractions, as interpolation gives it, and not of the full range."""
    return np.random.default_rng(seed).uniform(20, 200, (height, width, 3)).astype(np.float32)


def by_hand(operation: ColorOperation, image: np.ndarray, argument: float) -> np.ndarray:
    arguments = () if operation in WITHOUT_ARGUMENT else (tf.constant(argument, tf.float32),)
    return FUNCTIONS[operation](tf.constant(np.rint(image)), *arguments).numpy()


# ---- the tables


def test_policies_hold_what_operations_take_and_use_them_all():
    for step in STEPS:
        assert 0 <= step.probability <= 1
        assert (step.argument is None) == (step.operation in WITHOUT_ARGUMENT)
        if step.operation is ColorOperation.POSTERIZE:
            assert step.argument in range(4, 9)
        elif step.operation is ColorOperation.SOLARIZE:
            assert step.argument in range(257)
        elif step.argument is not None:
            assert 0.1 <= step.argument <= 1.9
    assert {step.operation for step in STEPS} == set(FUNCTIONS)


def test_the_papers_policy_is_at_its_magnitudes():
    # Magnitudes 0..10 of Table 9 in the order of the table.
    levels = {"POSTERIZE": [8, 7, 6, 5, 6], "SOLARIZE": [5, 4, 3, 8, 7, 4, 5], "CONTRAST": [8, 8], "SHARPNESS": [7]}
    levels["COLOR"] = [0, 4, 2, 8, 0, 4]
    for name, expected in levels.items():
        steps = [s for pair in POLICIES["imagenet"] for s in pair if s.operation.name == name]
        arguments = np.array([step.argument for step in steps])
        share = np.array(expected) / 10
        if name == "POSTERIZE":
            np.testing.assert_array_equal(arguments, np.rint(8 - 4 * share))
        elif name == "SOLARIZE":
            np.testing.assert_array_equal(arguments, np.ceil(256 - 256 * share))
        else:
            np.testing.assert_allclose(arguments, 0.1 + 1.8 * share)
    assert len(POLICIES["imagenet"]) == 25


def test_public_codes_policy_is_at_its_scaled_magnitudes():
    steps = [step for sub_policy in POLICIES["panoptic_deeplab"] for step in sub_policy]
    levels = [7, 10, None, 10, 9, 9, 7, None, 1, None]
    for step, level in zip(steps, levels, strict=True):
        if level is None:
            assert step.operation is ColorOperation.EQUALIZE
        elif step.operation is ColorOperation.SOLARIZE:
            assert step.argument == int(level * 0.2 / 10 * 256)
        else:
            assert step.argument == pytest.approx(0.1 + 1.8 * level * 0.2 / 10)


@pytest.mark.parametrize("operation", sorted(set(FUNCTIONS) - set(WITHOUT_ARGUMENT)))
def test_magnitude_leads_from_nothing_to_the_full_argument(operation):
    full = next(step for step in STEPS if step.operation is operation)
    assert scaled_argument(full, 1.0) == full.argument
    strengths = []
    for magnitude in (0.0, 0.25, 0.5, 1.0):
        argument = scaled_argument(full, magnitude)
        assert operation is not ColorOperation.POSTERIZE or argument == round(argument)
        image = noise(9, 11)
        strengths.append(np.abs(by_hand(operation, image, argument) - np.rint(image)).mean())
    assert strengths[0] < 1e-4 and strengths == sorted(strengths) and strengths[-1] > 0.5
    ramp = by_hand(operation, RAMP, scaled_argument(full, 0.0))
    np.testing.assert_allclose(ramp, RAMP, atol=1e-4)


def test_operations_without_strength_ignore_the_magnitude():
    assert scaled_argument(Step(ColorOperation.EQUALIZE, 0.5), 0.1) == 0.0


# ---- one operation


@pytest.mark.parametrize("operation", sorted(FUNCTIONS))
def test_the_operation_asked_for_is_done_on_whole_levels(operation):
    arguments = dict.fromkeys(FUNCTIONS, 1.7) | {ColorOperation.POSTERIZE: 3.0, ColorOperation.SOLARIZE: 99.0}
    image = noise(23, 17)
    result = apply_operation(tf.constant(image), tf.constant(int(operation)), tf.constant(arguments[operation]))
    np.testing.assert_array_equal(result, by_hand(operation, image, arguments[operation]))
    assert np.abs(result - image).max() > 2
    others = [by_hand(other, image, arguments[other]) for other in FUNCTIONS if other is not operation]
    assert min(np.abs(result - other).max() for other in others) > 1


def test_nothing_leaves_fractions_alone():
    image = noise(5, 7)
    result = apply_operation(tf.constant(image), tf.constant(int(ColorOperation.NOTHING)), tf.constant(0.0))
    np.testing.assert_array_equal(result, image)


@pytest.mark.parametrize("operation", sorted(FUNCTIONS))
def test_what_interpolation_adds_to_a_constant_image_is_not_torn_apart(operation):
    image = 128 + np.random.default_rng(0).uniform(-1e-4, 1e-4, (20, 20, 3)).astype(np.float32)
    result = apply_operation(tf.constant(image), tf.constant(int(operation)), tf.constant(4.0))
    assert np.ptp(result) == 0


# ---- policies


def changed_in_graph(image: np.ndarray, photometric: PhotometricConfig, count: int, seed: int = 7) -> list[np.ndarray]:
    def change(position):
        return change_colors(tf.constant(image), tf.stack([tf.constant(seed, tf.int64), position]), photometric)

    return [changed.numpy() for changed in tf.data.Dataset.range(count).map(change)]


@pytest.mark.parametrize(("policy", "magnitude"), [("imagenet", 1.0), ("panoptic_deeplab", 0.4)])
def test_a_policy_is_followed_step_by_step(policy, magnitude):
    """Against a plain loop over its table; that is eager, and this a graph."""
    image = noise(20, 24)
    photometric = PhotometricConfig(policy=policy, policy_magnitude=magnitude)
    drawn = []
    for position, result in enumerate(changed_in_graph(image, photometric, 50)):
        seed = tf.constant([7, position], tf.int64)
        drawn.append(int(draw_integer(seed, Draw.SUB_POLICY, len(POLICIES[policy]))))
        expected = image
        for step, draw in zip(POLICIES[policy][drawn[-1]], (Draw.FIRST_OPERATION, Draw.SECOND_OPERATION), strict=False):
            if draw_uniform(seed, draw, 0.0, 1.0) < step.probability:
                expected = by_hand(step.operation, expected, scaled_argument(step, magnitude))
        np.testing.assert_allclose(result, expected, atol=1e-3)
        np.testing.assert_allclose(change_colors(tf.constant(image), seed, photometric), result, atol=1e-3)
    assert len(set(drawn)) > 0.7 * len(POLICIES[policy])


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_images_stay_as_they_are_as_often_as_the_table_says(policy):
    image = noise(6, 8)
    untouched = [np.prod([1 - step.probability for step in sub_policy]) for sub_policy in POLICIES[policy]]
    results = changed_in_graph(image, PhotometricConfig(policy=policy), 600)
    share = np.mean([np.array_equal(result, image) for result in results])
    # Three standard deviations of 600 draws are 0.06.
    assert share == pytest.approx(np.mean(untouched), abs=0.06)


def test_jitter_follows_the_policy():
    image = noise(6, 8)
    jitter = PhotometricConfig(brightness=0.2, saturation=0.3)
    both = dataclasses.replace(jitter, policy="imagenet")
    once = changed_in_graph(image, PhotometricConfig(policy="imagenet"), 10)
    for position, result in enumerate(changed_in_graph(image, both, 10)):
        expected = change_colors(tf.constant(once[position]), tf.constant([7, position], tf.int64), jitter)
        np.testing.assert_allclose(result, expected, atol=1e-3)


# ---- in the pipeline

SPEC = (tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([2], tf.int64))


def augmenter(photometric: PhotometricConfig):
    config = DataConfig(crop_size=(33, 49), augmentation=AugmentationConfig(photometric=photometric))
    return tf.function(lambda image, label, seed: augment(image, label, seed, config, VOID), input_signature=SPEC)


def test_labels_places_and_padding_stay_as_without_a_policy():
    generator = np.random.default_rng(1)
    image = tf.constant(generator.integers(0, 200, (30, 40, 3)), tf.uint8)
    label = tf.constant(generator.integers(0, 1000, (30, 40)), tf.int32)
    plain, changing = augmenter(PhotometricConfig()), augmenter(PhotometricConfig(policy="imagenet"))
    changes, with_padding = 0, 0
    for position in range(30):
        seed = tf.constant([3, position], tf.int64)
        before, after, again = plain(image, label, seed), changing(image, label, seed), changing(image, label, seed)
        assert after.image.shape == (33, 49, 3) and after.image.dtype == tf.float32
        np.testing.assert_array_equal(after.panoptic, before.panoptic)
        np.testing.assert_array_equal(after.image, again.image)
        valid = after.panoptic.numpy() != VOID
        np.testing.assert_array_equal(after.image.numpy()[~valid], 127.5)
        changes += np.abs(after.image - before.image).max() > 1
        with_padding += not valid.all()
        # Statistics of the image alone: what was to be padded does not count.
        rows, columns = valid.any(axis=1).sum(), valid.any(axis=0).sum()
        expected = change_colors(before.image[:rows, :columns], seed, PhotometricConfig(policy="imagenet"))
        np.testing.assert_allclose(after.image[:rows, :columns], expected, atol=1e-3)
    assert changes > 15 and with_padding > 10


def test_a_classifiers_crops_follow_the_policy_too():
    image = tf.constant(np.random.default_rng(2).integers(0, 200, (30, 40, 3)), tf.uint8)

    def crops(photometric: PhotometricConfig) -> list[np.ndarray]:
        config = DataConfig(crop_size=(17, 33), augmentation=AugmentationConfig(photometric=photometric))

        def crop(position):
            seed = tf.stack([tf.constant(7, tf.int64), position])
            return augment_for_classification(image, seed, config, ClassificationConfig())

        return [c.numpy() for c in tf.data.Dataset.range(15).map(crop)]

    photometric = PhotometricConfig(policy="imagenet")
    changes = 0
    for position, (before, after) in enumerate(zip(crops(PhotometricConfig()), crops(photometric), strict=True)):
        expected = change_colors(tf.constant(before), tf.constant([7, position], tf.int64), photometric)
        np.testing.assert_allclose(after, expected, atol=1e-3)
        changes += np.abs(after - before).max() > 1
    assert changes > 7


def test_streams_of_random_numbers_never_change():
    """A run that goes on after an update would else see other images."""
    names = ["FLIP_LEFT_RIGHT", "FLIP_UP_DOWN", "ROTATION", "SCALE", "CROP_Y", "CROP_X", "BRIGHTNESS", "CONTRAST"]
    names += ["SATURATION", "HUE", "CROP_WINDOW", "SUB_POLICY", "FIRST_OPERATION", "SECOND_OPERATION"]
    assert [Draw[name] for name in names] == list(range(len(names)))
    seed = tf.constant([1, 2], tf.int64)
    assert [int(draw_integer(seed, draw, 1000)) for draw in (Draw.SCALE, Draw.CROP_Y, Draw.SUB_POLICY)] == [
        357,
        657,
        505,
    ]
