"""The model of a submission: one, or an ensemble, and how it looks at an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from deeplab2_lite.checkpoints import assign, named_weights
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.config_validation import validate
from deeplab2_lite.dataset_info import DatasetInfo, label_space_difference
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.submission_formats import Kind
from deeplab2_lite.inference import InferenceSettings, Predictor, infer_semantic
from deeplab2_lite.loading import CONFIG_FILE, TrainedModel, is_saved_model, load_model_dir
from deeplab2_lite.model import build_model
from deeplab2_lite.multi_view import Member
from deeplab2_lite.postprocessing.segmentation import PanopticResult


class SubmissionPredictor(Protocol):
    """Does what `Predictor` does; of a semantic network, the result has the semantic map alone."""

    info: DatasetInfo
    instance_scores: np.ndarray | None

    def __call__(self, image: np.ndarray) -> PanopticResult:
        """Segments an image, uint8 [height, width, 3]."""
        ...


def load_predictor(
    paths: Sequence[str | Path], kind: Kind, overrides: str = "", inference: Mapping[str, Any] | None = None
) -> SubmissionPredictor:
    """Loads what segments the images.

    Args:
        paths: Model folders, whose networks are averaged; or one SavedModel.
        kind: What is to be submitted; semantic networks give semantic maps alone.
        overrides: Settings that win over those of the model folders, as for `load_config`.
        inference: Likewise fields of `InferenceConfig`.

    Returns:
        The predictor; its label space and post-processing are those of the first model.

    Raises:
        UserError: There is no model, a SavedModel is to do otherwise than it was exported, or the models do not go
            together or do not give what is asked for.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        if is_saved_model(path) and (len(paths) > 1 or overrides or inference):
            raise UserError(
                f"--model: {path} is a SavedModel, whose settings were fixed when it was exported; expected a model "
                "folder for ensembles, --flip, --scales, --tile_size and --params_override"
            )
    if is_saved_model(paths[0]):
        return Predictor(paths[0])
    models = [_load(path, overrides, inference or {}) for path in paths]
    for path, model in zip(paths, models, strict=True):
        _check_member(paths[0], models[0], path, model)
    config, info = models[0].config, models[0].info
    members = [Member(model.network, model.config.model.backbone.output_stride) for model in models]
    if config.model.tasks == "semantic" and kind == "semantic":
        return _SemanticPredictor(members, InferenceSettings.from_config(config, info), info)
    if config.model.tasks != "panoptic":
        raise UserError(f"--model: {paths[0]}: model.tasks '{config.model.tasks}' gives no {kind} submission")
    return Predictor(members, config, info)


class _SemanticPredictor:
    def __init__(self, members: Sequence[Member], settings: InferenceSettings, info: DatasetInfo) -> None:
        self.info = info
        self.instance_scores: np.ndarray | None = None

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
        def run(images: tf.Tensor) -> tf.Tensor:
            return infer_semantic(members, images, settings)

        self._run = run

    def __call__(self, image: np.ndarray) -> PanopticResult:
        return PanopticResult(None, self._run(tf.constant(image[None]))[0].numpy(), None, None)


def _load(path: Path, overrides: str, inference: Mapping[str, Any]) -> TrainedModel:
    trained = load_model_dir(path)
    config = load_config(path / CONFIG_FILE, overrides)
    config = dataclasses.replace(config, inference=dataclasses.replace(config.inference, **inference))
    validate(config)
    if not overrides:
        return trained._replace(config=config)
    # Such as with another output stride (paper section 4): the same weights in another network.
    network = build_model(config, trained.info.num_classes)
    weights = {name: variable.numpy() for name, variable in named_weights(trained.network).items()}
    assign(named_weights(network), weights, f"weights of {path} with --params_override={overrides}")
    return trained._replace(network=network, config=config)


def _check_member(first_path: Path, first: TrainedModel, path: Path, other: TrainedModel) -> None:
    difference = label_space_difference(first.info, other.info)
    if difference is not None:
        raise UserError(f"--model: {path} is of another label space than {first_path}: {difference}")
    for key, expected, found in (
        ("model.tasks", first.config.model.tasks, other.config.model.tasks),
        ("data.longest_side", first.config.data.longest_side, other.config.data.longest_side),
    ):
        if expected != found:
            raise UserError(f"--model: {path} has {key} {found}, {first_path} has {expected}; an ensemble needs one")
