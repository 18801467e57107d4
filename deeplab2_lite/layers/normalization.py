"""Normalization: of input images inside the network, so that no caller can forget it, and over batches."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.layers.settings import PACKAGE

# (x - 127.5) / 127.5 = 2 x / 255 - 1: Xception, ResNet-50-beta and MobileNetV3.
SYMMETRIC = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
# Mean and deviation of ImageNet's RGB values, which torchvision's ResNet weights were trained with.
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# The means alone, as Caffe's models and keras.applications's ResNets subtract them.
CAFFE = ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))

# Each thread has its own: replicas are traced in threads.
_STATISTICS_KEPT = contextvars.ContextVar("statistics_kept", default=False)


@contextlib.contextmanager
def statistics_kept() -> Iterator[None]:
    """Within it, batch normalization in training leaves its moving statistics alone: for computing a step again."""
    token = _STATISTICS_KEPT.set(True)
    try:
        yield
    finally:
        _STATISTICS_KEPT.reset(token)


@keras.saving.register_keras_serializable(package=PACKAGE)
class ImageNormalization(keras.layers.Layer):
    """(images - mean) / deviation, per channel, in float32."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], **kwargs: Any) -> None:
        """Sets the statistics.

        Args:
            mean: One per channel, in 0..255.
            deviation: One per channel, in 0..255.
            **kwargs: Of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.mean = tuple(mean)
        self.deviation = tuple(deviation)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns normalized images of the shape of `inputs` [batch, height, width, channels] in 0..255."""
        return (inputs - tf.constant(self.mean, inputs.dtype)) / tf.constant(self.deviation, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the layer."""
        return {**super().get_config(), "mean": list(self.mean), "deviation": list(self.deviation)}


@keras.saving.register_keras_serializable(package=PACKAGE)
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalization, with the same statistics on one replica and on many.

    On one replica it takes TensorFlow's fused operation, on several the statistics of all of them, if
    asked to. The moving variance is the mean squared deviation either way, where the fused operation
    alone would give n / (n - 1) times as much.
    """

    def __init__(self, synchronized: bool = False, **kwargs: Any) -> None:
        """Looks at the strategy in whose scope it is made.

        Args:
            synchronized: Compute statistics over all replicas.
            **kwargs: Of `keras.layers.BatchNormalization`.
        """
        several = tf.distribute.get_strategy().num_replicas_in_sync > 1
        super().__init__(synchronized=synchronized and several, **kwargs)
        self._wants_synchronized = synchronized
        # Keras has the correction behind this attribute and no argument.
        self._bessels_correction_test_only = False

    def add_update(self, updates: Any) -> None:
        """Updates moving statistics, except within `statistics_kept`."""
        if not _STATISTICS_KEPT.get():
            super().add_update(updates)

    def get_build_config(self) -> None:
        """Leaves building to the first call: Keras would build a loaded layer outside its name."""

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the layer, whatever the number of replicas then."""
        return {**super().get_config(), "synchronized": self._wants_synchronized}
