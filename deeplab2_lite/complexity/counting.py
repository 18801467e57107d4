"""What a network costs: parameters, multiply-adds and activation memory, from shapes alone; nothing is run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.complexity.rules import convolution_multiply_adds, postprocessing_flops, profiler_flops
from deeplab2_lite.config import ExperimentConfig, Size
from deeplab2_lite.errors import UserError
from deeplab2_lite.model import CENTER_HEATMAP, SEMANTIC_LOGITS, build_model

Count = Literal["conv", "paper"]
POSTPROCESSING = "postprocessing"
_BRANCHES = ("backbone", "semantic", "instance", POSTPROCESSING)


class LayerComplexity(NamedTuple):
    """One layer, or one step after the network.

    Attributes:
        name: Name of the layer.
        kind: Its class, such as "Conv2D".
        part: Part of the network that it belongs to: "backbone", "semantic/aspp", "instance/decoder", ...
        output_shape: Of its output, without the batch: (height, width, channels).
        parameters: Trainable ones, so without the moving statistics of batch normalization.
        multiply_adds: For one image; halves exist in the paper's way of counting.
        activation_bytes: Size of its output for one image.
    """

    name: str
    kind: str
    part: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: float
    activation_bytes: int


class PartComplexity(NamedTuple):
    """Sums over the layers of one part, or of all; as in `LayerComplexity`."""

    part: str
    parameters: int
    multiply_adds: float
    activation_bytes: int


@dataclass(frozen=True)
class Complexity:
    """What a network costs for one image.

    Attributes:
        input_size: Height and width of the image.
        count: What counts as a multiply-add.
        layers: All layers that compute something, branch after branch.
    """

    input_size: Size
    count: Count
    layers: tuple[LayerComplexity, ...]

    @property
    def total(self) -> PartComplexity:
        """Sums over all layers. Activation memory is that of all outputs together, as training keeps them."""
        return _sum("total", self.layers)

    @property
    def parts(self) -> tuple[PartComplexity, ...]:
        """Sums over each part, in order of the layers."""
        layers: dict[str, list[LayerComplexity]] = {}
        for layer in self.layers:
            layers.setdefault(layer.part, []).append(layer)
        return tuple(_sum(part, members) for part, members in layers.items())


def complexity(
    config: ExperimentConfig, input_size: Size | None = None, count: Count = "conv", num_classes: int | None = None
) -> Complexity:
    """Counts what the network of an experiment costs.

    Args:
        config: `model`, `losses.center`, `train.precision` and the data set's number of classes matter.
        input_size: Height and width of the image; None takes `config.data.crop_size`.
        count: "conv": the multiply-adds of convolutions and dense layers alone. "paper": half the
            operations that TensorFlow 1's profiler saw in the paper's inference graph, normalized image
            to panoptic map, with batch normalization folded; Tables 1, 5, 9 and 10 are counted so.
        num_classes: Semantic classes; None takes them from the experiment's data set.

    Returns:
        Layers and their sums.

    Raises:
        UserError: The configuration is at fault.
    """
    return model_complexity(build_model(config, num_classes, input_size or config.data.crop_size), count)


def model_complexity(model: keras.Model, count: Count = "conv") -> Complexity:
    """Counts what a functional model of a fixed input size costs; arguments as in `complexity`.

    Raises:
        UserError: The model takes images of any size, or has a layer with weights that there is no rule for.
    """
    height, width = model.input_shape[1:3]
    if height is None or width is None:
        raise UserError(f"{model.name}: takes images of any size; expected one built for a fixed input_size")
    layers = [_measure(layer, count) for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    if count == "paper":
        layers += _postprocessing(model, height * width)
    parts = list(dict.fromkeys(layer.part for layer in layers))
    # Keras lists the layers of parallel branches in turn.
    layers.sort(key=lambda layer: (_branch_index(layer.part), parts.index(layer.part)))
    return Complexity((height, width), count, tuple(layers))


def count_parameters(model: keras.Model) -> int:
    """Returns the number of trainable parameters: without the moving statistics of batch normalization.

    Args:
        model: Any built model or layer.

    Returns:
        Number of scalars.
    """
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def _measure(layer: keras.layers.Layer, count: Count) -> LayerComplexity:
    outputs = tf.nest.flatten(layer.output)
    return LayerComplexity(
        name=layer.name,
        kind=type(layer).__name__,
        part="/".join(layer.name.split("/")[: 1 if layer.name.startswith("backbone/") else 2]),
        output_shape=tuple(outputs[0].shape[1:]),
        parameters=count_parameters(layer),
        multiply_adds=convolution_multiply_adds(layer) if count == "conv" else profiler_flops(layer) / 2,
        activation_bytes=sum(math.prod(output.shape[1:]) * output.dtype.size for output in outputs),
    )


def _postprocessing(model: keras.Model, pixels: int) -> list[LayerComplexity]:
    """Returns the steps after the network at the image's resolution; an instance-only network has none."""
    outputs = model.output_shape if isinstance(model.output_shape, dict) else {}
    if SEMANTIC_LOGITS not in outputs:
        return []
    steps = postprocessing_flops(pixels, outputs[SEMANTIC_LOGITS][-1], instances=CENTER_HEATMAP in outputs)
    return [
        LayerComplexity(f"{POSTPROCESSING}/{name}", "step", POSTPROCESSING, model.input_shape[1:3], 0, flops / 2, 0)
        for name, flops in steps.items()
    ]


def _branch_index(part: str) -> int:
    branch = part.split("/")[0]
    return _BRANCHES.index(branch) if branch in _BRANCHES else len(_BRANCHES)


def _sum(part: str, layers: list[LayerComplexity] | tuple[LayerComplexity, ...]) -> PartComplexity:
    return PartComplexity(
        part,
        sum(layer.parameters for layer in layers),
        sum(layer.multiply_adds for layer in layers),
        sum(layer.activation_bytes for layer in layers),
    )
