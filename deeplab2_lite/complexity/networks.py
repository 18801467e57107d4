"""The networks of the paper's Tables 1, 5, 9 and 10, as settings of this library's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deeplab2_lite.config import AsppConfig, BackboneConfig, BranchConfig, DecoderConfig, ModelConfig

# A crop of 513 x 1025 gives 33 x 65 features at stride 16, one of 1025 x 1025 gives 65 x 65.
_SMALL_CROP = AsppConfig(pooling_kernel=(33, 65))
_SQUARE_CROP = AsppConfig(pooling_kernel=(65, 65))
_SQUARE_CROP_STRIDE_8 = AsppConfig(pooling_kernel=(129, 129))
_SQUARE_CROP_STRIDE_32 = AsppConfig(pooling_kernel=(33, 33))


def _model(backbone: str, output_stride: int = 16, **settings: Any) -> ModelConfig:
    return ModelConfig(backbone=BackboneConfig(name=backbone, output_stride=output_stride), **settings)


def _hrnet_plus(backbone: str, output_stride: int, aspp: AsppConfig) -> ModelConfig:
    return _model(
        backbone,
        output_stride,
        aspp=aspp,
        decoder=DecoderConfig(skip_strides=(16, 8, 4)),
        semantic=BranchConfig(projection_channels=(96, 64, 32)),
        instance=BranchConfig(decoder_channels=128, head_channels=32, projection_channels=(48, 32, 16)),
    )


def _auto_deeplab(backbone: str, skip_strides: tuple[int, ...] = (8, 4)) -> ModelConfig:
    model = _model(backbone, 8, aspp=_SQUARE_CROP_STRIDE_8)
    return replace(
        model,
        decoder=DecoderConfig(skip_strides=skip_strides),
        semantic=replace(model.semantic, projection_channels=model.semantic.projection_channels[-len(skip_strides) :]),
        instance=replace(model.instance, projection_channels=model.instance.projection_channels[-len(skip_strides) :]),
    )


XCEPTION_71 = _model("xception71")
DUAL_ASPP = replace(
    XCEPTION_71,
    aspp=_SMALL_CROP,
    semantic=BranchConfig(aspp_channels=128, decoder_channels=128, head_channels=128, projection_channels=(32, 16)),
    instance=BranchConfig(aspp_channels=128, decoder_channels=128, head_channels=32, projection_channels=(32, 16)),
)
DUAL_DECODER = replace(DUAL_ASPP, dual_aspp=False)
SINGLE_DECODER = replace(DUAL_DECODER, dual_decoder=False)
WIDE_INSTANCE = replace(
    XCEPTION_71,
    aspp=_SMALL_CROP,
    instance=BranchConfig(aspp_channels=256, decoder_channels=256, head_channels=64, projection_channels=(64, 32)),
)
SEMANTIC_ONLY = replace(XCEPTION_71, tasks="semantic")
DEEPLAB_V3_PLUS = replace(
    XCEPTION_71,
    decoder=DecoderConfig(skip_strides=(4,), kernel_size=3, convolutions_per_stage=2),
    semantic=replace(XCEPTION_71.semantic, projection_channels=(32,)),
    instance=replace(XCEPTION_71.instance, projection_channels=(16,)),
)
XCEPTION_71_SQUARE_CROP = replace(XCEPTION_71, aspp=_SQUARE_CROP)
XCEPTION_65_SQUARE_CROP = _model("xception65", aspp=_SQUARE_CROP)

# Its own paper's head: all four resolutions side by side, fused at that width.
HRNET_W48 = _model(
    "hrnet_w48",
    32,
    decoder=DecoderConfig(skip_strides=()),
    semantic=BranchConfig(decoder_channels=720, projection_channels=()),
    instance=BranchConfig(decoder_channels=720, head_channels=32, projection_channels=()),
)
HRNET_W48_PLUS = _hrnet_plus("hrnet_w48_plus", 32, _SQUARE_CROP_STRIDE_32)
HRNET_W48_PLUS_ATROUS = _hrnet_plus("hrnet_w48_plus_atrous", 16, _SQUARE_CROP)
HRNET_WIDER_PLUS = _hrnet_plus("hrnet_wider_plus", 32, _SQUARE_CROP_STRIDE_32)
HRNET_WIDER_PLUS_ATROUS = _hrnet_plus("hrnet_wider_plus_atrous", 16, _SQUARE_CROP)

AUTO_DEEPLAB_L_PLUS = _auto_deeplab("auto_deeplab_l_plus")
AUTO_DEEPLAB_XL_PLUS = _auto_deeplab("auto_deeplab_xl_plus", (4,))
AUTO_DEEPLAB_XL_PLUS_PLUS = _auto_deeplab("auto_deeplab_xl_plus_plus")

MOBILENET_V3 = _model("mobilenet_v3_large")
RESNET_50 = _model("resnet50_beta")
MOBILENET_V3_SQUARE_CROP = replace(MOBILENET_V3, aspp=_SQUARE_CROP)
RESNET_50_SQUARE_CROP = replace(RESNET_50, aspp=_SQUARE_CROP)
