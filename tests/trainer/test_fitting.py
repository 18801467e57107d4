"""A compiled model in Keras's own loop, held against the training loop of the library."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.checkpoints import named_weights
from deeplab2_lite.config_loading import resolve_dataset_info, save_config
from deeplab2_lite.data.fitting import fitting_dataset, fitting_steps, fitting_validation_dataset
from deeplab2_lite.errors import UserError
from deeplab2_lite.panoptic_deeplab import PanopticDeepLab
from deeplab2_lite.panoptic_losses import TOTAL
from deeplab2_lite.trainer.evaluation_callback import EvaluationCallback
from deeplab2_lite.trainer.fitting import compiled_model

from .tiny import changed, tiny_network, tiny_trainer, values

ROOT = Path(__file__).parents[2]
NAMES = ("semantic_loss", "center_loss", "regression_loss")
QUALITY = "val_panoptic_quality/All/PQ"


def tiny_model(config):
    return compiled_model(config, network=tiny_network(config, resolve_dataset_info(config).num_classes))


@pytest.fixture(scope="module")
def batch(config):
    return next(iter(fitting_dataset(config)))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_three_steps_of_fit_are_three_steps_of_the_loop(config, name):
    config = changed(config, optimizer={"name": name, "warmup_steps": 2, "clip_global_norm": 0.5, "options": {}})
    trainer, state = tiny_trainer(config)
    outputs = trainer.train(tf.constant(3))
    expected = values(named_weights(state.network))
    model = tiny_model(config)
    before = values(named_weights(model))
    history = model.fit(fitting_dataset(config), steps_per_epoch=3, verbose=0).history
    found = values(named_weights(model))
    assert set(found) == set(expected)
    assert max(np.abs(expected[key] - before[key]).max() for key in expected) > 1e-4
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
    assert set(history) == {"loss", TOTAL, *NAMES}
    for key in (TOTAL, *NAMES):
        assert history[key][0] == pytest.approx(outputs[f"losses/train_{key}"], rel=1e-5), key


def test_a_loss_that_is_not_finite_changes_nothing_and_stops(config, batch):
    images, targets = batch
    broken = targets._replace(center_heatmap=targets.center_heatmap * np.nan)
    dataset = tf.data.Dataset.from_tensors((images, broken)).repeat(5)
    model = tiny_model(config)
    before = values(named_weights(model))
    history = model.fit(dataset, callbacks=[keras.callbacks.TerminateOnNaN()], verbose=0)
    assert np.isnan(history.history["loss"][0])
    assert model.stop_training
    assert int(model.optimizer.iterations) == 0
    for name, value in values(named_weights(model)).items():
        np.testing.assert_array_equal(value, before[name])


def test_callbacks_fire_and_the_checkpoint_goes_on(config, tmp_path, batch):
    model = tiny_model(config)
    # A rate that a callback can change.
    model.compile(keras.optimizers.Adam(1e-2), losses=config.losses)
    callbacks = [
        EvaluationCallback(config, tmp_path / "evaluation"),
        keras.callbacks.TensorBoard(str(tmp_path / "logs")),
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=1e9),
        keras.callbacks.EarlyStopping(patience=2, min_delta=1e9),
        keras.callbacks.ModelCheckpoint(str(tmp_path / "last.keras"), monitor=QUALITY, mode="max"),
    ]
    dataset = tf.data.Dataset.from_tensors(batch).repeat(4)
    validation = fitting_validation_dataset(config)
    history = model.fit(dataset, epochs=9, validation_data=validation, callbacks=callbacks, verbose=0).history
    assert len(history["loss"]) == 3
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["lr"] == pytest.approx([1e-2, 1e-2, 5e-3])
    assert all(0 <= value <= 1 for value in history[QUALITY])
    assert (tmp_path / "evaluation" / "metrics.json").is_file()
    assert list((tmp_path / "logs" / "validation").iterdir())
    evaluated = model.evaluate(validation, return_dict=True, verbose=0)
    assert evaluated[TOTAL] == pytest.approx(history[f"val_{TOTAL}"][-1], rel=1e-5)

    loaded = keras.models.load_model(tmp_path / "last.keras")
    assert type(loaded) is PanopticDeepLab
    assert int(loaded.optimizer.iterations) == 12
    predictions, expected = loaded.predict(batch[0], verbose=0), model.predict(batch[0], verbose=0)
    for name, value in expected.items():
        np.testing.assert_array_equal(predictions[name], value)
    for each in (model, loaded):
        each.fit(dataset.take(1), verbose=0)
    for name, value in values(named_weights(model)).items():
        np.testing.assert_allclose(values(named_weights(loaded))[name], value, atol=1e-6)


def test_evaluate_gives_the_losses_of_the_images(config):
    info = resolve_dataset_info(config)
    model = tiny_model(config)
    validation = fitting_validation_dataset(config)
    assert int(validation.cardinality()) == 3
    found = model.evaluate(validation, return_dict=True, verbose=0)
    pixels = []
    for images, targets in validation:
        logits = tf.image.resize(model(images)["semantic_logits"], images.shape[1:3])
        assert logits.shape[-1] == info.num_classes and targets.semantic.shape == images.shape[:3]
        heatmap = tf.raw_ops.ResizeBilinear(
            images=model(images)["center_heatmap"], size=images.shape[1:3], align_corners=True
        )[..., 0]
        weight = targets.center_weight
        error = tf.reduce_sum(weight * (heatmap - targets.center_heatmap) ** 2) / tf.reduce_sum(weight)
        pixels.append(config.losses.center_weight * float(error))
    assert found["center_loss"] == pytest.approx(np.mean(pixels), rel=1e-5)
    assert found["loss"] == pytest.approx(sum(found[name] for name in NAMES), rel=1e-5)


def test_a_network_within_another_model_trains(config, batch):
    info = resolve_dataset_info(config)
    network = tiny_network(config, info.num_classes)
    images = keras.Input((None, None, 3), name="raw")
    color = keras.layers.Dense(3, kernel_initializer="identity", kernel_regularizer="l2", name="color")(images)
    heads = network(color)
    logits = keras.layers.Conv2D(info.num_classes, 1, name="refined")(heads["semantic_logits"])
    model = PanopticDeepLab(images, {**heads, "semantic_logits": logits})
    model.compile(keras.optimizers.SGD(1e-3), losses=config.losses)
    before = values(model.trainable_variables)
    first = model.train_on_batch(*batch, return_dict=True)
    assert first["regularization_loss"] == pytest.approx(0.01 * 3, rel=1e-5)
    assert first["loss"] == pytest.approx(sum(first[name] for name in (*NAMES, "regularization_loss")), rel=1e-5)
    after = values(model.trainable_variables)
    assert all(np.any(after[name] != value) for name, value in before.items())


def test_a_layer_in_a_plain_keras_model_trains_by_keras_losses(config, batch):
    network = PanopticDeepLab(*(lambda n: (n.input, n.output))(tiny_network(config, 3)))
    images = keras.Input((65, 97, 3))
    score = keras.layers.GlobalAveragePooling2D()(network(images)["semantic_logits"])
    model = keras.Model(images, keras.layers.Dense(1)(score))
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    losses = model.fit(batch[0], np.ones(4, np.float32), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_loss_of_the_users_is_keras_own(config, batch):
    model = tiny_model(config)
    model.compile("sgd", {"semantic_logits": "mse", "center_heatmap": None, "center_offset": None})
    outputs = model(batch[0])
    expected = float(tf.reduce_mean(outputs["semantic_logits"] ** 2))
    zeros = {name: tf.zeros_like(value) for name, value in outputs.items()}
    assert model.evaluate(batch[0], zeros, verbose=0, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)


def fitted(config, strategy):
    with strategy.scope():
        model = tiny_model(config)
    history = model.fit(fitting_dataset(config), steps_per_epoch=2, verbose=0).history
    return values(named_weights(model)), history


def assert_same_training(config, strategy):
    (weights, history), (expected, expected_history) = (
        fitted(config, s) for s in (strategy, tf.distribute.get_strategy())
    )
    for name, value in expected.items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    for name, value in expected_history.items():
        np.testing.assert_allclose(history[name], value, rtol=1e-4, err_msg=name)


def test_one_mirrored_device_trains_as_none(config):
    assert_same_training(config, tf.distribute.MirroredStrategy(["/cpu:0"]))


TWO_DEVICES = """
import sys
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from deeplab2_lite.config_loading import load_config
from tests.trainer.test_fitting import assert_same_training

assert_same_training(load_config(sys.argv[1]), tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]))
"""


@pytest.mark.slow
def test_two_mirrored_devices_train_as_one(config, tmp_path):
    config = changed(config, batch_norm={"synchronized": True})
    path = save_config(config, tmp_path / "config.yaml")
    result = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_what_only_the_loop_can_do_is_refused_in_one_line(config):
    network = tiny_network(config, 3)
    cases = (
        (changed(config, train={"ema_decay": 0.9}), "train.ema_decay"),
        (changed(config, train={"accumulation_steps": 2}), "train.accumulation_steps"),
        (changed(config, optimizer={"backbone_multiplier": 0.1}), "train.optimizer.backbone_multiplier"),
    )
    for case, key in cases:
        with pytest.raises(UserError, match=f"{key}: .* not for 'fit'") as error:
            compiled_model(case, network=network)
        assert "\n" not in str(error.value)
    images = keras.Input((None, None, 3))
    with pytest.raises(UserError, match="no heads of segmentation"):
        PanopticDeepLab(images, images * 2.0).compile()
    low = keras.layers.Conv2D(2, 1, dtype=keras.mixed_precision.Policy("mixed_float16"))(images)
    with pytest.raises(UserError, match="float16"):
        PanopticDeepLab(images, {"semantic_logits": low}).compile()


def test_other_data_is_refused_in_one_line(config, batch):
    labels = tf.data.Dataset.from_tensors((batch[0], batch[1].semantic))
    model = tiny_model(config)
    for arguments in ((batch[0], batch[1].semantic), (batch[0],), (labels,)):
        for call in (model.fit, model.evaluate):
            with pytest.raises(UserError, match="expected pairs of images and Targets"):
                call(*arguments)
    with pytest.raises(UserError, match=r"data\.dir: not set"):
        fitting_dataset(dataclasses.replace(config, data=dataclasses.replace(config.data, dir=None)))


def test_steps_of_an_epoch(config):
    assert fitting_steps(config) == 10 // 4
    dataset = fitting_dataset(config)
    assert int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY
    second = next(iter(dataset.skip(1)))
    for one, other in zip(
        tf.nest.flatten(second), tf.nest.flatten(next(iter(fitting_dataset(config, 1)))), strict=True
    ):
        np.testing.assert_array_equal(one, other)
