"""Loading what was trained or exported: model folders, `.keras` files and SavedModels."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.checkpoints import CheckpointStore, assign, named_weights
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.dataset_info import FILE_NAME, DatasetInfo, label_space_difference, load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.inference import InferenceSettings, inference_function, result_from_tensors
from deeplab2_lite.model import build_model
from deeplab2_lite.multi_view import Member
from deeplab2_lite.observation import Observation, observation_function
from deeplab2_lite.postprocessing.segmentation import PanopticResult

CONFIG_FILE = "config.yaml"
CHECKPOINTS = "checkpoints"
_EXPORT = "expected an export of 'deeplab2-lite train --mode=export'"
_OUTPUTS = ("panoptic_pred", "semantic_pred", "instance_pred", "instance_score", "instance_class_id")


class TrainedModel(NamedTuple):
    """A network out of a model folder, with what belongs to it."""

    network: keras.Model
    config: ExperimentConfig
    info: DatasetInfo
    step: int


class Ensemble(NamedTuple):
    """Networks whose outputs are averaged, in the order in which they were named.

    Attributes:
        models: The networks; settings of inference and post-processing are those of the first.
    """

    models: tuple[TrainedModel, ...]

    @property
    def config(self) -> ExperimentConfig:
        """The first one's configuration."""
        return self.models[0].config

    @property
    def info(self) -> DatasetInfo:
        """The label space."""
        return self.models[0].info

    @property
    def members(self) -> tuple[Member, ...]:
        """The networks as `infer` takes them."""
        return tuple(Member(model.network, model.config.model.backbone.output_stride) for model in self.models)


class LoadedInference(NamedTuple):
    """Something that segments uint8 images.

    Attributes:
        infer: Gives the result and instance scores.
        info: The label space.
        observe: Gives the heads as well; None for a SavedModel, which does not have them among its outputs.
    """

    infer: Callable[[tf.Tensor], tuple[PanopticResult, tf.Tensor]]
    info: DatasetInfo
    observe: Callable[[tf.Tensor], Observation] | None = None


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
        return _read_saved_model(path)
    if path.is_file() and path.suffix == ".keras":
        try:
            return keras.models.load_model(path)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: cannot be read as a .keras file ({_first_line(error)})") from None
    raise UserError(_nothing_to_load(path, or_file=True))


def load_model_dir(path: str | Path, step: int | None = None, overrides: str = "") -> TrainedModel:
    """Loads the network of a model folder.

    Args:
        path: The folder that training wrote.
        step: Of the checkpoint; None is the newest.
        overrides: Settings that win over those of the folder, as for `load_config`; such as
            "model.backbone.output_stride=8", which puts the same weights into another network (paper section 4.2).

    Returns:
        The network with its weights, configuration and label space.

    Raises:
        UserError: The folder holds no checkpoint, or one of another architecture.
    """
    path = Path(path)
    if not is_model_dir(path):
        raise UserError(_nothing_to_load(path, or_file=False))
    config, info = load_config(path / CONFIG_FILE, overrides), _label_space_of(path, "a folder that training wrote")
    store = CheckpointStore(path / CHECKPOINTS)
    checkpoint = store.load(step)
    network = build_model(config, info.num_classes)
    folder = store.directory / str(checkpoint.step)
    weights = dict(checkpoint.weights)
    if config.inference.averaged_weights:
        if not checkpoint.averages:
            raise UserError(f"{folder}: has no averaged weights (inference.averaged_weights); trained without them")
        weights.update(checkpoint.averages)
    assign(named_weights(network), weights, f"weights of {folder}")
    return TrainedModel(network, config, info, checkpoint.step)


def load_ensemble(paths: Sequence[str | Path], overrides: str = "") -> Ensemble:
    """Loads the networks of model folders, whose outputs are to be averaged.

    Args:
        paths: The folders; one is an ensemble, too.
        overrides: As for `load_model_dir`, for all of them.

    Returns:
        The ensemble.

    Raises:
        UserError: A folder is none of a model, or the networks do not go together: classes, tasks and
            `data.longest_side` and `data.intensity_percentiles` must be the same.
    """
    first, *others = [load_model_dir(path, overrides=overrides) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        difference = label_space_difference(first.info, other.info)
        if difference is not None:
            raise UserError(f"{path} is of another label space than {paths[0]}: {difference}")
        for key, expected, found in (
            ("model.tasks", first.config.model.tasks, other.config.model.tasks),
            ("data.longest_side", first.config.data.longest_side, other.config.data.longest_side),
            (
                "data.intensity_percentiles",
                first.config.data.intensity_percentiles,
                other.config.data.intensity_percentiles,
            ),
        ):
            if expected != found:
                raise UserError(f"{path} has {key} {found}, {paths[0]} has {expected}; an ensemble needs one")
    return Ensemble((first, *others))


def load_inference(paths: str | Path | Sequence[str | Path], overrides: str = "") -> LoadedInference:
    """Loads whatever can segment images.

    Args:
        paths: A model folder, or a SavedModel of `export_saved_model`; or model folders, as an ensemble.
        overrides: Settings that win over those of the model folders, as for `load_config`; such as
            "inference.flip_left_right=true".

    Returns:
        Function and label space.

    Raises:
        UserError: A path is neither, networks do not go together or give no panoptic map, or a SavedModel is to
            do otherwise than it was exported.
    """
    paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    saved = [path for path in paths if is_saved_model(path)]
    if saved and (overrides or len(paths) > 1):
        raise UserError(
            f"{saved[0]} is a SavedModel, whose settings were fixed when it was exported; expected a model folder for "
            "ensembles, flips, scales, tiles and other settings"
        )
    if saved:
        return _load_saved_model(saved[0])
    ensemble = load_ensemble(paths, overrides)
    tasks = ensemble.config.model.tasks
    if tasks != "panoptic":
        raise UserError(f"{paths[0]}: model.tasks '{tasks}' gives no panoptic map; expected panoptic")
    settings = InferenceSettings.from_config(ensemble.config, ensemble.info)
    networks = ensemble.members
    return LoadedInference(
        inference_function(networks, settings), ensemble.info, observation_function(networks, settings)
    )


def is_model_dir(path: Path) -> bool:
    """Whether a folder is one that training wrote."""
    return (path / CONFIG_FILE).is_file() and (path / CHECKPOINTS).is_dir()


def is_saved_model(path: Path) -> bool:
    """Whether a folder is a SavedModel."""
    return (path / "saved_model.pb").is_file()


def _load_saved_model(path: Path) -> LoadedInference:
    loaded = _read_saved_model(path)
    signature = loaded.signatures.get("serving_default")
    if signature is None or "images" not in signature.structured_input_signature[1]:
        raise UserError(f"{path}: no signature 'serving_default' with an input 'images'; {_EXPORT}")
    info = _label_space_of(path / "assets", _EXPORT.removeprefix("expected "))
    missing = [name for name in _OUTPUTS if name not in signature.structured_outputs]
    if missing:
        raise UserError(
            f"{path}: signature 'serving_default' has no output '{missing[0]}'; {_EXPORT}, with all maps and instances "
            "among its export.outputs"
        )

    def run(images: tf.Tensor) -> tuple[PanopticResult, tf.Tensor]:
        # Keeps the SavedModel alive as long as its function.
        return result_from_tensors(loaded.signatures["serving_default"](images=images))

    return LoadedInference(run, info)


def _read_saved_model(path: Path) -> Any:
    try:
        return tf.saved_model.load(str(path))
    except (OSError, ValueError, LookupError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(f"{path}: damaged or incomplete SavedModel ({_first_line(error)})") from None


def _label_space_of(folder: Path, expected: str) -> DatasetInfo:
    if not (folder / FILE_NAME).is_file():
        raise UserError(f"{folder}: no {FILE_NAME}; expected {expected}, with all its files")
    return load_dataset_info(folder)


def _nothing_to_load(path: Path, or_file: bool) -> str:
    if not path.exists():
        others = ", a SavedModel or a .keras file" if or_file else " or a SavedModel"
        return f"{path}: no such file or folder; expected a model folder{others}"
    others = ", a SavedModel (saved_model.pb) nor a .keras file" if or_file else " nor a SavedModel (saved_model.pb)"
    return f"{path}: neither a model folder ({CONFIG_FILE} and {CHECKPOINTS}/){others}"


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
