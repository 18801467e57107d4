"""Weights that a training run starts from: written by an import, or out of the model folder of another run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tf_keras as keras

from deeplab2_lite.checkpoints import CheckpointStore, named_weights
from deeplab2_lite.classifier import LOGITS_LAYER
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import config_to_dict
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import atomic_path
from deeplab2_lite.loading import CHECKPOINTS, is_model_dir
from deeplab2_lite.pretrained.report import ImportReport
from deeplab2_lite.pretrained.translation import LOGITS

SUFFIX = ".npz"
_MODEL = "__model__"
_BACKBONE = "backbone/"
_RESNET = "resnet"
# What says the classes, in segmentation and in a classifier.
_LOGITS = (LOGITS, f"{LOGITS_LAYER}/")


class StartingWeights(NamedTuple):
    """Weights by structural path, and what they were made for.

    Attributes:
        weights: Arrays.
        model: The configuration of their network, as plain data.
        origin: Where they lie, for messages.
    """

    weights: Mapping[str, np.ndarray]
    model: Mapping[str, Any]
    origin: str


def write_weights(path: str | Path, weights: Mapping[str, np.ndarray], config: ExperimentConfig) -> Path:
    """Writes weights, whole or not at all.

    Args:
        path: A `.npz` file, whose folder exists.
        weights: Arrays by structural path.
        config: `model` is stored beside them.

    Returns:
        The path.

    Raises:
        UserError: The path is none of a `.npz` file, or cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise UserError(f"{path}: expected a file name that ends in {SUFFIX}")
    model = np.array(json.dumps(config_to_dict(config)["model"]))
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{_MODEL: model}, **weights)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def read_starting_weights(path: str | Path) -> StartingWeights:
    """Reads weights to start from.

    Args:
        path: A file of `write_weights`, or a model folder, whose newest checkpoint it is.

    Returns:
        The weights.

    Raises:
        UserError: The path is neither, or damaged.
    """
    path = Path(path)
    if is_model_dir(path):
        checkpoint = CheckpointStore(path / CHECKPOINTS).load()
        return StartingWeights(checkpoint.weights, checkpoint.metadata["config"]["model"], str(path))
    if path.suffix != SUFFIX:
        raise UserError(f"{path}: expected a model folder, or a {SUFFIX} file of 'deeplab2-lite import-weights'")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file.items())
        model = json.loads(str(arrays.pop(_MODEL)))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path}: no file of 'deeplab2-lite import-weights', or a damaged one") from None
    return StartingWeights(arrays, model, str(path))


def start_from(
    network: keras.Model, config: ExperimentConfig, start: StartingWeights, fresh_logits: bool = False
) -> ImportReport:
    """Puts weights into a network by structural path, as far as they go.

    The backbone has to be there as a whole. Whatever else the weights lack keeps its initial value; what
    the network lacks is left over. So a classifier's backbone, or a network with another decoder or
    other classes, can be trained on from.

    Args:
        network: Of `build_model(config)`.
        config: `model` is used.
        start: The weights.
        fresh_logits: Leave the layer that says the classes as it is.

    Returns:
        What was loaded, skipped and left over.

    Raises:
        UserError: They are of another backbone, or a shape differs. Nothing is changed then.
    """
    _check_same_kind(config, start)
    targets = {name: v for name, v in named_weights(network).items() if v.dtype.is_floating}
    loaded, skipped = [], []
    for name, variable in targets.items():
        if (fresh_logits and name.startswith(_LOGITS)) or name not in start.weights:
            if name.startswith(_BACKBONE):
                raise UserError(f"{start.origin}: no value for '{name}'; the weights are of another backbone")
            skipped.append(name)
            continue
        found, expected = tuple(start.weights[name].shape), tuple(variable.shape)
        if found != expected:
            advice = "; train.init_fresh_logits=true leaves it as it is" if name.startswith(_LOGITS) else ""
            raise UserError(f"{start.origin}: '{name}' has shape {list(found)}, expected {list(expected)}{advice}")
        loaded.append(name)
    for name in loaded:
        targets[name].assign(start.weights[name])
    known = named_weights(network)
    left_over = [name for name in start.weights if name not in known]
    return ImportReport(tuple(loaded), tuple(skipped), tuple(left_over))


def _check_same_kind(config: ExperimentConfig, start: StartingWeights) -> None:
    """Refuses what fits by names and shapes, but would give other features."""
    ours, theirs = config_to_dict(config)["model"], start.model
    checked = [("batch_norm", "epsilon")]
    if config.model.backbone.name.startswith(_RESNET):
        # Its forms have the same variables and stride, pool and normalize images differently.
        checked.append(("backbone", "name"))
    for section, key in checked:
        expected, found = ours[section][key], theirs.get(section, {}).get(key)
        if expected != found:
            raise UserError(
                f"{start.origin}: made for model.{section}.{key}={found}, but model.{section}.{key} is {expected}"
            )
