"""The whole training step as one program of static shape, with weights, statistics and optimizer as state.

Forward pass, losses, backward pass, batch statistics and update: what a device is to be timed on that runs XLA's
programs and has no TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.data.targets import Targets
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.files import atomic_folder
from deeplab2_lite.model import build_model
from deeplab2_lite.postprocessing.upsampling import upsample_heads
from deeplab2_lite.runtimes.exporting import write_manifest
from deeplab2_lite.runtimes.to_stablehlo import convert_function
from deeplab2_lite.trainer.loop import TOTAL, loss_terms
from deeplab2_lite.trainer.optimization import build_optimizer

IMAGE = "image"


class StepProgram(NamedTuple):
    """A training step on one device.

    Attributes:
        function: Takes the image and each of the `Targets` in their order, takes one step, and gives losses by their
            TensorBoard names.
        inputs: What it takes.
        network: Whose weights it changes.
        optimizer: Whose state it changes.
    """

    function: Any
    inputs: list[tf.TensorSpec]
    network: keras.Model
    optimizer: Any


def build_step(config: ExperimentConfig, info: DatasetInfo, compiled: bool = True) -> StepProgram:
    """Builds network, optimizer and step.

    Args:
        config: `model`, `losses`, `train` and `data.crop_size` are used; `train.batch_size` is that of the step.
        info: Label space.
        compiled: Whether XLA compiles it.

    Returns:
        The step, with the network's first weights.
    """
    size = config.data.crop_size
    network = build_model(config, info.num_classes, size)
    optimizer = build_optimizer(config.train.optimizer, config.train.steps, network.trainable_variables)

    def step(image: tf.Tensor, *targets: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            heads = upsample_heads(network(image, training=True), *size)
            terms = loss_terms(heads, Targets(*targets), config)
            losses = {name: _weighted(term) for name, term in terms.items()}
            total = tf.add_n(list(losses.values()))
        variables = network.trainable_variables
        gradients = tape.gradient(total, variables)
        if config.train.optimizer.clip_global_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, config.train.optimizer.clip_global_norm)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {TOTAL: total, **losses}

    inputs = _inputs(config)
    return StepProgram(tf.function(step, inputs, autograph=False, jit_compile=compiled), inputs, network, optimizer)


def export_step(config: ExperimentConfig, info: DatasetInfo, folder: Path) -> Path:
    """Writes a training step as StableHLO, with the state before the first.

    Args:
        config: As for `build_step`.
        info: Likewise.
        folder: Gets `model.stablehlo`, `weights.npz`, `manifest.json` and `jax_module.py`.

    Returns:
        The folder.
    """
    step = build_step(config, info)
    with atomic_folder(folder) as temporary:
        details = convert_function(step.function, step.inputs, temporary)
        write_manifest(temporary, {"format": "stablehlo", "program": "training step", **details})
    return folder


def _inputs(config: ExperimentConfig) -> list[tf.TensorSpec]:
    shape = [config.train.batch_size, *config.data.crop_size]
    specs = [tf.TensorSpec([*shape, 3], tf.float32, IMAGE)]
    for name in Targets._fields:
        depth = [2] if name == "center_offset" else []
        specs.append(tf.TensorSpec(shape + depth, tf.int32 if name == "semantic" else tf.float32, name))
    return specs


def _weighted(term: Any) -> tf.Tensor:
    loss, weight = term
    # Nothing labelled has the loss 0, and not NaN.
    return weight * loss.numerator / tf.where(loss.denominator > 0, loss.denominator, 1.0)
