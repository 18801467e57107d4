"""A network whose weights are constants of its graph: nothing to restore, nothing to read at each run."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from deeplab2_lite.serving.folding import fold_batch_norm

FrozenNetwork = Callable[..., dict[str, tf.Tensor]]


def freeze(network: keras.Model) -> FrozenNetwork:
    """Folds batch normalization into the convolutions, and the weights into the graph.

    Args:
        network: As `build_model` gives it. It stays as it is, and the frozen one does not follow it.

    Returns:
        A function as the network is one: from float32 images [batch, height, width, 3] to heads by name.
    """
    folded = fold_batch_norm(network)
    shapes = folded.output_shape
    names = sorted(shapes)

    @tf.function(input_signature=[tf.TensorSpec(folded.input_shape, tf.float32, name="images")], autograph=False)
    def run(images: tf.Tensor) -> list[tf.Tensor]:
        heads = folded(images, training=False)
        return [heads[name] for name in names]

    constant = convert_variables_to_constants_v2(run.get_concrete_function())

    def frozen(images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        del training  # Callers say that it is inference.
        heads = dict(zip(names, constant(tf.cast(images, tf.float32)), strict=True))
        return {name: tf.ensure_shape(head, shapes[name]) for name, head in heads.items()}

    return frozen
