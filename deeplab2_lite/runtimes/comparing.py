"""A converted model beside TensorFlow, image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.inference import InferenceSettings
from deeplab2_lite.loading import TrainedModel
from deeplab2_lite.postprocessing.upsampling import Heads, Upsampling
from deeplab2_lite.runtimes.program import PANOPTIC
from deeplab2_lite.runtimes.running import Runner

# Least share of equal pixels of float32; beyond it a centre has moved, and not a border by rounding.
LEAST_EQUAL = 0.999


class Comparison(NamedTuple):
    """How near a runtime comes to TensorFlow on one image.

    Attributes:
        name: Of the image.
        equal_pixels: Share of pixels of the same panoptic id; of heads, once TensorFlow has merged both. None where
            the model has not all heads.
        differences: Largest absolute difference of each head, of the values' range; empty with post-processing.
        compared: What the share is of: the panoptic map, or what a SavedModel gives instead of it.
    """

    name: str
    equal_pixels: float | None
    differences: dict[str, float]
    compared: str = "the panoptic map"

    def __str__(self) -> str:
        parts = [] if self.equal_pixels is None else [f"{self.equal_pixels:.5f} of {self.compared} equal"]
        parts += [f"{name} differs by {value:.1e} of its range" for name, value in self.differences.items()]
        return f"{self.name}: {', '.join(parts)}"


def compare(
    name: str, image: np.ndarray, run: Runner, reference: Callable[[tf.Tensor], Any], model: TrainedModel, batch: int
) -> Comparison:
    """Runs both on an image.

    Args:
        name: Of the image.
        image: uint8 [height, width, 3], of the size that the runtime takes.
        run: The converted model.
        reference: As `reference_function` gives it.
        model: Where both come from.
        batch: Images that the runtime takes at once; it gets the same one so often.

    Returns:
        What differs in the first of them.
    """
    expected = {key: value[0] for key, value in _numpy(reference(tf.constant(image[None]))).items()}
    images = np.ascontiguousarray(np.broadcast_to(image, (batch, *image.shape)))
    found = {key: value[0] for key, value in run(images).items()}
    if PANOPTIC in expected:
        # A SavedModel gives what its configuration asks for.
        key = next(key for key in (PANOPTIC, *sorted(expected)) if key in found)
        compared = "the panoptic map" if key == PANOPTIC else key
        return Comparison(name, _equal(expected[key], found[key]), {}, compared)
    differences = {
        key: float(np.max(np.abs(value - found[key])) / max(float(np.ptp(value)), 1e-9))
        for key, value in expected.items()
    }
    if set(expected) != set(Heads._fields):
        return Comparison(name, None, differences)
    size = image.shape[:2]
    settings = InferenceSettings.from_config(model.config, model.info)
    return Comparison(name, _equal(*(_merge(heads, settings, size) for heads in (expected, found))), differences)


def _merge(heads: dict[str, np.ndarray], settings: InferenceSettings, size: tuple[int, int]) -> np.ndarray:
    tensors = Heads(**{key: tf.constant(heads[key][None]) for key in Heads._fields})
    # Grey beyond the image counts as well: both have it, and only their equality is asked for.
    result = settings.merge(tensors, Upsampling(*size, *size))
    return result.panoptic[0].numpy()


def _equal(first: np.ndarray, second: np.ndarray) -> float:
    if first.shape != second.shape:
        return 0.0
    return float(np.mean(first == second))


def _numpy(tensors: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in tensors.items()}
