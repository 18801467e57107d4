import functools
import importlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones import BACKBONES
from deeplab2_lite.checkpoints import assign, named_weights
from deeplab2_lite.config import BackboneConfig, ExperimentConfig, ModelConfig
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.model import build_model

# By `import` the package gives the function of that name.
resnet_module = importlib.import_module("deeplab2_lite.backbones.resnet")

NAMES = pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "resnet50_beta",
        "resnet50_caffe",
        "resnet50_deeplab2",
        pytest.param("resnet50_beta_deeplab2", marks=pytest.mark.slow),
        pytest.param("resnet101_caffe", marks=pytest.mark.slow),
        pytest.param("resnet101", marks=pytest.mark.slow),
        pytest.param("resnet101_beta", marks=pytest.mark.slow),
    ],
)


@functools.cache
def build(name: str, output_stride: int, size=(None, None), policy: str = "float32", **options) -> keras.Model:
    images = keras.Input((*size, 3))
    config = BackboneConfig(name=name, output_stride=output_stride, **options)
    features = BACKBONES[name](images, config, LayerSettings(seed=1, policy=policy))
    return keras.Model(images, {"output": features.output, **{str(k): v for k, v in features.skips.items()}})


@pytest.fixture(scope="module", autouse=True)
def release():
    yield
    build.cache_clear()


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (*shape, 3)).astype(np.float32)


def count(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def test_parameters():
    # torchvision's ResNet-50 without its classifier.
    assert count(build("resnet50", 32)) == 25_557_032 - 2_049_000


@pytest.mark.slow
def test_parameters_of_the_deeper_rows():
    plain, beta = count(build("resnet101", 32)), count(build("resnet101_beta", 32))
    # torchvision's ResNet-101 without its classifier.
    assert plain == 44_549_160 - 2_049_000
    # The forms differ in the stem, 7x7 or three 3x3, and in what reads its 64 or 128 channels.
    stem = (27 * 64 + 9 * 64 * 64 + 9 * 64 * 128 + 2 * (64 + 64 + 128)) - (49 * 3 * 64 + 2 * 64)
    assert beta - plain == stem + (128 - 64) * (64 + 256)
    assert count(build("resnet50_beta", 32)) - count(build("resnet50", 32)) == beta - plain


@NAMES
def test_shapes(name):
    shapes = build(name, 16, (65, 90)).output_shape
    assert shapes["output"] == (None, 5, 6, 2048)
    assert shapes["4"] == (None, 17, 23, 256)
    assert shapes["8"] == (None, 9, 12, 512)


@NAMES
def test_output_stride_changes_no_weight(name):
    """So a network takes the weights of one that was trained at another output stride (paper section 4.2)."""
    models = [build(name, 8), build(name, 16, (65, 90)), build(name, 32)]
    variables = [[(v.name, v.shape) for v in model.variables] for model in models]
    assert variables[0] == variables[1] == variables[2]


@NAMES
@pytest.mark.parametrize("size", [(65, 97), (50, 75)])
def test_dense_features_contain_those_of_the_strided_network(name, size):
    images = image(1, *size)
    strided, dense = build(name, 32), build(name, 8)
    rng = np.random.default_rng(1)
    weights = [w * rng.uniform(0.5, 1.0, w.shape).astype(np.float32) for w in strided.get_weights()]
    strided.set_weights(weights)
    dense.set_weights(weights)
    expected, actual = strided(images), dense(images)
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
        ("resnet50_beta", ("stem3/relu", "block1/unit2/conv3/bn", "block2/unit3/conv3/bn")),
        ("resnet50", ("stem/relu", "block1/unit3/relu", "block2/unit4/relu")),
    ],
)
def test_skips_are_the_papers_and_the_stem(name, layers):
    outputs = build(name, 16, (65, 90)).output
    assert [outputs[key].node.layer.name for key in ("2", "4", "8")] == [f"backbone/{layer}" for layer in layers]


def test_strides_and_rates_of_the_deeper_row(monkeypatch):
    # Narrow, since places alone are looked at.
    monkeypatch.setattr(resnet_module, "_BLOCK_WIDTHS", (1, 1, 1, 1))
    images = keras.Input((65, 65, 3))
    features = BACKBONES["resnet101_beta"](images, BackboneConfig(output_stride=8), LayerSettings())
    assert convolutions(keras.Model(images, features.output), "/conv2/conv") == {
        "block1/unit3": (2, 1),
        **{f"block3/unit{i}": (1, 2) for i in range(1, 24)},
        **{f"block4/unit{i}": (1, 4) for i in (1, 2, 3)},
    }


def test_weights_of_one_output_stride_serve_another():
    """Paper section 4.2: rates 2 and 4 in the last two blocks, and those of ASPP doubled, without a new variable."""
    strided, dense = (
        build_model(ExperimentConfig(model=ModelConfig("instance", BackboneConfig(output_stride=stride))), 5)
        for stride in (16, 8)
    )
    rng = np.random.default_rng(1)
    strided.set_weights([w * rng.uniform(0.5, 1.0, w.shape[-1:]).astype(np.float32) for w in strided.get_weights()])
    assign(named_weights(dense), {k: v.numpy() for k, v in named_weights(strided).items()}, "weights")
    block3 = [layer for layer in dense.layers if "block3" in layer.name and layer.name.endswith("conv2/conv")]
    block4 = [layer for layer in dense.layers if "block4" in layer.name and layer.name.endswith("conv2/conv")]
    assert [layer.dilation_rate[0] for layer in block3 + block4] == [2] * 6 + [4] * 3

    images = image(1, 65, 81)
    for index in (1, 2, 3):
        name = f"instance/aspp/atrous{index}"
        rates = [model.get_layer(f"{name}/depthwise/conv").dilation_rate[0] for model in (strided, dense)]
        assert rates == [6 * index, 12 * index]
        expected, actual = (
            keras.Model(model.input, model.get_layer(f"{name}/pointwise/relu").output)(images).numpy()
            for model in (strided, dense)
        )
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(actual[:, ::2, ::2], expected, atol=1e-4 * np.abs(expected).max())
    assert {k: v.shape for k, v in dense(images).items()} == {k: v.shape for k, v in strided(images).items()}


@NAMES
def test_training_reaches_every_weight(name):
    model = build(name, 32)
    with tf.GradientTape() as tape:
        features = model(image(2, 33, 49), training=True)
        loss = sum(tf.reduce_mean((value - 1.0) ** 2) for value in features.values())
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.isfinite(gradient).all() and np.any(gradient), variable.name


@pytest.mark.parametrize(
    "name", ["resnet50_beta", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet50", "resnet101_beta"))]
)
def test_bfloat16_computes_low_and_stays_finite(name):
    low = build(name, 16, policy="mixed_bfloat16")
    assert low.get_layer("backbone/block4/unit3/conv3/conv").compute_dtype == "bfloat16"
    assert {v.dtype for v in low.variables} == {tf.float32}
    with tf.GradientTape() as tape:
        features = low(image(2, 33, 33), training=True)
        loss = sum(tf.reduce_mean(tf.cast(value, tf.float32) ** 2) for value in features.values())
    assert {value.dtype for value in features.values()} == {tf.bfloat16}
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(loss, low.trainable_variables))


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("resnet101_beta", True),
        pytest.param("resnet50", False, marks=pytest.mark.slow),
    ],
)
def test_networks_round_trip_through_files(name, small, monkeypatch, tmp_path):
    if small:
        monkeypatch.setattr(resnet_module, "_BLOCK_WIDTHS", (2, 3, 4, 5))
        monkeypatch.setattr(resnet_module, "_UNITS", {101: (2, 2, 3, 2)})
    images = keras.Input((None, None, 3))
    features = BACKBONES[name](images, BackboneConfig(name=name), LayerSettings())
    model = keras.Model(images, [features.output, *features.skips.values()])
    batch = image(2, 33, 50)
    model(batch, training=True)
    expected = model(batch)
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "saved_model")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [v.name for v in loaded.variables] == [v.name for v in model.variables]
    exported = tf.saved_model.load(str(tmp_path / "saved_model"))
    for other in (loaded, exported.serve):
        for actual, value in zip(other(batch), expected, strict=True):
            np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-5 * np.abs(value).max())
