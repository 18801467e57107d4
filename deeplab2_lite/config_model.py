"""The network's part of the experiment configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

BackboneName = Literal[
    "auto_deeplab_l_plus",
    "auto_deeplab_xl_plus",
    "auto_deeplab_xl_plus_plus",
    "hrnet_w48",
    "hrnet_w48_plus",
    "hrnet_w48_plus_atrous",
    "hrnet_wider_plus",
    "hrnet_wider_plus_atrous",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet50",
    "resnet50_beta",
    "resnet50_beta_deeplab2",
    "resnet50_caffe",
    "resnet50_deeplab2",
    "resnet101",
    "resnet101_beta",
    "resnet101_caffe",
    "xception65",
    "xception71",
]
Size = tuple[int, int]


@dataclass(frozen=True)
class BackboneConfig:
    """The encoder.

    Attributes:
        name: Which network.
        output_stride: Input size over the size of its coarsest feature map; atrous convolution keeps
            the resolution from there on (paper section 3.1). 32 of HRNet is as published, 16 the
            paper's (Atrous): `hrnet_*_atrous` is the network without that name, at 16 or 8.
        halve_last_block: MobileNetV3: halve the width of the last block, as the paper's counts need.
        multi_grid: Factors on the atrous rates of the last block: of its units in ResNet, of its
            convolutions in Xception; null is the backbone's own, (1, 2, 4) for Xception and (1, 1, 1),
            off, for ResNet.
    """

    name: BackboneName = "resnet50_beta"
    output_stride: Literal[8, 16, 32] = 16
    halve_last_block: bool = True
    multi_grid: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class AsppConfig:
    """Atrous spatial pyramid pooling.

    Attributes:
        atrous_rates: Rates of the 3x3 convolutions; null takes 6, 12, 18 at output stride 16, double
            at 8, half at 32.
        separable: Depthwise-separable 3x3 convolutions (the paper's counts); false makes them dense.
        pooling_kernel: Height and width of the image pooling's window in feature pixels; null pools
            globally.
        dropout: Rate after the projection (public code uses 0.1; the paper names none).
    """

    atrous_rates: tuple[int, ...] | None = None
    separable: bool = True
    pooling_kernel: Size | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class DecoderConfig:
    """The upsampling path.

    Attributes:
        skip_strides: Strides of the backbone features that are merged, coarse to fine; the heads stand at the
            last of them. (8, 4) is Panoptic-DeepLab, (16, 8, 4) its HRNet+, (4,) DeepLabV3+; a further 2 makes
            heads at stride 2, for objects of a few pixels. Empty for `hrnet_w48`, which has
            neither ASPP nor decoder: each branch's 1x1 convolution of `decoder_channels` fuses all
            resolutions.
        kernel_size: Of the separable convolutions after each merge.
        convolutions_per_stage: How many of them (1; DeepLabV3+ has 2).
    """

    skip_strides: tuple[int, ...] = (8, 4)
    kernel_size: int = 5
    convolutions_per_stage: int = 1


@dataclass(frozen=True)
class BranchConfig:
    """Widths of one branch: ASPP, decoder, head, and skip projections (one per skip stride)."""

    aspp_channels: int = 256
    decoder_channels: int = 256
    head_channels: int = 256
    projection_channels: tuple[int, ...] = (64, 32)


@dataclass(frozen=True)
class BatchNormConfig:
    """Batch normalization.

    Attributes:
        momentum: Of the moving averages.
        epsilon: Added to the variance.
        synchronized: Compute the statistics of a batch over all replicas; false has each replica compute its own.
        frozen: Normalize by the moving averages in training too, and learn neither gamma nor beta, where
            the batch of a replica is too small for statistics and the weights come from `train.init_checkpoint`.
    """

    momentum: float = 0.99
    epsilon: float = 1e-3
    synchronized: bool = True
    frozen: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        tasks: "panoptic" has both branches; "semantic" or "instance" builds that one alone (Table 1);
            "classification" the backbone under a classifier of whole images, to pre-train it.
        dual_aspp: An ASPP for each branch; false shares the semantic branch's.
        dual_decoder: A decoder for each branch; false hangs all heads on the semantic branch's.
        depthwise_norm: BN and ReLU also between depthwise and pointwise of the separable convolutions
            in ASPP, decoder and heads (DeepLab2 has them, the paper's counts have not).
        head_kernel_size: Of the separable convolution in each head.
    """

    tasks: Literal["panoptic", "semantic", "instance", "classification"] = "panoptic"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    aspp: AsppConfig = field(default_factory=AsppConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    semantic: BranchConfig = field(default_factory=BranchConfig)
    instance: BranchConfig = field(
        default_factory=lambda: BranchConfig(
            aspp_channels=256, decoder_channels=128, head_channels=32, projection_channels=(32, 16)
        )
    )
    dual_aspp: bool = True
    dual_decoder: bool = True
    depthwise_norm: bool = False
    head_kernel_size: int = 5
    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)

    @property
    def head_stride(self) -> int:
        """Stride of the heads: that of the finest skip, and 4 where the backbone ends there without skips."""
        return self.decoder.skip_strides[-1] if self.decoder.skip_strides else 4
