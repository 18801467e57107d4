"""Training with less memory: most activations are computed again on the way back, not kept (arXiv:1604.06174)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.normalization import BatchNormalization, statistics_kept

# Height and width at which tensors of networks for images of any size are compared.
_NOMINAL_SIDE = 513


def recomputing(network: keras.Model) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Makes a form of a network for training that keeps the tensors of a few places alone.

    The network is cut into segments. Going back through one, it is computed anew from its inputs. The cuts
    make the most memory, what is kept before a segment and all that it computes, as small as can be, so
    there is no number of them to choose. The last segment, whose way back begins at once, is not repeated.

    Args:
        network: As `build_model` gives it.

    Returns:
        A function of float images [batch, height, width, 3] in 0..255. It gives what
        `network(images, training=True)` gives, with the same gradients, and updates moving statistics
        as often: once.
    """
    segments = _cut(network)

    def run(images: tf.Tensor) -> dict[str, tf.Tensor]:
        kept = {id(network.inputs[0]): tf.cast(images, network.inputs[0].dtype)}
        for segment in segments:
            function = segment if segment is segments[-1] else _forgetful(segment)
            outputs = function(*(kept[id(tensor)] for tensor in segment.inputs))
            kept.update(zip(map(id, segment.outputs), outputs, strict=True))
        return tf.nest.map_structure(lambda tensor: kept[id(tensor)], network.output)

    return run


class _Segment(NamedTuple):
    """Part of a functional network, which keeps its layers.

    Unlike a `keras.Model` from its inputs to its outputs, it adds no further calls to the layers' books, so
    that `layer.output` remains what it was.

    Attributes:
        nodes: Calls of layers, each after those whose outputs it takes.
        inputs: Symbolic tensors from before it.
        outputs: Symbolic tensors that are needed after it.
    """

    nodes: Sequence[Any]
    inputs: Sequence[Any]
    outputs: Sequence[Any]

    def __call__(self, *inputs: tf.Tensor) -> list[tf.Tensor]:
        values = dict(zip(map(id, self.inputs), inputs, strict=True))
        for node in self.nodes:
            arguments = tf.nest.map_structure(lambda tensor: values[id(tensor)], node.call_args)
            has_mode = "training" in inspect.signature(node.layer.call).parameters
            outputs = node.layer(*arguments, **({"training": True} if has_mode else {}))
            values.update(zip(_output_ids(node), tf.nest.flatten(outputs), strict=True))
        return [values[id(tensor)] for tensor in self.outputs]


def _forgetful(segment: _Segment) -> Callable[..., list[tf.Tensor]]:
    """Makes a function for one forward pass through a segment."""
    repeated = False

    def run(*inputs: tf.Tensor) -> list[tf.Tensor]:
        nonlocal repeated
        if repeated:
            with statistics_kept():
                return segment(*inputs)
        repeated = True
        return segment(*inputs)

    forgetful = tf.recompute_grad(run)
    return lambda *inputs: _meet(*forgetful(*inputs))


@tf.custom_gradient
def _meet(*tensors: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., list[tf.Tensor]]]:
    """Returns tensors as they are; their gradients wait for each other.

    `tf.recompute_grad` waits for the first gradient alone, and would fill memory while the rest is on the way.
    """

    def gradient(*gradients: tf.Tensor) -> list[tf.Tensor]:
        with tf.control_dependencies(gradients):
            return [tf.identity(each) for each in gradients]

    return [tf.identity(tensor) for tensor in tensors], gradient


def _cut(network: keras.Model) -> list[_Segment]:
    nodes = _ordered_nodes(network.outputs)
    position = {identity: i for i, node in enumerate(nodes) for identity in _output_ids(node)}
    last_use = np.arange(len(nodes))
    for i, node in enumerate(nodes):
        for tensor in node.keras_inputs:
            if id(tensor) in position:
                last_use[position[id(tensor)]] = i
    for tensor in network.outputs:
        last_use[position[id(tensor)]] = len(nodes)
    repeatable = next((i for i, node in enumerate(nodes) if _has_other_state(node.layer)), len(nodes))
    boundaries = _boundaries(_sizes(network, nodes), last_use, repeatable)
    segments = []
    for start, end in zip([0, *boundaries], [*boundaries, len(nodes)], strict=True):
        part = nodes[start:end]
        inner = {identity for node in part for identity in _output_ids(node)}
        inputs = {id(t): t for node in part for t in node.keras_inputs if id(t) not in inner}
        outputs = [t for i in range(start, end) if last_use[i] >= end for t in tf.nest.flatten(nodes[i].outputs)]
        segments.append(_Segment(part, list(inputs.values()), outputs))
    return segments


def _ordered_nodes(outputs: Sequence[Any]) -> list[Any]:
    """Returns the calls that lead to outputs, one branch after the other, so that few tensors live at a time."""
    ordered: dict[int, Any] = {}
    waiting = [tensor.node for tensor in reversed(outputs)]
    while waiting:
        node = waiting[-1]
        before = [tensor.node for tensor in node.keras_inputs]
        missing = [n for n in before if id(n) not in ordered and not n.is_input]
        if missing:
            waiting.extend(reversed(missing))
        else:
            ordered.setdefault(id(waiting.pop()), node)
    return list(ordered.values())


def _sizes(network: keras.Model, nodes: Sequence[Any]) -> np.ndarray:
    """Returns the bytes of each node's outputs, for one image."""
    sides = [side or _NOMINAL_SIDE for side in network.input_shape[1:3]]
    shapes = {id(network.inputs[0]): tf.TensorShape([1, *sides, network.input_shape[-1]])}
    sizes = []
    for node in nodes:
        taken = tf.nest.map_structure(lambda tensor: shapes[id(tensor)], node.call_args)
        given = tf.nest.flatten(node.layer.compute_output_shape(*taken))
        shapes.update(zip(_output_ids(node), given, strict=True))
        tensors = zip(given, tf.nest.flatten(node.outputs), strict=True)
        sizes.append(sum(math.prod(shape) * tensor.dtype.size for shape, tensor in tensors))
    return np.array(sizes, np.float64)


def _boundaries(sizes: np.ndarray, last_use: np.ndarray, repeatable: int) -> list[int]:
    """Finds the cuts of least peak memory.

    Args:
        sizes: [n], what each node gives.
        last_use: [n], the last node that takes it; n for outputs of the network.
        repeatable: Nodes before the first that must run once alone.

    Returns:
        The first node of each segment but the first one.
    """
    n = len(sizes)
    before = np.concatenate([[0.0], np.cumsum(sizes)])
    # handed[j][i]: what the nodes i..j-1 give to those from j on.
    handed = [np.zeros(1)]
    for j in range(1, n + 1):
        alive = np.where(last_use[:j] >= j, sizes[:j], 0.0)
        handed.append(np.cumsum(alive[::-1])[::-1])

    def within(most: float) -> list[int] | None:
        """Cuts that never need more than `most`, with the least to keep among these."""
        kept, previous = np.full(n + 1, np.inf), np.zeros(n + 1, int)
        kept[0] = 0.0
        for j in range(1, n + 1):
            starts = slice(0, j if j < n else min(repeatable, n - 1) + 1)
            fits = kept[starts] + before[j] - before[starts] <= most
            cost = np.where(fits, kept[starts] + handed[j][starts], np.inf)
            previous[j] = np.argmin(cost)
            kept[j] = cost[previous[j]]
        if not np.isfinite(kept[n]):
            return None
        cuts = [int(previous[n])]
        while cuts[-1] > 0:
            cuts.append(int(previous[cuts[-1]]))
        return cuts[-2::-1]

    too_little, enough = 0.0, before[n]
    while enough - too_little > 1e-3 * enough:
        middle = (too_little + enough) / 2
        too_little, enough = (too_little, middle) if within(middle) is not None else (middle, enough)
    return within(enough)


def _has_other_state(layer: keras.layers.Layer) -> bool:
    """Whether a layer changes in training what it computes from, beside the statistics of normalization."""
    return not isinstance(layer, BatchNormalization) and any(not variable.trainable for variable in layer.weights)


def _output_ids(node: Any) -> list[int]:
    return [id(tensor) for tensor in tf.nest.flatten(node.outputs)]
