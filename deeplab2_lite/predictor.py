"""A model that segments one image at a time: what a user holds in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import resolve_dataset_info
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.inference import InferenceSettings, inference_function
from deeplab2_lite.loading import load_inference
from deeplab2_lite.observation import Observation, observation_function
from deeplab2_lite.postprocessing.segmentation import PanopticResult


class Predictor:
    """Segments one image of any size at a time: `predict(image)`."""

    def __init__(
        self,
        model_or_path: Any,
        config: ExperimentConfig | None = None,
        info: DatasetInfo | None = None,
        overrides: str = "",
    ) -> None:
        """Loads a model.

        Args:
            model_or_path: A model folder, an exported SavedModel, a list of model folders (an ensemble), or a
                keras.Model.
            config: Needed with a keras.Model alone; the others bring theirs.
            info: Label space; None takes the configuration's.
            overrides: Settings that win over those of model folders, such as "inference.flip_left_right=true".

        Raises:
            UserError: Nothing that can predict is there.
        """
        if _is_paths(model_or_path):
            loaded = load_inference(model_or_path, overrides)
            self.info, self._infer, self._observe = loaded.info, loaded.infer, loaded.observe
        else:
            if config is None:
                raise UserError("Predictor: expected the experiment's config beside a keras.Model")
            self.info = info or resolve_dataset_info(config)
            settings = InferenceSettings.from_config(config, self.info)
            self._infer = inference_function(model_or_path, settings)
            self._observe = observation_function(model_or_path, settings)
        self.instance_scores: np.ndarray | None = None

    def __call__(self, image: np.ndarray | tf.Tensor) -> PanopticResult:
        """Segments an image.

        Args:
            image: RGB, uint8 [height, width, 3].

        Returns:
            NumPy arrays without batch dimension: maps [height, width], instances [top_k, ...]. The scores of
            the instances (paper section 3.3) are left in `self.instance_scores` [top_k].

        Raises:
            UserError: The array is no RGB image.
        """
        result, scores = self._infer(_as_batch(image))
        self.instance_scores = scores[0].numpy()
        return tf.nest.map_structure(lambda tensor: tensor[0].numpy(), result)

    @property
    def has_heads(self) -> bool:
        """Whether `observe` gives what the heads say: an export gives its outputs alone."""
        return self._observe is not None

    def observe(self, image: np.ndarray | tf.Tensor, heads: bool = True) -> Observation:
        """Segments an image, and keeps what the network says of it on the way.

        Args:
            image: RGB, uint8 [height, width, 3].
            heads: Keep it; else only what calling the predictor gives.

        Returns:
            NumPy arrays without batch dimension; no heads where there are none.

        Raises:
            UserError: The array is no RGB image.
        """
        if self._observe is None or not heads:
            result = self(image)
            return Observation(result, self.instance_scores, None)
        observation = self._observe(_as_batch(image))
        return tf.nest.map_structure(lambda tensor: tensor[0].numpy(), observation)


def _as_batch(image: np.ndarray | tf.Tensor) -> tf.Tensor:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UserError(f"image: expected uint8 [height, width, 3], got {image.dtype} {list(image.shape)}")
    return tf.constant(image[None])


def _is_paths(model: Any) -> bool:
    first = model[0] if isinstance(model, list | tuple) and model else model
    return isinstance(first, str | Path)
