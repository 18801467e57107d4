"""The network of `cityscapes/resnet50_beta` and its training step once more, in plain PyTorch.

`training_step.py` runs it, with the Python of --torch_python; nothing of deeplab2_lite is imported. Modules bear the
names of our layers, so that a test can bring weights over and see that both compute the same.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from step_process import serve
from torch import Tensor, nn
from torch.nn import functional

_WIDTHS, _UNITS, _EXPANSION = (64, 128, 256, 512), (3, 4, 6, 3), 4
_ATROUS_RATES = (6, 12, 18)
_HARDEST_FRACTION, _CENTER_WEIGHT = 0.2, 200.0


def conv_bn(
    inputs: int, outputs: int, kernel_size: int = 1, stride: int = 1, dilation: int = 1, relu: bool = True
) -> nn.Sequential:
    padding = kernel_size // 2 * dilation
    conv = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    layers = OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01))
    if relu:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def separable_conv_bn(inputs: int, outputs: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    padding = kernel_size // 2 * dilation
    depthwise = nn.Conv2d(inputs, inputs, kernel_size, 1, padding, dilation, groups=inputs, bias=False)
    nn.init.kaiming_normal_(depthwise.weight, nonlinearity="relu")
    return nn.Sequential(
        OrderedDict(depthwise=nn.Sequential(OrderedDict(conv=depthwise)), pointwise=conv_bn(inputs, outputs))
    )


def resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(features, size, mode="bilinear", align_corners=True)


class Unit(nn.Module):
    """A bottleneck; its stride is in the 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1 = conv_bn(inputs, width)
        self.conv2 = conv_bn(width, width, 3, stride, dilation)
        self.conv3 = conv_bn(width, outputs, relu=False)
        if inputs != outputs:
            self.shortcut = conv_bn(inputs, outputs, stride=stride, relu=False)
        else:
            self.shortcut = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the output, and the residual before it is added."""
        residual = self.conv3(self.conv2(self.conv1(features)))
        return functional.relu(self.shortcut(features) + residual), residual


class Backbone(nn.Module):
    """ResNet-50 (beta) at output stride 16: deep stem, the stride in the last unit of each block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem1, self.stem2, self.stem3 = conv_bn(3, 64, 3, 2), conv_bn(64, 64, 3), conv_bn(64, 128, 3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs = 128
        for block, (width, units) in enumerate(zip(_WIDTHS, _UNITS, strict=True), start=1):
            modules = OrderedDict()
            for index in range(1, units + 1):
                stride = 2 if index == units and block <= 2 else 1
                modules[f"unit{index}"] = Unit(inputs, width, stride, dilation=2 if block == 4 else 1)
                inputs = width * _EXPANSION
            self.add_module(f"block{block}", nn.ModuleDict(modules))

    def forward(self, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Returns the last features, and the skips of strides 8 and 4."""
        features = self.pool(self.stem3(self.stem2(self.stem1((images - 127.5) / 127.5))))
        skips = {}
        for block in range(1, 5):
            for index in range(1, _UNITS[block - 1] + 1):
                features, residual = getattr(self, f"block{block}")[f"unit{index}"](features)
                if block <= 2 and index == _UNITS[block - 1] - 1:
                    skips[4 * block] = residual
        return features, skips


class Aspp(nn.Module):
    """Separable atrous convolutions and image pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pointwise = conv_bn(inputs, outputs)
        for index, rate in enumerate(_ATROUS_RATES, start=1):
            self.add_module(f"atrous{index}", separable_conv_bn(inputs, outputs, 3, rate))
        self.image = conv_bn(inputs, outputs)
        self.project = conv_bn(outputs * (2 + len(_ATROUS_RATES)), outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Returns 256 channels of context."""
        parts = [self.pointwise(features), self.atrous1(features), self.atrous2(features), self.atrous3(features)]
        context = self.image(functional.adaptive_avg_pool2d(features, 1))
        parts.append(context.expand(-1, -1, *features.shape[2:]))
        return self.project(torch.cat(parts, 1))


class Stage(nn.Module):
    """One merge of the decoder."""

    def __init__(self, inputs: int, skip: int, projection: int, outputs: int) -> None:
        super().__init__()
        self.project = conv_bn(skip, projection)
        self.fuse1 = separable_conv_bn(inputs + projection, outputs, 5)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """Returns features at the resolution of the skip."""
        skip = self.project(skip)
        return self.fuse1(torch.cat([resize(features, skip.shape[2:]), skip], 1))


class Head(nn.Module):
    """One separable convolution, then logits."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.fuse = separable_conv_bn(inputs, width, 5)
        self.logits = nn.Sequential(OrderedDict(conv=nn.Conv2d(width, outputs, 1)))
        nn.init.normal_(self.logits.conv.weight, std=0.01)
        nn.init.zeros_(self.logits.conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the head's output."""
        return self.logits(self.fuse(features))


class Branch(nn.Module):
    """ASPP and decoder; heads are added by name."""

    def __init__(self, width: int, projections: tuple[int, int], heads: dict[str, Head]) -> None:
        super().__init__()
        self.aspp = Aspp(_WIDTHS[3] * _EXPANSION, 256)
        os8 = Stage(256, _WIDTHS[1] * _EXPANSION, projections[0], width)
        os4 = Stage(width, _WIDTHS[0] * _EXPANSION, projections[1], width)
        self.decoder = nn.ModuleDict(OrderedDict(os8=os8, os4=os4))
        self.heads = tuple(heads)
        for name, module in heads.items():
            self.add_module(name, module)

    def forward(self, features: Tensor, skips: dict[int, Tensor]) -> list[Tensor]:
        """Returns the heads' outputs in their order."""
        decoded = self.decoder["os8"](self.aspp(features), skips[8])
        decoded = self.decoder["os4"](decoded, skips[4])
        return [getattr(self, name)(decoded) for name in self.heads]


class PanopticDeepLab(nn.Module):
    """ResNet-50 (beta), two branches, three heads at stride 4."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.semantic = Branch(256, (64, 32), {"head": Head(256, 256, num_classes)})
        heads = {"center_head": Head(128, 32, 1), "offset_head": Head(128, 32, 2)}
        self.instance = Branch(128, (32, 16), heads)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns semantic logits, centre heatmap and offsets of images [batch, 3, height, width] in 0..255."""
        features, skips = self.backbone(images)
        return [*self.semantic(features, skips), *self.instance(features, skips)]


class Targets(NamedTuple):
    """Maps [batch, height, width]; `offset` [batch, 2, height, width]."""

    semantic: Tensor
    semantic_weight: Tensor
    heatmap: Tensor
    heatmap_weight: Tensor
    offset: Tensor
    offset_weight: Tensor


def total_loss(outputs: list[Tensor], targets: Targets, offset_weight: float) -> Tensor:
    """Upsamples to the resolution of the targets, and adds up the three losses."""
    height, width = targets.semantic.shape[1:]
    logits, heatmap, offset = (resize(output, (height, width)) for output in outputs)
    scale = [(new - 1) / (old - 1) for new, old in zip((height, width), outputs[2].shape[2:], strict=True)]
    offset = offset * torch.tensor(scale).view(1, 2, 1, 1)
    losses = functional.cross_entropy(logits, targets.semantic, reduction="none") * targets.semantic_weight
    hardest = losses.flatten(1).topk(int(np.ceil(_HARDEST_FRACTION * height * width)), dim=1, sorted=False).values
    center = (heatmap[:, 0] - targets.heatmap).square() * targets.heatmap_weight
    regression = (offset - targets.offset).abs().mean(1) * targets.offset_weight
    return (
        hardest.mean()
        + _CENTER_WEIGHT * center.sum() / targets.heatmap_weight.sum()
        + offset_weight * regression.sum() / targets.offset_weight.sum()
    )


def draw_batch(batch: int, height: int, width: int, num_classes: int) -> tuple[Tensor, Targets]:
    """Draws images and targets; no pixel is void, so that the hardest are a fixed number."""
    generator = np.random.default_rng(0)

    def uniform(*shape: int) -> Tensor:
        return torch.from_numpy(generator.uniform(0, 1, shape).astype(np.float32))

    semantic = torch.from_numpy(generator.integers(0, num_classes, (batch, height, width)))
    shape = (batch, height, width)
    maps = (uniform(*shape) + 0.01, uniform(*shape), uniform(*shape), uniform(batch, 2, height, width), uniform(*shape))
    return 255 * uniform(batch, 3, height, width), Targets(semantic, *maps)


def prepare(arguments: argparse.Namespace) -> tuple[Callable[[int], float], int]:
    """Makes network, optimizer and batch."""
    network = PanopticDeepLab(arguments.classes)
    images, targets = draw_batch(arguments.batch_size, *arguments.crop_size, arguments.classes)
    if arguments.channels_last:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-7, fused=arguments.fused)
    network.train()

    def run(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
                outputs = network(images)
            loss = total_loss([output.float() for output in outputs], targets, arguments.offset_weight)
            loss.backward()
            optimizer.step()
        return loss.item()

    return run, sum(parameter.numel() for parameter in network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--crop_size", type=int, nargs=2, default=(257, 513), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--offset_weight", type=float, default=0.25)
    parser.add_argument("--channels_last", action="store_true", help="memory format of images and weights")
    parser.add_argument("--fused", action="store_true", help="Adam in one kernel")
    parser.add_argument("--bfloat16", action="store_true", help="autocast")
    arguments = parser.parse_args()
    serve(lambda: prepare(arguments))


if __name__ == "__main__":
    main()
