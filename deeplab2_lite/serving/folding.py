"""Batch normalization folded into the convolutions before it: the same function, without a pass of its own."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


class _Affine(NamedTuple):
    """What a batch normalization does at inference: scale * x + offset, float64 [channels]."""

    scale: np.ndarray
    offset: np.ndarray


def fold_batch_norm(network: keras.Model) -> keras.Model:
    """Rebuilds a network for inference, without batch normalization.

    Args:
        network: Functional; each layer is used once. It stays as it is.

    Returns:
        A network of the same outputs. Normalization goes into the kernel and bias of the convolution whose only
        reader it is, and becomes a depthwise 1x1 convolution elsewhere.
    """
    folded_into = _folded_into(network)
    affine = {layer.name: _affine(layer) for layer in network.layers if _is_batch_norm(layer)}
    by_convolution = {conv: affine[norm] for norm, conv in folded_into.items()}

    def rebuild(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in folded_into:
            return keras.layers.Activation("linear", name=layer.name, dtype=layer.dtype_policy)
        if layer.name in affine:
            return keras.layers.DepthwiseConv2D(1, name=layer.name, dtype=layer.dtype_policy)
        config = layer.get_config()
        return type(layer).from_config({**config, "use_bias": True} if layer.name in by_convolution else config)

    # Clones share nothing; without a strategy their weights are plain variables.
    folded = keras.models.clone_model(network, clone_function=rebuild)
    for layer in network.layers:
        weights = layer.get_weights()
        if layer.name in by_convolution:
            weights = _fold(layer, by_convolution[layer.name])
        elif layer.name in folded_into:
            weights = []
        elif layer.name in affine:
            scale, offset = affine[layer.name]
            weights = [scale[None, None, :, None], offset]
        folded.get_layer(layer.name).set_weights(weights)
    return folded


def _is_batch_norm(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _folded_into(network: keras.Model) -> dict[str, str]:
    """Names of the batch normalizations that can be folded, and of the convolutions before them."""
    sources = {layer.name: _sources(layer.input) for layer in network.layers}
    readers = Counter(source.name for found in sources.values() for source in found)
    readers.update(source.name for source in _sources(network.outputs))
    result = {}
    for layer in network.layers:
        if not _is_batch_norm(layer):
            continue
        (source,) = sources[layer.name]
        # Not of a class derived from them, such as a transposed convolution, whose kernel is laid out otherwise.
        is_linear = type(source) in _CONVOLUTIONS and source.activation is keras.activations.linear
        if is_linear and readers[source.name] == 1:
            result[layer.name] = source.name
    return result


def _sources(tensors: object) -> list[keras.layers.Layer]:
    return [tensor._keras_history.layer for tensor in tf.nest.flatten(tensors)]


def _affine(layer: keras.layers.BatchNormalization) -> _Affine:
    mean, variance = (np.asarray(v.numpy(), np.float64) for v in (layer.moving_mean, layer.moving_variance))
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * layer.gamma.numpy()
    offset = -mean * scale
    return _Affine(scale, offset if layer.beta is None else offset + layer.beta.numpy())


def _fold(layer: keras.layers.Layer, affine: _Affine) -> list[np.ndarray]:
    """Kernel and bias of a convolution and the normalization after it."""
    kernel, *bias = (np.asarray(weight, np.float64) for weight in layer.get_weights())
    scale, offset = affine
    if bias:
        offset = offset + bias[0] * scale
    is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return [kernel * (scale.reshape(kernel.shape[2:]) if is_depthwise else scale), offset]
