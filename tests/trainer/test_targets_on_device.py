"""Training on targets that the device makes is training on those of the host."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.checkpoints import named_weights
from deeplab2_lite.config_loading import resolve_dataset_info, save_config
from deeplab2_lite.data.pipeline import LabelledBatch, TrainingBatch, training_dataset
from deeplab2_lite.data.record_index import open_records
from deeplab2_lite.data.targets import make_targets

from .test_loop import TWO_DEVICES, make_trainer


def making_targets_on_device(config):
    return dataclasses.replace(config, targets=dataclasses.replace(config.targets, on_device=True))


def weights_of(network):
    return np.concatenate([np.array(tf.convert_to_tensor(v)).ravel() for v in named_weights(network).values()])


def test_labels_travel_in_place_of_targets(config):
    info, index = resolve_dataset_info(config), open_records(config.data.dir, config.data.train_split)
    device_config = making_targets_on_device(config)
    host = training_dataset(config, info, index)
    device = training_dataset(device_config, info, index)
    spec = device.element_spec
    assert isinstance(spec, LabelledBatch)
    batch, crop = config.train.batch_size, config.data.crop_size
    assert spec.panoptic == tf.TensorSpec([batch, *crop], tf.int32)
    wanted, got = next(iter(host)), next(iter(device))
    assert isinstance(wanted, TrainingBatch) and isinstance(got, LabelledBatch)
    np.testing.assert_array_equal(got.image, wanted.image)
    np.testing.assert_array_equal(got.record, wanted.record)
    for i in range(batch):
        targets = make_targets(got.panoptic[i], info, config.targets)
        for from_label, from_host in zip(targets, wanted.targets, strict=True):
            np.testing.assert_array_equal(from_label, from_host[i])


def test_same_weights_either_way(config):
    weights, losses = [], []
    for choice in (config, making_targets_on_device(config)):
        trainer, state = make_trainer(choice)
        network = state.network
        before = weights_of(network)
        tags = trainer.train(tf.constant(3))
        losses.append({tag: value for tag, value in tags.items() if tag.startswith("losses/")})
        weights.append(weights_of(network))
    update = np.linalg.norm(weights[0] - before)
    assert update > 1e-3
    assert np.linalg.norm(weights[1] - weights[0]) < 1e-3 * update
    assert losses[0] and losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
def test_two_devices_make_the_targets_of_one(config, tmp_path):
    optimizer = dataclasses.replace(config.train.optimizer, learning_rate=1e-4, power=0.0)
    batch_norm = dataclasses.replace(config.model.batch_norm, synchronized=True)
    config = dataclasses.replace(
        making_targets_on_device(config),
        train=dataclasses.replace(config.train, optimizer=optimizer),
        model=dataclasses.replace(config.model, batch_norm=batch_norm),
    )
    path = save_config(config, tmp_path / "config.yaml")
    # Virtual devices must be there before TensorFlow starts, hence another process.
    (tmp_path / "tests_trainer_test_loop.py").write_text((Path(__file__).parent / "test_loop.py").read_text())
    script = tmp_path / "two_devices.py"
    script.write_text(TWO_DEVICES)
    done = subprocess.run([sys.executable, str(script), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
