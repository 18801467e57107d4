"""What a compiled `PanopticDeepLab` does with a batch of `fit` and `evaluate`: the step of the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import ExperimentConfig, LossConfig
from deeplab2_lite.errors import UserError
from deeplab2_lite.losses import LossTerm, WeightedTerm
from deeplab2_lite.panoptic_losses import TOTAL, Targets, loss_denominators, loss_names, loss_terms
from deeplab2_lite.postprocessing.upsampling import Heads, upsample_heads
from deeplab2_lite.replica_step import ReplicaStep, apply_summed

REGULARIZATION = "regularization_loss"
# What Keras's callbacks look at where they are not told otherwise; it is the total.
_LOSS = "loss"


class FittingBatch(NamedTuple):
    """What `fit` takes from its input.

    Attributes:
        image: Whatever the network takes, batched.
        targets: What to learn of each.
    """

    image: Any
    targets: Targets


class Fitting:
    """Task and state of a `ReplicaStep` on a Keras model.

    Attributes:
        network: The model.
        losses: Its losses.
        means: Metrics by name: means over the steps of an epoch.
    """

    global_step = averages = loss_scale = None

    def __init__(self, network: keras.Model, losses: LossConfig) -> None:
        """Takes up a model that has its optimizer.

        Args:
            network: Compiled, with outputs by the names of `Heads`.
            losses: What to learn by.

        Raises:
            UserError: It has no such outputs, or computes in float16.
        """
        heads = _heads_of(network)
        layers = (part for part in network.submodules if isinstance(part, keras.layers.Layer))
        if any(layer.compute_dtype == "float16" for layer in layers):
            raise UserError("compile: float16 needs the loss scale of the training loop; expected bfloat16 or float32")
        self.network = network
        self.losses = losses
        self._regularized = bool(network.losses)
        self._config = ExperimentConfig(losses=losses)
        self._step = ReplicaStep(self, self._config, self)
        has_instances = heads.center_heatmap is not None and heads.center_offset is not None
        names = loss_names(heads.semantic_logits is not None, has_instances)
        names = (_LOSS, TOTAL, *names, *((REGULARIZATION,) if self._regularized else ()))
        with network.distribute_strategy.scope():
            self.means = {name: keras.metrics.Mean(name=name) for name in names}

    @property
    def optimizer(self) -> Fitting:
        """Updates the weights, as `ReplicaStep` calls it."""
        return self

    def apply(self, gradients: list[tf.Tensor], weights: list[tf.Variable]) -> None:
        """Takes a step of the model's optimizer, with gradients that are sums over the replicas."""
        apply_summed(self.network.optimizer, gradients, weights)

    def train(self, data: Any) -> dict[str, tf.Tensor]:
        """Takes a step, unless loss or gradient is not finite: that changes nothing, and shows in the metrics.

        Args:
            data: Inputs and their `Targets`.

        Returns:
            The metrics so far.

        Raises:
            UserError: The data is something else.
        """
        outcome = self._step(_as_batch(data), tf.constant(False))
        # The loss may be finite where its gradient is not.
        nothing = tf.where(outcome.updated, 0.0, float("nan"))
        return self._record({name: loss + nothing for name, loss in outcome.losses.items()})

    def test(self, data: Any) -> dict[str, tf.Tensor]:
        """Computes the losses of a batch of the evaluation; arguments as of `train`."""
        batch = _as_batch(data)
        terms = self.batch_losses(self.network(batch.image, training=False), batch, self._config)
        replica, total = tf.distribute.get_replica_context(), tf.distribute.ReduceOp.SUM
        denominators = replica.all_reduce(total, self.batch_denominators(batch))
        shares = {name: weighted.share(denominators[name]) for name, weighted in terms.items()}
        return self._record(replica.all_reduce(total, shares))

    def prepare_batch(self, batch: FittingBatch) -> FittingBatch:
        """Returns it: the input has made the targets."""
        return batch

    def batch_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: FittingBatch, config: ExperimentConfig
    ) -> dict[str, WeightedTerm]:
        """Returns the losses at the resolution of the targets, and that of regularized layers."""
        label = batch.targets.semantic
        size = [label.shape[axis] or tf.shape(label)[axis] for axis in (1, 2)]
        heads = {name: outputs[name] for name in Heads._fields if name in outputs}
        terms = loss_terms(upsample_heads(heads, *size), batch.targets, config.losses)
        if self._regularized:
            terms[REGULARIZATION] = WeightedTerm(LossTerm(tf.add_n(self.network.losses), tf.constant(1.0)), 1.0)
        return terms

    def batch_denominators(self, batch: FittingBatch) -> dict[str, tf.Tensor]:
        """Returns those of `batch_losses`."""
        # A replica's share of what does not depend on the batch.
        return {**loss_denominators(batch.targets), REGULARIZATION: tf.constant(1.0)}

    def _record(self, losses: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        total = tf.add_n(list(losses.values()))
        for name, value in {_LOSS: total, TOTAL: total, **losses}.items():
            self.means[name].update_state(value)
        return {name: mean.result() for name, mean in self.means.items()}


def _heads_of(network: keras.Model) -> Heads:
    outputs = network.output
    names = set(outputs) if isinstance(outputs, Mapping) else set()
    if "semantic_logits" not in names and not {"center_heatmap", "center_offset"} <= names:
        raise UserError(
            "compile: the network has no heads of segmentation; expected a loss, or a dictionary of outputs with "
            "semantic_logits, or center_heatmap and center_offset"
        )
    return Heads(*(outputs.get(name) for name in Heads._fields))


def require_targets(x: Any, y: Any) -> None:
    """Refuses data without `Targets` before Keras traces a step, where errors are told with all of the trace.

    Args:
        x: As `fit` takes it; of a kind that says nothing of its elements, nothing is known here.
        y: Likewise.

    Raises:
        UserError: There are no targets.
    """
    if hasattr(x, "element_spec"):
        spec = x.element_spec
        y = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    elif y is None and not isinstance(x, tf.Tensor | np.ndarray):
        return
    _check(y)


def _check(targets: Any) -> Targets:
    if not isinstance(targets, Targets):
        raise UserError(f"fit: expected pairs of images and Targets, got {type(targets).__name__} in place of Targets")
    return targets


def _as_batch(data: Any) -> FittingBatch:
    image, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    return FittingBatch(image, _check(targets))
