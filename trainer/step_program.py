"""The whole training step as one program of static shape, with weights, statistics and optimizer as state.

Forward pass, losses, backward pass, batch statistics and update: what a device is to be timed on that runs XLA's
programs and has no TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.data.pipeline import TrainingBatch
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.files import atomic_folder
from deeplab2_lite.model import build_model
from deeplab2_lite.panoptic_losses import TOTAL, Targets
from deeplab2_lite.replica_step import ReplicaStep
from deeplab2_lite.runtimes.exporting import write_manifest
from deeplab2_lite.runtimes.to_stablehlo import convert_function
from deeplab2_lite.trainer.panoptic import PanopticTrainer
from deeplab2_lite.trainer.training_state import TrainingState

IMAGE = "image"


class StepProgram(NamedTuple):
    """A training step on one device.

    Attributes:
        function: Takes the image and each of the `Targets` in their order, takes one step, and gives losses by their
            TensorBoard names.
        inputs: What it takes.
        state: What it changes.
    """

    function: Any
    inputs: list[tf.TensorSpec]
    state: TrainingState


class _Panoptic:
    """The task of `PanopticTrainer`, on batches that have their targets."""

    batch_losses = staticmethod(PanopticTrainer.batch_losses)
    batch_denominators = staticmethod(PanopticTrainer.batch_denominators)

    @staticmethod
    def prepare_batch(batch: TrainingBatch) -> TrainingBatch:
        return batch


def build_step(config: ExperimentConfig, info: DatasetInfo, compiled: bool = True) -> StepProgram:
    """Builds network, optimizer and step.

    Args:
        config: `model`, `losses`, `train` and `data.crop_size` are used; `train.batch_size` is that of the step.
        info: Label space.
        compiled: Whether XLA compiles it.

    Returns:
        The step, which is that of the training loop, with the network's first weights.
    """
    network = build_model(config, info.num_classes, config.data.crop_size)
    state = TrainingState(network, config.train, config.train.steps)
    take_step = ReplicaStep(_Panoptic(), config, state)

    def step(image: tf.Tensor, *targets: tf.Tensor) -> dict[str, tf.Tensor]:
        record = tf.zeros([config.train.batch_size], tf.int64)
        losses = take_step(TrainingBatch(image, Targets(*targets), record), tf.constant(False)).losses
        state.global_step.assign_add(1)
        return {TOTAL: tf.add_n(list(losses.values())), **losses}

    inputs = _inputs(config)
    return StepProgram(tf.function(step, inputs, autograph=False, jit_compile=compiled), inputs, state)


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
        details = convert_function(step.function, step.inputs, temporary, step.state.variables())
        write_manifest(temporary, {"format": "stablehlo", "program": "training step", **details})
    return folder


def _inputs(config: ExperimentConfig) -> list[tf.TensorSpec]:
    shape = [config.train.batch_size, *config.data.crop_size]
    specs = [tf.TensorSpec([*shape, 3], tf.float32, IMAGE)]
    for name in Targets._fields:
        depth = [2] if name == "center_offset" else []
        specs.append(tf.TensorSpec(shape + depth, tf.int32 if name == "semantic" else tf.float32, name))
    return specs
