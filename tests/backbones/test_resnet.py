import functools

import numpy as np
import pytest
import tf_keras as keras

from deeplab2_lite.backbones import BACKBONES
from deeplab2_lite.backbones.resnet import resnet
from deeplab2_lite.config import BackboneConfig
from deeplab2_lite.layers.settings import LayerSettings


@functools.cache
def build(name: str, output_stride: int, size=(None, None), **options) -> keras.Model:
    images = keras.Input((*size, 3))
    config = BackboneConfig(name=name, output_stride=output_stride, **options)
    features = BACKBONES[name](images, config, LayerSettings(seed=1))
    return keras.Model(images, {"output": features.output, **{str(k): v for k, v in features.skips.items()}})


def count(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def test_parameters():
    # torchvision's ResNet-50 without its classifier.
    assert count(build("resnet50", 32)) == 25_557_032 - 2_049_000


@pytest.mark.slow
def test_parameters_of_the_deeper_row():
    images = keras.Input((65, 65, 3))
    features = resnet(images, BackboneConfig(name="resnet50"), LayerSettings(), depth=101)
    assert count(keras.Model(images, features.output)) == 44_549_160 - 2_049_000


@pytest.mark.parametrize("name", ["resnet50", "resnet50_beta"])
def test_shapes(name):
    shapes = build(name, 16, (65, 90)).output_shape
    assert shapes["output"] == (None, 5, 6, 2048)
    assert shapes["4"] == (None, 17, 23, 256)
    assert shapes["8"] == (None, 9, 12, 512)


@pytest.mark.parametrize("name", ["resnet50", "resnet50_beta"])
@pytest.mark.parametrize("size", [(65, 97), (50, 75)])
def test_dense_features_contain_those_of_the_strided_network(name, size):
    image = np.random.default_rng(0).uniform(0, 255, (1, *size, 3)).astype(np.float32)
    strided, dense = build(name, 32), build(name, 8)
    assert [(v.name, v.shape) for v in strided.variables] == [(v.name, v.shape) for v in dense.variables]
    rng = np.random.default_rng(1)
    weights = [w * rng.uniform(0.5, 1.0, w.shape).astype(np.float32) for w in strided.get_weights()]
    strided.set_weights(weights)
    dense.set_weights(weights)
    expected, actual = strided(image), dense(image)
    assert expected["output"].shape[1:3] == tuple(-(-n // 32) for n in size)
    assert actual["output"].shape[1:3] == tuple(-(-n // 8) for n in size)
    scale = np.abs(expected["output"]).max()
    assert scale > 0
    np.testing.assert_allclose(actual["output"][:, ::4, ::4] / scale, expected["output"] / scale, atol=1e-5)
    for skip in ("4", "8"):
        np.testing.assert_allclose(actual[skip], expected[skip], rtol=1e-4, atol=1e-4)


def convolutions(model: keras.Model, kind: str) -> dict[str, tuple[int, int]]:
    """Stride and rate of the 3x3 convolutions of the units, where they are not both 1."""
    found = {}
    for layer in model.layers:
        if layer.name.endswith(kind):
            place = (layer.strides[0], layer.dilation_rate[0])
            if place != (1, 1):
                found[layer.name.removeprefix("backbone/").removesuffix(kind)] = place
    return found


def test_strides_and_rates():
    kind = "/conv2/conv"
    units = [f"block4/unit{i}" for i in (1, 2, 3)]
    assert convolutions(build("resnet50_beta", 16, multi_grid=(1, 2, 4)), kind) == {
        "block1/unit3": (2, 1),
        "block2/unit4": (2, 1),
        **dict(zip(units, [(1, 2), (1, 4), (1, 8)], strict=True)),
    }
    assert convolutions(build("resnet50_beta", 16, (65, 90)), kind) == {
        "block1/unit3": (2, 1),
        "block2/unit4": (2, 1),
        **dict.fromkeys(units, (1, 2)),
    }
    assert convolutions(build("resnet50", 16, (65, 90)), kind) == {
        "block2/unit1": (2, 1),
        "block3/unit1": (2, 1),
        **dict.fromkeys(units[1:], (1, 2)),
    }
    assert convolutions(build("resnet50", 32), kind) == {f"block{i}/unit1": (2, 1) for i in (2, 3, 4)}


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet50_beta", ("block1/unit2/conv3/bn", "block2/unit3/conv3/bn")),
        ("resnet50", ("block1/unit3/relu", "block2/unit4/relu")),
    ],
)
def test_skips_are_the_papers(name, layers):
    outputs = build(name, 16, (65, 90)).output
    assert [outputs[key].node.layer.name for key in ("4", "8")] == [f"backbone/{layer}" for layer in layers]
