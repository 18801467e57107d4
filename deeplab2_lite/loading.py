"""Loading what was trained or exported: model folders, `.keras` files and SavedModels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.checkpoints import CheckpointStore, assign, named_weights
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.dataset_info import DatasetInfo, load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.inference import InferenceSettings, inference_function, result_from_tensors
from deeplab2_lite.model import build_model
from deeplab2_lite.postprocessing.segmentation import PanopticResult

CONFIG_FILE = "config.yaml"
CHECKPOINTS = "checkpoints"


class TrainedModel(NamedTuple):
    """A network out of a model folder, with what belongs to it."""

    network: keras.Model
    config: ExperimentConfig
    info: DatasetInfo
    step: int


class LoadedInference(NamedTuple):
    """Something that segments: `infer` takes uint8 images and gives the result and instance scores."""

    infer: Callable[[tf.Tensor], tuple[PanopticResult, tf.Tensor]]
    info: DatasetInfo


def load_model(path: str | Path) -> Any:
    """Loads a model for use in Python.

    Args:
        path: A model folder (its newest checkpoint), a `.keras` file, or a SavedModel.

    Returns:
        The network as a keras.Model; of a SavedModel, the object that TensorFlow loads.

    Raises:
        UserError: The path is none of these.
    """
    path = Path(path)
    if is_model_dir(path):
        return load_model_dir(path).network
    if is_saved_model(path):
        return tf.saved_model.load(str(path))
    if path.is_file() and path.suffix == ".keras":
        return keras.models.load_model(path)
    raise UserError(_nothing_to_load(path))


def load_model_dir(path: str | Path, step: int | None = None) -> TrainedModel:
    """Loads the network of a model folder.

    Args:
        path: The folder that training wrote.
        step: Of the checkpoint; None is the newest.

    Returns:
        The network with its weights, configuration and label space.

    Raises:
        UserError: The folder holds no checkpoint, or one of another architecture.
    """
    path = Path(path)
    if not is_model_dir(path):
        raise UserError(_nothing_to_load(path))
    config, info = load_config(path / CONFIG_FILE), load_dataset_info(path)
    store = CheckpointStore(path / CHECKPOINTS)
    checkpoint = store.load(step)
    network = build_model(config, info.num_classes)
    assign(named_weights(network), checkpoint.weights, f"weights of {store.directory / str(checkpoint.step)}")
    return TrainedModel(network, config, info, checkpoint.step)


def load_inference(path: str | Path) -> LoadedInference:
    """Loads whatever can segment images.

    Args:
        path: A model folder or a SavedModel of `export_saved_model`.

    Returns:
        Function and label space.

    Raises:
        UserError: The path is neither, or its network gives no panoptic map.
    """
    path = Path(path)
    if is_saved_model(path):
        return _load_saved_model(path)
    trained = load_model_dir(path)
    if trained.config.model.tasks != "panoptic":
        raise UserError(f"{path}: model.tasks '{trained.config.model.tasks}' gives no panoptic map; expected panoptic")
    settings = InferenceSettings.from_config(trained.config, trained.info)
    return LoadedInference(inference_function(trained.network, settings), trained.info)


def is_model_dir(path: Path) -> bool:
    """Whether a folder is one that training wrote."""
    return (path / CONFIG_FILE).is_file() and (path / CHECKPOINTS).is_dir()


def is_saved_model(path: Path) -> bool:
    """Whether a folder is a SavedModel."""
    return (path / "saved_model.pb").is_file()


def _load_saved_model(path: Path) -> LoadedInference:
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures.get("serving_default")
    if signature is None or "images" not in signature.structured_input_signature[1]:
        raise UserError(f"{path}: no signature 'serving_default' with an input 'images'; expected an export of ours")

    def run(images: tf.Tensor) -> tuple[PanopticResult, tf.Tensor]:
        # Keeps the SavedModel alive as long as its function.
        return result_from_tensors(loaded.signatures["serving_default"](images=images))

    return LoadedInference(run, load_dataset_info(path / "assets"))


def _nothing_to_load(path: Path) -> str:
    if not path.exists():
        return f"{path}: no such file or folder; expected a model folder, a SavedModel or a .keras file"
    return (
        f"{path}: neither a model folder ({CONFIG_FILE} and {CHECKPOINTS}/), a SavedModel (saved_model.pb) "
        "nor a .keras file"
    )
