"""A network of a few layers with the heads of the real one, whose step is traced in a second."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config_loading import resolve_dataset_info
from deeplab2_lite.data.record_index import open_records
from deeplab2_lite.layers.convolutions import conv, conv_bn
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.trainer.panoptic import PanopticTrainer
from deeplab2_lite.trainer.training_state import TrainingState


def tiny_network(config, num_classes):
    settings = LayerSettings.from_config(config)
    images = keras.Input((None, None, 3), name="images")
    features = conv_bn(images / 255.0, settings, "backbone/stem", 8, 3, strides=4)
    features = conv_bn(features, settings, "decoder", 8)
    sizes = {"semantic_logits": num_classes, "center_heatmap": 1, "center_offset": 2}
    outputs = {
        name: tf.cast(conv(features, settings, f"heads/{name}", channels, use_bias=True), tf.float32)
        for name, channels in sizes.items()
    }
    return keras.Model(images, outputs)


def changed(config, train=None, optimizer=None, batch_norm=None, **parts):
    """Returns a configuration with other values in `train`, `train.optimizer`, `model.batch_norm`, or whole parts."""
    optimizer = dataclasses.replace(config.train.optimizer, **(optimizer or {}))
    batch_norm = dataclasses.replace(config.model.batch_norm, **(batch_norm or {}))
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, optimizer=optimizer, **(train or {})),
        model=dataclasses.replace(config.model, batch_norm=batch_norm),
        **parts,
    )


def tiny_trainer(config, strategy=None, skipped=()):
    strategy = strategy or tf.distribute.OneDeviceStrategy("/cpu:0")
    info = resolve_dataset_info(config)
    with strategy.scope():
        state = TrainingState(tiny_network(config, info.num_classes), config.train, config.train.steps)
    index = open_records(config.data.dir, config.data.train_split)
    return PanopticTrainer(config, info, index, strategy, state, skipped), state


def values(variables):
    if isinstance(variables, dict):
        return {name: np.array(tf.convert_to_tensor(variable)) for name, variable in variables.items()}
    return {v.name: np.array(tf.convert_to_tensor(v)) for v in variables}
