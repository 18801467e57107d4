import functools

import numpy as np
import pytest
import tf_keras as keras

from deeplab2_lite.backbones import BACKBONES
from deeplab2_lite.backbones.common import AtrousPlan
from deeplab2_lite.backbones.mobilenet_v3 import Row, inverted_bottleneck, squeeze_width
from deeplab2_lite.config import BackboneConfig
from deeplab2_lite.layers.settings import LayerSettings

SETTINGS = LayerSettings(seed=1)


@functools.cache
def build(name: str, size=(65, 90), **options) -> keras.Model:
    images = keras.Input((*size, 3))
    features = BACKBONES[name](images, BackboneConfig(name=name, **options), SETTINGS)
    return keras.Model(images, {"output": features.output, **{str(k): v for k, v in features.skips.items()}})


@pytest.mark.parametrize(
    ("name", "channels", "output_stride"),
    [
        ("mobilenet_v3_large", (72, 120, 480), 8),
        ("mobilenet_v3_large", (72, 120, 480), 16),
        ("mobilenet_v3_large", (72, 120, 480), 32),
        ("mobilenet_v3_small", (16, 88, 288), 16),
    ],
)
def test_shapes(name, channels, output_stride):
    shapes = build(name, output_stride=output_stride).output_shape
    assert shapes["4"] == (None, 17, 23, channels[0])
    assert shapes["8"] == (None, 9, 12, channels[1])
    assert shapes["output"] == (None, -(-65 // output_stride), -(-90 // output_stride), channels[2])


@pytest.mark.parametrize(
    ("name", "total", "classifier"),
    [
        # torchvision's models; their classifiers are two linear layers.
        ("mobilenet_v3_large", 5_483_032, (960 + 1) * 1280 + (1280 + 1) * 1000),
        ("mobilenet_v3_small", 2_542_856, (576 + 1) * 1024 + (1024 + 1) * 1000),
    ],
)
def test_whole_width_has_as_many_parameters_as_the_classification_network(name, total, classifier):
    model = build(name, output_stride=32, halve_last_block=False)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == total - classifier


def test_output_stride_changes_no_weight():
    models = [build("mobilenet_v3_large", output_stride=stride) for stride in (8, 16, 32)]
    named = [[(v.name, v.shape) for v in model.variables] for model in models]
    assert named[0] == named[1] == named[2]
    depthwise = [
        [
            (layer.strides[0], layer.dilation_rate[0])
            for layer in model.layers
            if isinstance(layer, keras.layers.DepthwiseConv2D)
        ]
        for model in models
    ]
    # From layer 8, the first of stride 16, on.
    assert depthwise[2][6:] == [(2, 1)] + [(1, 1)] * 5 + [(2, 1)] + [(1, 1)] * 2
    assert depthwise[1][6:] == [(2, 1)] + [(1, 1)] * 5 + [(1, 1)] + [(1, 2)] * 2
    assert depthwise[0][6:] == [(1, 1)] + [(1, 2)] * 5 + [(1, 2)] + [(1, 4)] * 2
    assert [d[:6] for d in depthwise] == [[(1, 1), (2, 1), (1, 1), (2, 1), (1, 1), (1, 1)]] * 3


@pytest.mark.parametrize(("name", "layers"), [("mobilenet_v3_large", (4, 7)), ("mobilenet_v3_small", (2, 4))])
def test_skips_are_depthwise_outputs_before_squeeze_excite(name, layers):
    outputs = build(name, output_stride=16).output
    produced = [outputs[key].node.layer.name for key in ("4", "8")]
    assert produced == [f"backbone/layer{n}/depthwise/relu" for n in layers]
    at_stride_2 = {"mobilenet_v3_large": "layer2/depthwise/relu", "mobilenet_v3_small": "layer1/hard_swish"}[name]
    assert outputs["2"].node.layer.name == f"backbone/{at_stride_2}"


@pytest.mark.parametrize(
    ("expanded", "width"), [(16, 8), (72, 24), (120, 32), (96, 24), (336, 88), (480, 120), (672, 168)]
)
def test_squeeze_width(expanded, width):
    assert squeeze_width(expanded) == width


def hard_swish(x):
    return x * np.clip((x + 3) / 6, 0, 1)


def test_unit_equals_the_slow_reference():
    """Expand, 3x3 depthwise of rate 2, squeeze-excite, project, add; with every statistic other than at first."""
    inputs = keras.Input((None, None, 4))
    row = Row(expanded=8, channels=4, kernel_size=3, stride=1, activation="hard_swish", squeeze_excite=True)
    output, depthwise = inverted_bottleneck(inputs, SETTINGS, "unit", row, stride=1, rate=2)
    model = keras.Model(inputs, [output, depthwise])
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([w + rng.uniform(0.1, 0.6, w.shape) for w in layer.get_weights()])
    weights = {v.name.removeprefix("unit/").removesuffix(":0"): v.numpy().astype(np.float64) for v in model.variables}

    def norm(x, name):
        gamma, beta, mean, variance = (
            weights[f"{name}/bn/{key}"] for key in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    image = rng.normal(size=(5, 6, 4)).astype(np.float32)
    expanded = hard_swish(norm(image @ weights["expand/conv/kernel"][0, 0], "expand"))
    padded = np.pad(expanded, ((2, 2), (2, 2), (0, 0)))
    kernel = weights["depthwise/conv/depthwise_kernel"][..., 0]
    convolved = sum(padded[2 * i : 2 * i + 5, 2 * j : 2 * j + 6] * kernel[i, j] for i in range(3) for j in range(3))
    convolved = hard_swish(norm(convolved, "depthwise"))
    excite = "squeeze_excite"
    gate = convolved.mean((0, 1)) @ weights[f"{excite}/reduce/conv/kernel"][0, 0]
    gate = np.maximum(gate + weights[f"{excite}/reduce/conv/bias"], 0) @ weights[f"{excite}/expand/conv/kernel"][0, 0]
    gate = np.clip((gate + weights[f"{excite}/expand/conv/bias"] + 3) / 6, 0, 1)
    expected = image + norm((convolved * gate) @ weights["project/conv/kernel"][0, 0], "project")

    actual, actual_depthwise = model(image[None])
    np.testing.assert_allclose(actual_depthwise[0], convolved, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(actual[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(33, 17), (18, 20)])
def test_dense_units_contain_the_strided_ones(size):
    # Without squeeze-excite, whose mean is over other pixels.
    rows = [Row(8, 4, 5, 2, "relu", False), Row(8, 4, 5, 1, "relu", False), Row(8, 6, 3, 2, "relu", False)]
    models = []
    for output_stride in (8, 2):
        inputs = features = keras.Input((None, None, 3))
        plan = AtrousPlan(output_stride)
        plan.step(2)
        for index, row in enumerate([*rows, rows[1]]):
            features, _ = inverted_bottleneck(features, SETTINGS, f"unit{index}", row, *plan.step(row.stride))
        models.append(keras.Model(inputs, features))
    image = np.random.default_rng(0).normal(size=(1, *size, 3)).astype(np.float32)
    strided, dense = (model(image).numpy() for model in models)
    assert dense.shape[1:3] == size
    np.testing.assert_allclose(dense[:, ::4, ::4], strided, rtol=1e-4, atol=1e-5)
