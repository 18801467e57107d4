"""The encoders, by the names that a configuration gives them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import tensorflow as tf

from deeplab2_lite.backbones.common import BackboneFeatures
from deeplab2_lite.backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from deeplab2_lite.backbones.resnet import resnet
from deeplab2_lite.config import BackboneConfig
from deeplab2_lite.layers.settings import LayerSettings

BackboneFunction = Callable[[tf.Tensor, BackboneConfig, LayerSettings], BackboneFeatures]

BACKBONES: Mapping[str, BackboneFunction] = MappingProxyType(
    {
        "mobilenet_v3_large": mobilenet_v3_large,
        "mobilenet_v3_small": mobilenet_v3_small,
        "resnet50": resnet,
        "resnet50_beta": functools.partial(resnet, beta=True),
    }
)

__all__ = ["BACKBONES", "BackboneFeatures", "BackboneFunction"]
