"""What all layers of one network share: types, batch normalization, seeds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import tf_keras as keras

from deeplab2_lite.config import BatchNormConfig, ExperimentConfig

PACKAGE = "deeplab2_lite"
FLOAT32 = "float32"


@dataclass(frozen=True)
class LayerSettings:
    """Settings that every layer of a network is built with.

    Each layer is told its type and seed explicitly, so that neither the global policy nor what was
    built before changes a network.

    Attributes:
        batch_norm: Momentum, epsilon, synchronization and freezing of batch normalization.
        seed: Seed of the network; each layer's seed follows from it and the layer's name.
        policy: Name of the Keras dtype policy of the layers that may compute in lower precision.
        depthwise_norm: Normalize between depthwise and pointwise of separable convolutions.
    """

    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)
    seed: int = 0
    policy: str = FLOAT32
    depthwise_norm: bool = False

    @classmethod
    def from_config(cls, config: ExperimentConfig) -> LayerSettings:
        """Returns the settings that an experiment asks for."""
        return cls(
            batch_norm=config.model.batch_norm,
            seed=config.train.seed,
            policy=FLOAT32 if config.train.precision == FLOAT32 else f"mixed_{config.train.precision}",
            depthwise_norm=config.model.depthwise_norm,
        )

    @property
    def dtype(self) -> keras.mixed_precision.Policy:
        """The dtype policy, as layers take it."""
        return keras.mixed_precision.Policy(self.policy)

    def seed_of(self, name: str) -> int:
        """Returns the seed of the layer of this name: non-negative, 31 bits, the same on every machine."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF

    def kernel_initializer(self, name: str, depthwise_channels: int = 1) -> keras.initializers.Initializer:
        """Returns He's initializer, variance 2 / fan-in, for the layer of this name.

        Args:
            name: Name of the layer.
            depthwise_channels: Channels of a depthwise kernel. Keras counts them into the fan-in, but
                each output of a depthwise convolution sees one channel alone.

        Returns:
            A seeded initializer.
        """
        return keras.initializers.VarianceScaling(
            scale=2.0 * depthwise_channels, mode="fan_in", distribution="truncated_normal", seed=self.seed_of(name)
        )
