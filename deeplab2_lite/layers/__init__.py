"""Layers of the network. Importing this package registers them, so that saved models load."""

from __future__ import annotations

from deeplab2_lite.layers.activations import HardSigmoid, HardSwish
from deeplab2_lite.layers.dropout import CountedDropout
from deeplab2_lite.layers.normalization import ImageNormalization
from deeplab2_lite.layers.pooling import ImagePooling
from deeplab2_lite.layers.resizing import ResizeLike, resize_align_corners
from deeplab2_lite.layers.settings import LayerSettings

__all__ = [
    "CountedDropout",
    "HardSigmoid",
    "HardSwish",
    "ImageNormalization",
    "ImagePooling",
    "LayerSettings",
    "ResizeLike",
    "resize_align_corners",
]
