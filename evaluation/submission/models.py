"""The model of a submission: one, or an ensemble, and how it looks at an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.submission.formats import Kind
from deeplab2_lite.inference import InferenceSettings, infer_semantic
from deeplab2_lite.loading import is_saved_model, load_ensemble
from deeplab2_lite.multi_view import Member
from deeplab2_lite.postprocessing.segmentation import PanopticResult
from deeplab2_lite.predictor import Predictor


class SubmissionPredictor(Protocol):
    """Does what `Predictor` does; of a semantic network, the result has the semantic map alone."""

    info: DatasetInfo
    instance_scores: np.ndarray | None

    def __call__(self, image: np.ndarray) -> PanopticResult:
        """Segments an image, uint8 [height, width, 3]."""
        ...


def load_predictor(paths: Sequence[str | Path], kind: Kind, overrides: str = "") -> SubmissionPredictor:
    """Loads what segments the images.

    Args:
        paths: Model folders, whose networks are averaged; or one SavedModel.
        kind: What is to be submitted; semantic networks give semantic maps alone.
        overrides: Settings that win over those of the model folders, as for `load_config`.

    Returns:
        The predictor; its label space and post-processing are those of the first model.

    Raises:
        UserError: There is no model, a SavedModel is to do otherwise than it was exported, or the models do not go
            together or do not give what is asked for.
    """
    paths = [Path(path) for path in paths]
    if any(is_saved_model(path) for path in paths):
        return Predictor(paths, overrides=overrides)
    ensemble = load_ensemble(paths, overrides)
    tasks = ensemble.config.model.tasks
    if tasks == "semantic" and kind == "semantic":
        settings = InferenceSettings.from_config(ensemble.config, ensemble.info)
        return _SemanticPredictor(ensemble.members, settings, ensemble.info)
    if tasks != "panoptic":
        raise UserError(f"--model: {paths[0]}: model.tasks '{tasks}' gives no {kind} submission")
    return Predictor(ensemble.members, ensemble.config, ensemble.info)


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
