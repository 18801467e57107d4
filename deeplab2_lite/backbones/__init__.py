"""The encoders, by the names that a configuration gives them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import tensorflow as tf

from deeplab2_lite.backbones.auto_deeplab import auto_deeplab
from deeplab2_lite.backbones.common import BackboneFeatures
from deeplab2_lite.backbones.hrnet import WIDER, hrnet
from deeplab2_lite.backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from deeplab2_lite.backbones.resnet import BETA, CAFFE_FORM, DEEPLAB2, DEEPLAB2_BETA, resnet
from deeplab2_lite.backbones.xception import xception
from deeplab2_lite.config import BackboneConfig
from deeplab2_lite.layers.settings import LayerSettings

BackboneFunction = Callable[[tf.Tensor, BackboneConfig, LayerSettings], BackboneFeatures]

BACKBONES: Mapping[str, BackboneFunction] = MappingProxyType(
    {
        "auto_deeplab_l_plus": auto_deeplab,
        "auto_deeplab_xl_plus": functools.partial(auto_deeplab, filters=64, skip_strides=(4,)),
        "auto_deeplab_xl_plus_plus": functools.partial(auto_deeplab, filters=64),
        "hrnet_w48": functools.partial(hrnet, keep_head=False),
        "hrnet_w48_plus": hrnet,
        "hrnet_w48_plus_atrous": hrnet,
        "hrnet_wider_plus": functools.partial(hrnet, architecture=WIDER),
        "hrnet_wider_plus_atrous": functools.partial(hrnet, architecture=WIDER),
        "mobilenet_v3_large": mobilenet_v3_large,
        "mobilenet_v3_small": mobilenet_v3_small,
        "resnet50": resnet,
        "resnet50_beta": functools.partial(resnet, form=BETA),
        "resnet50_beta_deeplab2": functools.partial(resnet, form=DEEPLAB2_BETA),
        "resnet50_caffe": functools.partial(resnet, form=CAFFE_FORM),
        "resnet50_deeplab2": functools.partial(resnet, form=DEEPLAB2),
        "resnet101": functools.partial(resnet, depth=101),
        "resnet101_beta": functools.partial(resnet, depth=101, form=BETA),
        "resnet101_caffe": functools.partial(resnet, depth=101, form=CAFFE_FORM),
        "xception65": functools.partial(xception, depth=65),
        "xception71": functools.partial(xception, depth=71),
    }
)

__all__ = ["BACKBONES", "BackboneFeatures", "BackboneFunction"]
