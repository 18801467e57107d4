"""A slow and obvious HRNet, layer by layer in NumPy."""

from __future__ import annotations

import numpy as np
import tf_keras as keras


def pad_conv(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    half = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    height, width = x.shape[1:3]
    total = 0
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            total = total + padded[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j]
    return total


def stretch(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with aligned corners."""
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        place = np.linspace(0, old - 1, new)
        x = np.apply_along_axis(lambda line, p=place, n=old: np.interp(p, np.arange(n), line), axis, x)
    return x


class Reference:
    """A narrow HRNet with one unit a branch and two modules of three branches, layer by layer."""

    def __init__(self, model: keras.Model) -> None:
        self.weights = {v.name.removesuffix(":0"): v.numpy().astype(np.float64) for v in model.variables}
        self.used: set[str] = set()

    def weight(self, name: str) -> np.ndarray:
        self.used.add(name)
        return self.weights[name]

    def conv(self, x, name, stride=1, relu=True, bias=False):
        x = pad_conv(x, self.weight(f"{name}/conv/kernel"), stride)
        if bias:
            x = x + self.weight(f"{name}/conv/bias")
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (self.weight(f"{name}/bn/{part}") for part in parts)
        x = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return np.maximum(x, 0) if relu else x

    def bottleneck(self, x, name):
        shortcut = self.conv(x, f"{name}/shortcut", relu=False)
        x = self.conv(self.conv(x, f"{name}/conv1"), f"{name}/conv2")
        return np.maximum(shortcut + self.conv(x, f"{name}/conv3", relu=False), 0)

    def module(self, branches, name):
        refined = []
        for number, x in enumerate(branches, start=1):
            unit = f"{name}/branch{number}/unit1"
            y = self.conv(self.conv(x, f"{unit}/conv1"), f"{unit}/conv2", relu=False)
            refined.append(np.maximum(x + y, 0))
        fused = []
        for target, reference in enumerate(refined, start=1):
            total = 0
            for source, x in enumerate(refined, start=1):
                carried = f"{name}/exchange/branch{target}/from{source}"
                for step in range(1, target - source + 1):
                    x = self.conv(x, f"{carried}/down{step}", stride=2, relu=step < target - source)
                if source > target:
                    x = stretch(self.conv(x, carried, relu=False), reference.shape[1:3])
                total = total + x
            fused.append(np.maximum(total, 0))
        return fused

    def branches(self, images):
        x = (images / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        self.halved = self.conv(x, "backbone/stem1", stride=2)
        x = self.conv(self.halved, "backbone/stem2", stride=2)
        x = self.bottleneck(x, "backbone/stage1/unit1")
        branches = [self.conv(x, "backbone/stage2/transition/branch1")]
        branches.append(self.conv(x, "backbone/stage2/transition/branch2", stride=2))
        branches = self.module(branches, "backbone/stage2/module1")
        branches.append(self.conv(branches[-1], "backbone/stage3/transition/branch3", stride=2))
        for module in (1, 2):
            branches = self.module(branches, f"backbone/stage3/module{module}")
        branches.append(self.conv(branches[-1], "backbone/stage4/transition/branch4", stride=2))
        return self.module(branches, "backbone/stage4/module1")

    def head(self, branches):
        widened = [self.bottleneck(x, f"backbone/head/branch{i}") for i, x in enumerate(branches, start=1)]
        x = widened[0]
        for level in (1, 2, 3):
            x = widened[level] + self.conv(x, f"backbone/head/down{level}", stride=2, bias=True)
        output = self.conv(x, "backbone/head/final", bias=True)
        return {"output": output, "2": self.halved, "4": widened[0], "8": widened[1], "16": widened[2]}
