"""What stands before a run: its records, and settings that its devices ask for."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import tensorflow as tf

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.data import shapes
from deeplab2_lite.dataset_info import FILE_NAME
from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer.distribution import is_tpu


def is_classifier(config: ExperimentConfig) -> bool:
    """Whether whole images are classified."""
    return config.model.tasks == "classification"


def make_folder(path: Path) -> None:
    """Makes the folder of a run, if it is not there.

    Args:
        path: The folder.

    Raises:
        UserError: It cannot be made, or nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--model_dir: {path}: expected a folder ({error.strerror})") from None
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"--model_dir: {path}: cannot be written ({error.strerror})") from None


def prepare_data(config: ExperimentConfig, model_dir: Path) -> Path:
    """Returns the folder of records; generates it where the configuration says so.

    Args:
        config: The experiment.
        model_dir: Generated records go below it.

    Returns:
        The folder.

    Raises:
        UserError: There is none.
    """
    if config.data.dir is not None:
        folder = Path(config.data.dir)
        if not folder.is_dir():
            raise UserError(f"data.dir: no folder {folder}; expected one written by 'deeplab2-lite convert'")
        return folder
    if config.data.shapes is None:
        raise UserError(f"data.dir: not set; expected a folder of TFRecords with its {FILE_NAME}")
    return shapes.build(model_dir / "data", config.data.shapes).parent


def with_static_evaluation(config: ExperimentConfig, strategy: tf.distribute.Strategy) -> ExperimentConfig:
    """Returns the configuration, on a TPU with one size for all images of an evaluation."""
    # A classifier's crops are static anyway.
    if not is_tpu(strategy) or config.evaluation.fixed_size is not None or is_classifier(config):
        return config
    size = config.data.crop_size
    say(f"TPU: evaluation pads every image to data.crop_size {size[0]}x{size[1]} (evaluation.fixed_size)")
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, fixed_size=size))


def say(text: str) -> None:
    """Tells the user something, on standard error."""
    print(text, file=sys.stderr, flush=True)
