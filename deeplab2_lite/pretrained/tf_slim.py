"""TF-slim checkpoints of the DeepLab family: the ImageNet classifiers that the paper starts from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from deeplab2_lite.pretrained.keras_applications import mobilenet_v3_layer
from deeplab2_lite.pretrained.translation import Dialect, SourceLayer, Translation

SLIM = Dialect(
    {
        "kernel": "weights",
        "depthwise_kernel": "depthwise_weights",
        "bias": "biases",
        **{name: name for name in ("gamma", "beta", "moving_mean", "moving_variance")},
    },
    no_weights=("/Momentum", "/ExponentialMovingAverage", "/RMSProp", "/RMSProp_1", "/Adam", "/Adam_1", "global_step"),
)

_NORMALIZATION = "/BatchNorm"
_RESNET_UNIT = re.compile(r"backbone/block(\d)/unit(\d+)/(shortcut|conv\d)")
_XCEPTION_UNIT = re.compile(r"backbone/(entry|middle|exit)(\d+)/(?:separable(\d)/(depthwise|pointwise)|(shortcut))")


def xception_layer(depth: int) -> Callable[[str], SourceLayer | None]:
    """Returns how the layers of Xception are called: "xception_65/entry_flow/block1/unit_1/...".

    Args:
        depth: 65 or 71.

    Returns:
        From a layer of ours to the source's names.
    """
    scope = f"xception_{depth}"

    def layer(path: str) -> SourceLayer | None:
        if path in ("backbone/stem1", "backbone/stem2"):
            return _layer(f"{scope}/entry_flow/conv1_{path[-1]}")
        match = _XCEPTION_UNIT.fullmatch(path)
        if match is None:
            return None
        flow, number, convolution, part, shortcut = match.groups()
        # The middle flow is one block of many units, the others are blocks of one.
        place = f"block1/unit_{number}" if flow == "middle" else f"block{number}/unit_1"
        name = shortcut or f"separable_conv{convolution}_{part}"
        return _layer(f"{scope}/{flow}_flow/{place}/xception_module/{name}")

    return layer


def resnet_beta_layer(depth: int) -> Callable[[str], SourceLayer | None]:
    """Returns how the layers of ResNet-beta are called: "resnet_v1_50/block1/unit_1/bottleneck_v1/...".

    Args:
        depth: 50 or 101.

    Returns:
        From a layer of ours to the source's names.
    """
    scope = f"resnet_v1_{depth}"

    def layer(path: str) -> SourceLayer | None:
        if path in ("backbone/stem1", "backbone/stem2", "backbone/stem3"):
            return _layer(f"{scope}/conv1_{path[-1]}")
        match = _RESNET_UNIT.fullmatch(path)
        if match is None:
            return None
        return _layer(f"{scope}/block{match[1]}/unit_{match[2]}/bottleneck_v1/{match[3]}")

    return layer


def _layer(name: str) -> SourceLayer:
    return SourceLayer(name, name + _NORMALIZATION)


TRANSLATIONS: Mapping[str, Translation] = {
    "mobilenet_v3_large": Translation(SLIM, mobilenet_v3_layer("MobilenetV3/"), 1e-3),
    "mobilenet_v3_small": Translation(SLIM, mobilenet_v3_layer("MobilenetV3/", last=13), 1e-3),
    "resnet50_beta": Translation(SLIM, resnet_beta_layer(50), 1e-5),
    "resnet101_beta": Translation(SLIM, resnet_beta_layer(101), 1e-5),
    "xception65": Translation(SLIM, xception_layer(65), 1e-3),
    "xception71": Translation(SLIM, xception_layer(71), 1e-3),
}
