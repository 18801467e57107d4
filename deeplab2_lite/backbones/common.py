"""What all backbones share: the features that they give, and strides that turn into atrous rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf


class BackboneFeatures(NamedTuple):
    """What the rest of the network sees of a backbone.

    Attributes:
        output: Last features, [batch, ceil(height / output_stride), ceil(width / output_stride), channels];
            at stride 4 where there are no skips.
        skips: Features for the decoder by the stride that they have in the network of output stride 32:
            2 (which no network of the paper reads), 4, 8 and, of some backbones, 16. At a lower output stride
            they are no coarser than `output`, and another tensor. None of them: heads stand on `output` itself.
    """

    output: tf.Tensor
    skips: Mapping[int, tf.Tensor]


class AtrousPlan:
    """Walks down a backbone and replaces strides by atrous rates once the output stride is reached.

    The convolution that loses its stride keeps the rate before it, and all later ones are spread
    by the stride: then the dense features contain those of the strided network (paper section 3.1).
    """

    def __init__(self, output_stride: int) -> None:
        """Starts at the image, stride 1, rate 1."""
        self.output_stride = output_stride
        self.stride = 1
        self.rate = 1

    def step(self, stride: int) -> tuple[int, int]:
        """Goes past one convolution.

        Args:
            stride: Its stride in the network of output stride 32.

        Returns:
            The stride and the rate to build it with.
        """
        rate = self.rate
        if self.stride * stride > self.output_stride:
            self.rate *= stride
            return 1, rate
        self.stride *= stride
        return stride, rate
