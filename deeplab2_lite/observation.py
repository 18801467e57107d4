"""What a network says of an image on the way to the panoptic map, for those who want to see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from deeplab2_lite.inference import Inference, InferenceSettings, Network, infer
from deeplab2_lite.layers.resizing import resize_align_corners
from deeplab2_lite.multi_view import sides
from deeplab2_lite.postprocessing.segmentation import PanopticResult
from deeplab2_lite.postprocessing.upsampling import Heads, upsample_heads


class HeadMaps(NamedTuple):
    """What the heads say, at the resolution of the image. Tensors or NumPy arrays, with or without a batch.

    Attributes:
        center_heatmap: float32 [height, width], 1 at the centre of an instance.
        center_offset: float32 [height, width, 2], (dy, dx) to the centre, in pixels of the image.
        semantic_probability: float32 [height, width], of the most probable class.
    """

    center_heatmap: Any
    center_offset: Any
    semantic_probability: Any


class Observation(NamedTuple):
    """All that is known of an image.

    Attributes:
        result: Maps and instances.
        instance_scores: float32 [top_k] (paper section 3.3).
        heads: None where the model does not say.
    """

    result: PanopticResult
    instance_scores: Any
    heads: HeadMaps | None


def observation_of(inference: Inference, height: int | tf.Tensor, width: int | tf.Tensor) -> Observation:
    """Brings what the heads say to the resolution of the image, if the network saw it at another.

    Args:
        inference: Of a batch.
        height: Of the images.
        width: Likewise.

    Returns:
        The observation of the batch.
    """
    heads = upsample_heads(Heads(None, inference.center_heatmap, inference.center_offset), height, width)
    probability = resize_align_corners(inference.semantic_probability[..., tf.newaxis], height, width)
    maps = HeadMaps(heads.center_heatmap[..., 0], heads.center_offset, probability[..., 0])
    return Observation(inference.result, inference.instance_scores, maps)


def observation_function(network: Network, settings: InferenceSettings) -> Callable[[tf.Tensor], Observation]:
    """Compiles what `inference_function` does, with the heads among the outputs.

    Args:
        network: As for `infer`.
        settings: How.

    Returns:
        A function from images to all that is known of them.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def run(images: tf.Tensor) -> Observation:
        return observation_of(infer(network, images, settings), *sides(images))

    return run
