"""PyTorch state dicts: torchvision's ResNets, and the ImageNet classifiers of HRNet's authors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from deeplab2_lite.pretrained.translation import Dialect, SourceLayer, Translation

PYTORCH = Dialect(
    {
        "kernel": "weight",
        "depthwise_kernel": "weight",
        "bias": "bias",
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
    separator=".",
    channels_first=True,
    no_weights=("num_batches_tracked",),
)

_EPSILON = 1e-5
_RESNET_UNIT = re.compile(r"backbone/block(\d)/unit(\d+)/(.+)")
_HRNET_STEM = re.compile(r"backbone/stem([12])")
_HRNET_STAGE1 = re.compile(r"backbone/stage1/unit(\d+)/(.+)")
_HRNET_TRANSITION = re.compile(r"backbone/stage(\d)/transition/branch(\d)")
_HRNET_UNIT = re.compile(r"backbone/stage(\d)/module(\d)/branch(\d)/unit(\d)/(.+)")
_HRNET_EXCHANGE = re.compile(r"backbone/stage(\d)/module(\d)/exchange/branch(\d)/from(\d)(?:/down(\d))?")
_HRNET_WIDENED = re.compile(r"backbone/head/branch(\d)/(.+)")
_HRNET_DOWN = re.compile(r"backbone/head/down(\d)")


def resnet_layer(path: str) -> SourceLayer | None:
    """Returns how torchvision calls a layer of ResNet, by its path of ours."""
    if path == "backbone/stem":
        return SourceLayer("conv1", "bn1")
    match = _RESNET_UNIT.fullmatch(path)
    return _unit(f"layer{match[1]}.{int(match[2]) - 1}", match[3]) if match else None


def hrnet_layer(path: str) -> SourceLayer | None:
    """Returns how HRNet's authors call a layer of their ImageNet classifier, by its path of ours."""
    if match := _HRNET_STEM.fullmatch(path):
        return SourceLayer(f"conv{match[1]}", f"bn{match[1]}")
    if match := _HRNET_STAGE1.fullmatch(path):
        return _unit(f"layer1.{int(match[1]) - 1}", match[2])
    if match := _HRNET_TRANSITION.fullmatch(path):
        stage, branch = int(match[1]), int(match[2])
        # A new branch comes through a list of convolutions, the first one is convolved in place.
        nested = ".0" if branch == stage else ""
        return _sequence(f"transition{stage - 1}.{branch - 1}{nested}")
    if match := _HRNET_UNIT.fullmatch(path):
        stage, module, branch, unit = (int(text) for text in match.groups()[:4])
        return _unit(f"stage{stage}.{module - 1}.branches.{branch - 1}.{unit - 1}", match[5])
    if match := _HRNET_EXCHANGE.fullmatch(path):
        stage, module, target, source = (int(text) for text in match.groups()[:4])
        step = "" if match[5] is None else f".{int(match[5]) - 1}"
        return _sequence(f"stage{stage}.{module - 1}.fuse_layers.{target - 1}.{source - 1}{step}")
    if match := _HRNET_WIDENED.fullmatch(path):
        return _unit(f"incre_modules.{int(match[1]) - 1}.0", match[2])
    if match := _HRNET_DOWN.fullmatch(path):
        return _sequence(f"downsamp_modules.{int(match[1]) - 1}")
    return _sequence("final_layer") if path == "backbone/head/final" else None


def _unit(name: str, part: str) -> SourceLayer:
    """Returns the names in a residual unit: its convolutions are counted, its shortcut is called downsample."""
    if part == "shortcut":
        return _sequence(f"{name}.downsample")
    return SourceLayer(f"{name}.{part}", f"{name}.{part.replace('conv', 'bn')}")


def _sequence(name: str) -> SourceLayer:
    return SourceLayer(f"{name}.0", f"{name}.1")


TRANSLATIONS: Mapping[str, Translation] = {
    **{name: Translation(PYTORCH, resnet_layer, _EPSILON) for name in ("resnet50", "resnet101")},
    **{
        name: Translation(PYTORCH, hrnet_layer, _EPSILON)
        for name in ("hrnet_w48", "hrnet_w48_plus", "hrnet_w48_plus_atrous")
    },
}
