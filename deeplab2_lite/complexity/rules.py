"""What a layer computes: the multiply-adds of its convolution, and all operations as the paper counts them.

The paper does not say how it counts. These rules make its tables come out to the last digit shown: what
TensorFlow 1's profiler reports for a frozen inference graph whose batch normalization is folded into
convolutions. Post-processing is fitted.
"""

from __future__ import annotations

import math

import tf_keras as keras

from deeplab2_lite.errors import UserError
from deeplab2_lite.layers import HardSigmoid, HardSwish, ImageNormalization, ImagePooling

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
_POOLS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
# Operations for each value of the output. Not listed here or below: none, as of ReLU, padding, resizing
# and concatenation.
_OPERATIONS = (
    # The bias that is left of it.
    (keras.layers.BatchNormalization, 1),
    # Two multiplications and an addition round the clipping; one less.
    (HardSwish, 3),
    (HardSigmoid, 2),
    (ImageNormalization, 2),
)
_SOFTMAX_OPERATIONS = 5
_ARGMAX_OPERATIONS = 1
_GROUPING_OPERATIONS = 120


def convolution_multiply_adds(layer: keras.layers.Layer) -> int:
    """Counts the multiply-adds of a convolution or dense layer for one image.

    Args:
        layer: Built, in a model of fixed input size.

    Returns:
        One for each product of a weight and a value, those with padding included; 0 for other layers.

    Raises:
        UserError: The layer has weights and is of a kind that there is no rule for.
    """
    return _multiply_adds(layer, math.prod(_output_shape(layer)))


def profiler_flops(layer: keras.layers.Layer) -> int:
    """Counts the operations of a layer for one image as the paper does: two for each multiply-add, and others.

    Args:
        layer: Built, in a model of fixed input size.

    Returns:
        Floating-point operations.

    Raises:
        UserError: As `convolution_multiply_adds`.
    """
    outputs = math.prod(_output_shape(layer))
    if isinstance(layer, _CONVOLUTIONS):
        return 2 * _multiply_adds(layer, math.prod(_space_to_batch_shape(layer))) + outputs * layer.use_bias
    if isinstance(layer, keras.layers.Dense):
        return 2 * _multiply_adds(layer, outputs) + outputs * layer.use_bias
    if isinstance(layer, _POOLS):
        window = math.prod(layer.pool_size)
        # A window of one pixel only picks; no graph needs an operation for it.
        return window * outputs if window > 1 else 0
    if isinstance(layer, ImagePooling):
        # In the paper's graph one average pooling of that window, however it is computed here.
        size = layer.input_shape[1:3]
        return outputs * math.prod(min(k, n) for k, n in zip(layer.kernel or size, size, strict=True))
    if isinstance(layer, keras.layers.Add | keras.layers.Multiply):
        return (len(layer.input_shape) - 1) * outputs
    per_value = next((number for kind, number in _OPERATIONS if isinstance(layer, kind)), 0)
    return per_value * outputs + 2 * _multiply_adds(layer, outputs)


def postprocessing_flops(pixels: int, num_classes: int, instances: bool) -> dict[str, int]:
    """Counts the operations after the network, by step, as the paper's figures need them.

    Args:
        pixels: Of the image, at whose resolution they are done.
        num_classes: Semantic classes.
        instances: Whether there are instances to group and to merge with the classes.

    Returns:
        Floating-point operations by the name of the step.
    """
    steps = {
        "softmax": _SOFTMAX_OPERATIONS * num_classes * pixels,
        "argmax": _ARGMAX_OPERATIONS * num_classes * pixels,
    }
    if instances:
        # Fitted on Tables 1, 5 and 9; what the operations are is not known.
        steps["grouping"] = (_GROUPING_OPERATIONS + num_classes) * pixels
    return steps


def _output_shape(layer: keras.layers.Layer) -> tuple[int, ...]:
    shape = layer.output_shape
    return tuple((shape[0] if isinstance(shape, list) else shape)[1:])


def _multiply_adds(layer: keras.layers.Layer, outputs: int) -> int:
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return outputs * math.prod(layer.kernel_size)
    # All but the last axis of a kernel is what one output sums over; a transposed convolution is no such thing.
    if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) and not isinstance(
        layer, keras.layers.Conv2DTranspose
    ):
        return outputs * math.prod(layer.kernel.shape[:-1])
    if any(len(weight.shape) > 1 for weight in layer.trainable_weights):
        raise UserError(f"layer {layer.name}: no rule counts the multiply-adds of a {type(layer).__name__}")
    return 0


def _space_to_batch_shape(layer: keras.layers.Layer) -> tuple[int, ...]:
    """Returns the size that a convolution computes: TensorFlow 1 pads it to a multiple of the atrous rate."""
    height, width, channels = _output_shape(layer)
    height, width = (
        -(-size // rate) * rate if kernel > 1 else size
        for size, rate, kernel in zip((height, width), layer.dilation_rate, layer.kernel_size, strict=True)
    )
    return height, width, channels
