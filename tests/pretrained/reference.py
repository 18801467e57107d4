"""Plain forward passes of other code bases' networks, by the names of their variables.

Each network makes its variables as it comes to them: what is in `variables` afterwards is what a file of
that code base holds. Written from the names and the order of layers that they document.
"""

from __future__ import annotations

import zlib

import numpy as np
import tensorflow as tf


class Variables:
    """Random variables by name, made where they are first asked for."""

    def __init__(self) -> None:
        self.variables: dict[str, np.ndarray] = {}

    def new(self, name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        assert name not in self.variables, name
        random = np.random.default_rng(zlib.crc32(name.encode()))
        self.variables[name] = random.uniform(low, high, shape).astype(np.float32)
        return self.variables[name]

    def kernel(self, name: str, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
        bound = 0.3 * np.sqrt(6.0 / fan_in)
        return self.new(name, shape, -bound, bound)

    def normalization(self, x, names: tuple[str, str, str, str]):
        """Returns gamma, beta and moving statistics that keep features in bounds.

        Kernels are small, so that epsilon matters. The mean is not the real one: where it is, rounding
        errors grow from layer to layer in a random network.
        """
        size = np.sqrt(np.mean(np.square(x), axis=(0, 1, 2)))
        values = [
            self.new(names[0], size.shape, 0.3, 0.9),
            self.new(names[1], size.shape, 0.0, 0.6),
            size * self.new(names[2], size.shape, -0.3, 0.3),
            size**2 * self.new(names[3], size.shape, 0.5, 1.5) + np.float32(1e-3),
        ]
        self.variables.update(zip(names[2:], values[2:], strict=True))
        return values


def normalize(x, gamma, beta, mean, variance, epsilon):
    scale = gamma / np.sqrt(variance.astype(np.float64) + epsilon)
    return x * scale.astype(np.float32) + (beta - mean * scale).astype(np.float32)


def convolve(x, kernel, stride=1, rate=1):
    pad = rate * (kernel.shape[0] - 1) // 2
    x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    return tf.nn.conv2d(x, kernel, stride, "VALID", dilations=rate)


def convolve_depthwise(x, kernel, stride=1, rate=1):
    pad = rate * (kernel.shape[0] - 1) // 2
    x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "VALID", dilations=[rate, rate])


def resize(x, like):
    return tf.compat.v1.image.resize_bilinear(x, like.shape[1:3], align_corners=True)


def max_pool(x):
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return tf.nn.max_pool2d(x, 3, 2, "VALID")


# ---- TF-slim


class Slim(Variables):
    """Layers of TF-slim, with variables by scope."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def norm(self, x, scope):
        names = tuple(f"{scope}/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance"))
        return normalize(x, *self.normalization(x, names), self.epsilon)

    def conv(self, x, scope, filters, size=1, stride=1, activation=tf.nn.relu):
        kernel = self.kernel(f"{scope}/weights", (size, size, x.shape[-1], filters), size * size * x.shape[-1])
        return activation(self.norm(convolve(x, kernel, stride), f"{scope}/BatchNorm"))

    def depthwise(self, x, scope, size, stride=1, rate=1, activation=tf.nn.relu):
        kernel = self.kernel(f"{scope}/depthwise_weights", (size, size, x.shape[-1], 1), size * size)
        return activation(self.norm(convolve_depthwise(x, kernel, stride, rate), f"{scope}/BatchNorm"))


def slim_xception(net: Slim, images, depth: int) -> dict[str, tf.Tensor]:
    scope = f"xception_{depth}"
    x = images / 127.5 - 1.0
    x = net.conv(x, f"{scope}/entry_flow/conv1_1", 32, 3, 2)
    x = net.conv(x, f"{scope}/entry_flow/conv1_2", 64, 3)
    entry = {
        65: [(128, 2), (256, 2), (728, 2)],
        71: [(128, 2), (256, 1), (256, 2), (728, 1), (728, 2)],
    }[depth]
    ends = {}
    for number, (channels, stride) in enumerate(entry, start=1):
        x, second = _xception_module(net, x, f"{scope}/entry_flow/block{number}/unit_1", [channels] * 3, "conv", stride)
        ends[number] = second
    for number in range(1, 17):
        x, _ = _xception_module(net, x, f"{scope}/middle_flow/block1/unit_{number}", [728] * 3, "sum")
    x, _ = _xception_module(net, x, f"{scope}/exit_flow/block1/unit_1", [728, 1024, 1024], "conv", 2)
    unit = f"{scope}/exit_flow/block2/unit_1"
    x, _ = _xception_module(net, x, unit, [1536, 1536, 2048], "none", rates=(1, 2, 4), activate_within=True)
    skips = {65: (2, 3), 71: (3, 5)}[depth]
    return {"output": x, "2": ends[1], "4": ends[skips[0]], "8": ends[skips[1]]}


def _xception_module(net, x, unit, depths, skip, stride=1, rates=(1, 1, 1), activate_within=False):
    scope = f"{unit}/xception_module"
    within = tf.nn.relu if activate_within else tf.identity
    residual = second = x
    for index, (depth, rate) in enumerate(zip(depths, rates, strict=True), start=1):
        if not activate_within:
            residual = tf.nn.relu(residual)
        name = f"{scope}/separable_conv{index}"
        residual = net.depthwise(residual, f"{name}_depthwise", 3, stride if index == 3 else 1, rate, within)
        residual = net.conv(residual, f"{name}_pointwise", depth, activation=within)
        second = residual if index == 2 else second
    if skip == "none":
        return residual, second
    if skip == "conv":
        x = net.conv(x, f"{scope}/shortcut", depths[-1], 1, stride, tf.identity)
    return residual + x, second


def slim_resnet_beta(net: Slim, images, units=(3, 4, 6, 3), scope="resnet_v1_50") -> dict[str, tf.Tensor]:
    x = images / 127.5 - 1.0
    for index, (filters, stride) in enumerate([(64, 2), (64, 1), (128, 1)], start=1):
        x = net.conv(x, f"{scope}/conv1_{index}", filters, 3, stride)
    x = max_pool(x)
    ends = {}
    for block, count in enumerate(units, start=1):
        width = 64 * 2 ** (block - 1)
        for unit in range(1, count + 1):
            stride = 2 if unit == count and block < 4 else 1
            name = f"{scope}/block{block}/unit_{unit}/bottleneck_v1"
            if x.shape[-1] == 4 * width:
                shortcut = x[:, ::stride, ::stride]
            else:
                shortcut = net.conv(x, f"{name}/shortcut", 4 * width, 1, stride, tf.identity)
            residual = net.conv(x, f"{name}/conv1", width)
            residual = net.conv(residual, f"{name}/conv2", width, 3, stride)
            residual = net.conv(residual, f"{name}/conv3", 4 * width, activation=tf.identity)
            ends[block, unit] = residual
            x = tf.nn.relu(shortcut + residual)
    return {"output": x, "4": ends[1, units[0] - 1], "8": ends[2, units[1] - 1]}


_LARGE_BLOCKS = [
    # expansion, output channels, kernel, stride, squeeze-excite, hard-swish
    (16, 16, 3, 1, 0, 0), (64, 24, 3, 2, 0, 0), (72, 24, 3, 1, 0, 0), (72, 40, 5, 2, 24, 0), (120, 40, 5, 1, 32, 0),
    (120, 40, 5, 1, 32, 0), (240, 80, 3, 2, 0, 1), (200, 80, 3, 1, 0, 1), (184, 80, 3, 1, 0, 1), (184, 80, 3, 1, 0, 1),
    (480, 112, 3, 1, 120, 1), (672, 112, 3, 1, 168, 1), (672, 160, 5, 2, 168, 1), (960, 160, 5, 1, 240, 1),
    (960, 160, 5, 1, 240, 1),
]  # fmt: skip


def slim_mobilenet_v3_large(net: Slim, images) -> dict[str, tf.Tensor]:
    def hard_sigmoid(x):
        return tf.nn.relu6(x + 3.0) / 6.0

    def hard_swish(x):
        return x * hard_sigmoid(x)

    def fully_connected(x, scope, channels):
        kernel = net.kernel(f"{scope}/weights", (1, 1, x.shape[-1], channels), x.shape[-1])
        return convolve(x, kernel) + net.new(f"{scope}/biases", (channels,), -0.5, 0.5)

    x = net.conv(images / 127.5 - 1.0, "MobilenetV3/Conv", 16, 3, 2, hard_swish)
    ends = {}
    for index, (expanded, channels, size, stride, squeezed, swish) in enumerate(_LARGE_BLOCKS):
        scope = "MobilenetV3/expanded_conv" + (f"_{index}" if index else "")
        activation = hard_swish if swish else tf.nn.relu
        y = net.conv(x, f"{scope}/expand", expanded, activation=activation) if index else x
        y = net.depthwise(y, f"{scope}/depthwise", size, stride, activation=activation)
        ends[index] = y
        if squeezed:
            gate = tf.reduce_mean(y, [1, 2], keepdims=True)
            gate = tf.nn.relu(fully_connected(gate, f"{scope}/squeeze_excite/Conv", squeezed))
            y *= hard_sigmoid(fully_connected(gate, f"{scope}/squeeze_excite/Conv_1", expanded))
        y = net.conv(y, f"{scope}/project", channels, activation=tf.identity)
        x = x + y if stride == 1 and x.shape[-1] == channels else y
    x = net.conv(x, "MobilenetV3/Conv_1", 960, activation=hard_swish)
    return {"output": x, "4": ends[2], "8": ends[5]}


# ---- DeepLab2


class DeepLab2(Variables):
    """Layers of DeepLab2, with variables by path of attributes; epsilon 1e-3."""

    def norm(self, x, path):
        names = tuple(f"{path}/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance"))
        return normalize(x, *self.normalization(x, names), 1e-3)

    def conv(self, x, path, filters, size=1, stride=1, rate=1, activation=tf.nn.relu):
        kernel = self.kernel(f"{path}/_conv/kernel", (size, size, x.shape[-1], filters), size * size * x.shape[-1])
        return activation(self.norm(convolve(x, kernel, stride, rate), f"{path}/_batch_norm"))

    def separable(self, x, path, filters, size=5):
        name = f"{path}/_conv1_bn_act"
        kernel = (f"{name}/_depthwise/_depthwise_conv/depthwise_kernel", (size, size, x.shape[-1], 1))
        x = convolve_depthwise(x, self.kernel(*kernel, size * size))
        x = tf.nn.relu(self.norm(x, f"{name}/_depthwise/_batch_norm"))
        return self.conv(x, f"{name}/_pointwise", filters)


def deeplab2_resnet(net: DeepLab2, images, beta=False) -> dict[str, tf.Tensor]:
    """Without max pooling: the first unit of every stage has the stride, that of the first stage too."""
    x = images / 127.5 - 1.0
    if beta:
        x = net.conv(x, "encoder/_stem/_conv1_bn_act", 64, 3, 2)
        x = net.conv(x, "encoder/_stem/_conv2_bn_act", 64, 3)
        x = net.conv(x, "encoder/_stem/_conv3_bn", 128, 3)
    else:
        x = net.conv(x, "encoder/_stem", 64, 7, 2)
    ends = {}
    for stage, count in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        width = 64 * 2 ** (stage - 2)
        for block in range(1, count + 1):
            path, stride = f"encoder/_stage{stage}/_block{block}", 2 if block == 1 else 1
            shortcut = (
                net.conv(x, f"{path}/_shortcut", 4 * width, 1, stride, activation=tf.identity) if block == 1 else x
            )
            x = net.conv(x, f"{path}/_conv1_bn_act", width)
            x = net.conv(x, f"{path}/_conv2_bn_act", width, 3, stride)
            x = tf.nn.relu(net.conv(x, f"{path}/_conv3_bn", 4 * width, activation=tf.identity) + shortcut)
        ends[f"res{stage}"] = x
    return ends


def deeplab2_panoptic_deeplab(net: DeepLab2, images, classes: int) -> dict[str, tf.Tensor]:
    ends = deeplab2_resnet(net, images)

    def decode(name, projections, channels):
        path, high = f"{name}/_aspp", ends["res5"]
        parts = [net.conv(high, f"{path}/_conv_bn_act", 256)]
        for index, rate in enumerate((3, 6, 9), start=1):
            parts.append(net.conv(high, f"{path}/_aspp_conv{index}/_conv_bn_act", 256, 3, rate=rate))
        pooled = tf.reduce_mean(high, [1, 2], keepdims=True)
        parts.append(resize(net.conv(pooled, f"{path}/_aspp_pool/_conv_bn_act", 256), high))
        x = net.conv(tf.concat(parts, 3), f"{path}/_proj_conv_bn_act", 256)
        for index, (end, projection) in enumerate(zip(("res3", "res2"), projections, strict=True), start=1):
            low = net.conv(ends[end], f"{name}/_low_level_conv{index}", projection)
            x = net.separable(tf.concat([resize(x, low), low], 3), f"{name}/_fusion_conv{index}", channels)
        return x

    def predict(x, name, last, width, outputs):
        x = net.separable(x, name, width)
        kernel = net.kernel(f"{last}/kernel", (1, 1, width, outputs), width)
        return convolve(x, kernel) + net.new(f"{last}/bias", (outputs,), -1.0, 1.0)

    semantic = decode("semantic_decoder", (64, 32), 256)
    instance = decode("instance_decoder", (32, 16), 128)
    center, offset = "instance_center_head", "instance_regression_head"
    return {
        "semantic_logits": predict(semantic, "semantic_head_without_last_layer", "semantic_last_layer", 256, classes),
        "center_heatmap": predict(instance, f"{center}_without_last_layer", f"{center}_last_layer", 32, 1),
        "center_offset": predict(instance, f"{offset}_without_last_layer", f"{offset}_last_layer", 32, 2),
    }


# ---- PyTorch


class PyTorch(Variables):
    """Layers of PyTorch, with kernels [out, in, height, width]; epsilon 1e-5."""

    def norm(self, x, name):
        names = tuple(f"{name}.{key}" for key in ("weight", "bias", "running_mean", "running_var"))
        self.variables[f"{name}.num_batches_tracked"] = np.array(7)
        return normalize(x, *self.normalization(x, names), 1e-5)

    def conv(self, x, name, norm, filters, size=1, stride=1, activation=tf.nn.relu, bias=False):
        kernel = self.kernel(f"{name}.weight", (filters, x.shape[-1], size, size), size * size * x.shape[-1])
        x = convolve(x, kernel.transpose(2, 3, 1, 0), stride)
        if bias:
            x = x + self.new(f"{name}.bias", (filters,), -0.5, 0.5)
        return activation(self.norm(x, norm))

    def sequence(self, x, name, *arguments, **options):
        return self.conv(x, f"{name}.0", f"{name}.1", *arguments, **options)

    def bottleneck(self, x, name, width, stride=1):
        shortcut = x
        if x.shape[-1] != 4 * width:
            shortcut = self.sequence(x, f"{name}.downsample", 4 * width, 1, stride, tf.identity)
        x = self.conv(x, f"{name}.conv1", f"{name}.bn1", width)
        x = self.conv(x, f"{name}.conv2", f"{name}.bn2", width, 3, stride)
        return tf.nn.relu(self.conv(x, f"{name}.conv3", f"{name}.bn3", 4 * width, activation=tf.identity) + shortcut)


def _torch_normalize(images):
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return (images / np.float32(255) - mean) / deviation


def torchvision_resnet(net: PyTorch, images, units=(3, 4, 6, 3)) -> dict[str, tf.Tensor]:
    x = max_pool(net.conv(_torch_normalize(images), "conv1", "bn1", 64, 7, 2))
    ends = []
    for block, count in enumerate(units, start=1):
        for unit in range(count):
            x = net.bottleneck(x, f"layer{block}.{unit}", 64 * 2 ** (block - 1), 2 if block > 1 and unit == 0 else 1)
        ends.append(x)
    return {"output": x, "4": ends[0], "8": ends[1]}


def hrnet_classifier(net: PyTorch, images) -> dict[str, tf.Tensor]:
    """HRNet-W48 up to its 2048 features, upsampling as its segmentation networks do, which start from these weights."""
    widths = [48, 96, 192, 384]
    x = net.conv(_torch_normalize(images), "conv1", "bn1", 64, 3, 2)
    x = net.conv(x, "conv2", "bn2", 64, 3, 2)
    for unit in range(4):
        x = net.bottleneck(x, f"layer1.{unit}", 64)
    branches = [x]
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        new = net.sequence(branches[-1], f"transition{stage - 1}.{stage - 1}.0", widths[stage - 1], 3, 2)
        if stage == 2:
            branches = [net.sequence(branches[0], "transition1.0", widths[0], 3)]
        branches.append(new)
        for module in range(modules):
            branches = _hrnet_module(net, branches, f"stage{stage}.{module}")
    widened = [net.bottleneck(x, f"incre_modules.{i}.0", 32 * 2**i) for i, x in enumerate(branches)]
    x = widened[0]
    for index in range(3):
        x = widened[index + 1] + net.sequence(x, f"downsamp_modules.{index}", 256 * 2**index, 3, 2, bias=True)
    x = net.sequence(x, "final_layer", 2048, bias=True)
    return {"output": x, "4": widened[0], "8": widened[1], "16": widened[2]}


def _hrnet_module(net, branches, name):
    for index in range(len(branches)):
        for unit in range(4):
            path, x = f"{name}.branches.{index}.{unit}", branches[index]
            y = net.conv(x, f"{path}.conv1", f"{path}.bn1", x.shape[-1], 3)
            y = net.conv(y, f"{path}.conv2", f"{path}.bn2", x.shape[-1], 3, activation=tf.identity)
            branches[index] = tf.nn.relu(x + y)
    fused = []
    for target, reference in enumerate(branches):
        total = reference
        for source, x in enumerate(branches):
            path = f"{name}.fuse_layers.{target}.{source}"
            if source > target:
                total = total + resize(net.sequence(x, path, reference.shape[-1], activation=tf.identity), reference)
            for step in range(target - source):
                last = step == target - source - 1
                filters = reference.shape[-1] if last else x.shape[-1]
                x = net.sequence(x, f"{path}.{step}", filters, 3, 2, tf.identity if last else tf.nn.relu)
            if source < target:
                total = total + x
        fused.append(tf.nn.relu(total))
    return fused
