"""The computation that is converted: from uint8 images to maps and instances, or to the network's heads.

It is `infer` of one network on whole images, with the same result, in the operations that converters know: heads
are upsampled whole, where `infer` goes by stripes to save memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from deeplab2_lite.inference import InferenceSettings, infer, result_tensors
from deeplab2_lite.loading import TrainedModel
from deeplab2_lite.multi_view import HeadsOnGrid, Member, run_network, sides
from deeplab2_lite.postprocessing.resampling import resize_result
from deeplab2_lite.postprocessing.scoring import score_instances
from deeplab2_lite.preprocessing import resize_longest_side
from deeplab2_lite.runtimes.request import ExportRequest

INPUT = "images"
PANOPTIC = "panoptic_pred"


class Program(NamedTuple):
    """A computation of static or dynamic shape.

    Attributes:
        function: Takes `images`, gives a dictionary of tensors.
        input: Shape and type of the images.
        module: What keeps its variables alive.
        input_shape: Of the images that the converted model is to take; None is any. `input` is of these, or of more.
    """

    function: Any
    input: tf.TensorSpec
    module: tf.Module
    input_shape: tuple[int | None, ...]

    def concrete(self) -> Any:
        """Returns the one graph of the function."""
        return self.function.get_concrete_function()


def build_program(model: TrainedModel, request: ExportRequest) -> Program:
    """Builds what a request asks for.

    Args:
        model: Network and settings.
        request: Checked by `check_request` and `check_model`.

    Returns:
        The computation, not yet traced.
    """
    settings = InferenceSettings.from_config(model.config, model.info)
    if request.format == "stablehlo":
        # XLA compiles the stripes of `infer` well, and whole logits badly.
        return compiled_program(model, settings, request)
    compute = _segment if request.postprocessing else _heads
    # Of a fixed size tf2onnx makes resizing by factors, which round to other sizes than TensorFlow's.
    shape = (None, None, None, 3) if request.format == "onnx" else request.input_shape
    spec = tf.TensorSpec(shape, tf.uint8, name=INPUT)
    function = tf.function(lambda images: compute(model.network, images, settings), [spec], autograph=False)
    return _program(function, spec, model, request)


def compiled_program(model: TrainedModel, settings: InferenceSettings, request: ExportRequest) -> Program:
    """Builds the same for XLA; arguments as for `build_program`."""

    def segment(images: tf.Tensor) -> dict[str, tf.Tensor]:
        if not request.postprocessing:
            return _heads(model.network, images, settings)
        inference = infer(model.network, images, settings)
        return result_tensors(inference.result, inference.instance_scores)

    spec = tf.TensorSpec(request.input_shape, tf.uint8, name=INPUT)
    return _program(tf.function(segment, [spec], autograph=False, jit_compile=True), spec, model, request)


def reference_function(model: TrainedModel, postprocessing: bool) -> Any:
    """Returns what `Predictor` and the SavedModel run, or the heads, for images of any size, by name of the output."""
    settings = InferenceSettings.from_config(model.config, model.info)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name=INPUT)])
    def run(images: tf.Tensor) -> dict[str, tf.Tensor]:
        if not postprocessing:
            return _heads(model.network, images, settings)
        inference = infer(model.network, images, settings)
        return result_tensors(inference.result, inference.instance_scores)

    return run


def _program(function: Any, spec: tf.TensorSpec, model: TrainedModel, request: ExportRequest) -> Program:
    module = tf.Module()
    module.network, module.function = model.network, function
    return Program(function, spec, module, request.input_shape)


def _on_grid(network: Any, images: tf.Tensor, settings: InferenceSettings) -> HeadsOnGrid:
    pixels = resize_longest_side(settings.stretch(images), settings.longest_side)
    return run_network(Member(network, settings.output_stride), pixels, None)


def _heads(network: Any, images: tf.Tensor, settings: InferenceSettings) -> dict[str, tf.Tensor]:
    heads = _on_grid(network, images, settings).heads._asdict()
    return {name: tensor for name, tensor in heads.items() if tensor is not None}


def _segment(network: Any, images: tf.Tensor, settings: InferenceSettings) -> dict[str, tf.Tensor]:
    heads, upsampling = _on_grid(network, images, settings)
    heads = upsampling.apply(heads)
    result = settings.merge(heads)
    scores = score_instances(result, tf.nn.softmax(heads.semantic_logits))
    if settings.longest_side is not None:
        result = resize_result(result, *sides(images))
        scores = tf.where(result.instances.valid, scores, 0.0)
    return result_tensors(result, scores)
