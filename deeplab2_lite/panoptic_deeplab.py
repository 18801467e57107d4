"""The Keras model that a network is: functional, and trained by `fit` on the losses of the training loop."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import LossConfig
from deeplab2_lite.fitting import Fitting, require_targets
from deeplab2_lite.layers.settings import PACKAGE


@keras.saving.register_keras_serializable(package=PACKAGE)
class PanopticDeepLab(keras.Model):
    """A functional model: `PanopticDeepLab(inputs, outputs)`, with outputs by the names of `Heads`.

    A `.keras` file names its model's class and module; Keras imports that module, and with it all
    layers, so that `keras.models.load_model(path)` needs neither an import before nor custom objects.
    """

    _fitting: Fitting | None = None

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        *args: Any,
        losses: LossConfig | None = None,
        **kwargs: Any,
    ) -> None:
        """Prepares for `fit` and `evaluate`.

        Without a `loss`, they take batches of images and `Targets`, and learn as the training loop does: its
        losses, normalized over the global batch, and no update where something is not finite. Metrics are
        those of the loop, `total_loss`, `semantic_loss`, `center_loss`, `regression_loss`, and `loss`, the total.

        Args:
            optimizer: As `keras.Model.compile` takes it.
            loss: Likewise; then training is Keras's own, and so are the other arguments.
            *args: Further arguments of `keras.Model.compile`.
            losses: Weights of the losses and their kinds; None is `LossConfig()`. Not beside `loss`.
            **kwargs: As `args`.

        Raises:
            UserError: The network has no heads of segmentation, or computes in float16.
        """
        super().compile(optimizer, loss, *args, **kwargs)
        self._fitting = None
        if loss is None:
            if isinstance(self.optimizer, keras.optimizers.Optimizer):
                with self.distribute_strategy.scope():
                    # A step updates under a condition, where no slots can be made.
                    self.optimizer.build(self.trainable_variables)
            self._fitting = Fitting(self, losses or LossConfig())

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains; arguments and result as of `keras.Model.fit`.

        Raises:
            UserError: The data are no images with `Targets`, and no other loss was compiled.
        """
        if self._fitting:
            require_targets(x, y)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes the losses; arguments and result as of `keras.Model.evaluate`.

        Raises:
            UserError: As for `fit`.
        """
        if self._fitting:
            require_targets(x, y)
        return super().evaluate(x, y, *args, **kwargs)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics of `fit` and `evaluate`."""
        return [*(self._fitting.means.values() if self._fitting else ()), *super().metrics]

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Takes a step; Keras calls it in `fit`."""
        return self._fitting.train(data) if self._fitting else super().train_step(data)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Computes the losses of a batch; Keras calls it in `evaluate`."""
        return self._fitting.test(data) if self._fitting else super().test_step(data)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns what `compile_from_config` takes, for `.keras` files."""
        config = super().get_compile_config()
        if config is None or self._fitting is None:
            return config
        return {**config, "losses": dataclasses.asdict(self._fitting.losses)}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as the model of a `.keras` file was."""
        losses = config.pop("losses", None)
        arguments = keras.saving.deserialize_keras_object(config)
        self.compile(**arguments, **({} if losses is None else {"losses": LossConfig(**losses)}))
        if isinstance(self.optimizer, keras.optimizers.Optimizer):
            self.optimizer.build(self.trainable_variables)


def without_optimizer(network: keras.Model) -> keras.Model:
    """Returns a model to export: a SavedModel would keep optimizer and metrics of a compiled one.

    Args:
        network: Any model.

    Returns:
        The network itself, or if it is a compiled functional one, another with the same layers and weights.
    """
    if getattr(network, "optimizer", None) is None or not hasattr(network, "output"):
        return network
    return PanopticDeepLab(network.input, network.output, name=network.name)
