"""DeepLab2 checkpoints of whole Panoptic-DeepLab networks on its ResNets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from deeplab2_lite.pretrained.keras_applications import KERAS
from deeplab2_lite.pretrained.translation import SourceLayer, Translation

DEEPLAB2 = KERAS._replace(no_weights=("global_step", "save_counter"))

_UNIT = re.compile(r"backbone/block(\d)/unit(\d+)/(shortcut|conv1|conv2|conv3)")
_UNIT_LAYERS = {
    "shortcut": "_shortcut",
    "conv1": "_conv1_bn_act",
    "conv2": "_conv2_bn_act",
    "conv3": "_conv3_bn",
}
_STEMS = {
    "backbone/stem": "encoder/_stem",
    "backbone/stem1": "encoder/_stem/_conv1_bn_act",
    "backbone/stem2": "encoder/_stem/_conv2_bn_act",
    "backbone/stem3": "encoder/_stem/_conv3_bn",
}
_ASPP = re.compile(r"(semantic|instance)/aspp/(pointwise|atrous(\d)|image|project)")
_ASPP_LAYERS = {
    "pointwise": "_conv_bn_act",
    "image": "_aspp_pool/_conv_bn_act",
    "project": "_proj_conv_bn_act",
}
_DECODER = re.compile(r"(semantic|instance)/decoder/os(\d+)/(project|fuse1/(depthwise|pointwise))")
# Its decoder counts the skips from the coarse one on.
_SKIP_NUMBERS = {"8": 1, "4": 2}
_HEAD = re.compile(r"(semantic/head|instance/center_head|instance/offset_head)/(logits|fuse/(depthwise|pointwise))")
_HEADS = {
    "semantic/head": ("semantic_head_without_last_layer", "semantic_last_layer"),
    "instance/center_head": ("instance_center_head_without_last_layer", "instance_center_head_last_layer"),
    "instance/offset_head": ("instance_regression_head_without_last_layer", "instance_regression_head_last_layer"),
}
_STACKED = "_conv1_bn_act"


def panoptic_deeplab_layer(path: str) -> SourceLayer | None:
    """Returns how DeepLab2 calls a layer of Panoptic-DeepLab, by its path of ours."""
    if path in _STEMS:
        return _convolution(_STEMS[path])
    if match := _UNIT.fullmatch(path):
        return _convolution(f"encoder/_stage{int(match[1]) + 1}/_block{match[2]}/{_UNIT_LAYERS[match[3]]}")
    if match := _ASPP.fullmatch(path):
        name = _ASPP_LAYERS.get(match[2]) or f"_aspp_conv{match[3]}/_conv_bn_act"
        return _convolution(f"{match[1]}_decoder/_aspp/{name}")
    if match := _DECODER.fullmatch(path):
        number = _SKIP_NUMBERS[match[2]]
        if match[3] == "project":
            return _convolution(f"{match[1]}_decoder/_low_level_conv{number}")
        return _separable(f"{match[1]}_decoder/_fusion_conv{number}/{_STACKED}", match[4])
    if match := _HEAD.fullmatch(path):
        fuse, logits = _HEADS[match[1]]
        return SourceLayer(logits) if match[2] == "logits" else _separable(f"{fuse}/{_STACKED}", match[3])
    return None


def _convolution(name: str) -> SourceLayer:
    return SourceLayer(f"{name}/_conv", f"{name}/_batch_norm")


def _separable(name: str, part: str) -> SourceLayer:
    convolution = "_depthwise_conv" if part == "depthwise" else "_conv"
    return SourceLayer(f"{name}/_{part}/{convolution}", f"{name}/_{part}/_batch_norm")


TRANSLATIONS: Mapping[str, Translation] = {
    name: Translation(DEEPLAB2, panoptic_deeplab_layer, 1e-3)
    for name in ("resnet50_deeplab2", "resnet50_beta_deeplab2")
}
