import functools
import importlib
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones import BACKBONES, BackboneFeatures
from deeplab2_lite.backbones.xception import xception_unit
from deeplab2_lite.config import (
    AsppConfig,
    BackboneConfig,
    BranchConfig,
    DecoderConfig,
    ExperimentConfig,
    ModelConfig,
)
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.model import build_model, predict_heads

# By `import` the package gives the function of that name.
xception_module = importlib.import_module("deeplab2_lite.backbones.xception")

# Of the sixteen middle units, all alike, the default run builds two where nothing is counted.
NETWORKS = pytest.mark.parametrize(
    ("name", "middle"),
    [
        ("xception65", 2),
        ("xception71", 2),
        pytest.param("xception65", 16, marks=pytest.mark.slow),
        pytest.param("xception71", 16, marks=pytest.mark.slow),
    ],
)
SETTINGS = LayerSettings(seed=1)


def features_of(name: str, images: tf.Tensor, settings: LayerSettings = SETTINGS, **options) -> BackboneFeatures:
    return BACKBONES[name](images, BackboneConfig(name=name, **options), settings)


def model_of(images: tf.Tensor, features: BackboneFeatures) -> keras.Model:
    return keras.Model(images, {"output": features.output, **{str(k): v for k, v in features.skips.items()}})


@functools.cache
def build(name: str, middle: int, output_stride: int, policy: str = "float32") -> keras.Model:
    """A backbone of few middle units, for images of any size, its random weights equal at every output stride."""
    images = keras.Input((None, None, 3))
    with mock.patch.object(xception_module, "_MIDDLE_UNITS", middle):
        settings = LayerSettings(seed=1, policy=policy)
        model = model_of(images, features_of(name, images, settings, output_stride=output_stride))
    rng = np.random.default_rng(1)
    for variable in model.variables:
        # Kernels are random from the start.
        if "/bn/" in variable.name:
            scale, offset = rng.uniform(0.5, 1.0, variable.shape), rng.normal(0.0, 0.1, variable.shape)
            variable.assign(variable * scale + offset)
    return model


@pytest.fixture(scope="module", autouse=True)
def release():
    yield
    build.cache_clear()


def parameters(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def conv_macs(model: keras.Model) -> int:
    """Multiply-adds of the convolutions of a model of fixed input size."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            total += int(np.prod(layer.output_shape[1:])) * int(np.prod(layer.kernel_size))
        elif isinstance(layer, keras.layers.Conv2D):
            total += int(np.prod(layer.output_shape[1:])) * int(np.prod(layer.kernel.shape[:3]))
    return total


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (*shape, 3)).astype(np.float32)


# ---- The paper's figures ----


@pytest.fixture(scope="module")
def cityscapes() -> tuple[tf.Tensor, BackboneFeatures]:
    """Xception-71 at the input size of Table 1, without what stands on it."""
    images = keras.Input((1025, 2049, 3))
    return images, features_of("xception71", images)


def test_breakdown(cityscapes):
    model = model_of(*cityscapes)
    assert parameters(model) == 40_289_736
    assert round(conv_macs(model) / 1e6) == 470_415
    assert model.output_shape == {
        "output": (None, 65, 129, 2048),
        "2": (None, 513, 1025, 128),
        "4": (None, 257, 513, 256),
        "8": (None, 129, 257, 728),
    }


NARROW = {
    "semantic": BranchConfig(128, 128, 128, (32, 16)),
    "instance": BranchConfig(128, 128, 32, (32, 16)),
    "aspp": AsppConfig(pooling_kernel=(33, 65)),
}
WIDE_INSTANCE = {"instance": BranchConfig(256, 256, 64, (64, 32)), "aspp": AsppConfig(pooling_kernel=(33, 65))}
V3_PLUS = {
    "decoder": DecoderConfig(skip_strides=(4,), kernel_size=3, convolutions_per_stage=2),
    "semantic": BranchConfig(projection_channels=(32,)),
    "instance": BranchConfig(256, 128, 32, (16,)),
}


@pytest.mark.parametrize(
    ("model", "expected_parameters", "expected_macs"),
    [
        pytest.param(
            NARROW | {"dual_aspp": False, "dual_decoder": False}, 41_850_830, 490_788, id="single ASPP and decoder"
        ),
        pytest.param(NARROW | {"dual_aspp": False}, 41_925_342, 495_816, id="dual decoder"),
        pytest.param(NARROW, 43_374_814, 506_321, id="dual decoder and ASPP"),
        pytest.param({}, 46_717_806, 546_023, id="final"),
        pytest.param(WIDE_INSTANCE, 46_881_758, 562_965, id="C_ins 256"),
        pytest.param({"tasks": "semantic"}, 43_601_403, 517_612, id="semantic only"),
        pytest.param(V3_PLUS, 46_609_742, 551_921, id="DeepLabV3+ decoder"),
    ],
)
def test_rows_of_tables_1_and_10(cityscapes, model, expected_parameters, expected_macs):
    images, features = cityscapes
    config = ExperimentConfig(model=ModelConfig(backbone=BackboneConfig(name="xception71"), **model))
    network = keras.Model(images, predict_heads(features, config, SETTINGS, 19))
    assert parameters(network) == expected_parameters
    # The table is given to a million.
    assert round(conv_macs(network) / 1e6) == expected_macs
    if not model:
        assert conv_macs(network) == 546_022_803_064


@pytest.mark.parametrize(
    ("name", "expected_parameters", "expected_macs"),
    [
        pytest.param("xception71", 46_729_628, 1_215_666, marks=pytest.mark.slow),
        ("xception65", 44_307_204, 1_005_849),
    ],
)
def test_rows_of_table_5(name, expected_parameters, expected_macs):
    config = ExperimentConfig(
        model=ModelConfig(backbone=BackboneConfig(name=name), aspp=AsppConfig(pooling_kernel=(65, 65)))
    )
    model = build_model(config, 65, (2161, 2161))
    assert parameters(model) == expected_parameters
    assert round(conv_macs(model) / 1e6) == expected_macs
    names = [v.name for v in model.variables]
    assert len(names) == len(set(names))
    assert all(name.startswith(("backbone/", "semantic/", "instance/")) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "expected_macs"), [(133, 276_570), (201, 277_720)])
def test_coco_row_of_table_9(num_classes, expected_macs):
    config = ExperimentConfig(model=ModelConfig(backbone=BackboneConfig(name="xception71")))
    # The table is given to ten millions.
    assert abs(conv_macs(build_model(config, num_classes, (1025, 1025))) / 1e6 - expected_macs) <= 5


# ---- Strides and rates ----


@NETWORKS
def test_output_stride_changes_no_weight(name, middle):
    """So a network takes the weights of one that was trained at another output stride (paper section 4.2)."""
    variables = [[(v.name, v.shape) for v in build(name, middle, stride).variables] for stride in (8, 16, 32)]
    assert variables[0] == variables[1] == variables[2]


def places(model: keras.Model) -> dict[str, list[tuple[int, int]]]:
    """Stride and rate of the three depthwise convolutions of each unit."""
    found: dict[str, list[tuple[int, int]]] = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            unit = layer.name.split("/")[1]
            found.setdefault(unit, []).append((layer.strides[0], layer.dilation_rate[0]))
    return found


def same(rate: int, stride: int = 1) -> list[tuple[int, int]]:
    return [(1, rate), (1, rate), (stride, rate)]


@pytest.mark.parametrize(
    ("name", "output_stride", "entries", "middle_rate", "exit1", "exit2"),
    [
        ("xception71", 32, (2, 1, 2, 1, 2), 1, same(1, 2), (1, 2, 4)),
        ("xception71", 16, (2, 1, 2, 1, 2), 1, same(1), (2, 4, 8)),
        ("xception71", 8, (2, 1, 2, 1, 1), 2, same(2), (4, 8, 16)),
        ("xception65", 32, (2, 2, 2), 1, same(1, 2), (1, 2, 4)),
        ("xception65", 16, (2, 2, 2), 1, same(1), (2, 4, 8)),
        ("xception65", 8, (2, 2, 1), 2, same(2), (4, 8, 16)),
    ],
)
def test_strides_and_rates(name, output_stride, entries, middle_rate, exit1, exit2):
    assert places(build(name, 2, output_stride)) == {
        **{f"entry{i}": same(1, stride) for i, stride in enumerate(entries, start=1)},
        **{f"middle{i}": same(middle_rate) for i in (1, 2)},
        "exit1": exit1,
        "exit2": [(1, rate) for rate in exit2],
    }


def test_shortcuts_have_the_units_strides():
    model = build("xception71", 2, 16)
    names = [*(f"entry{i}" for i in range(1, 6)), "exit1"]
    assert [model.get_layer(f"backbone/{n}/shortcut/conv").strides[0] for n in names] == [2, 1, 2, 1, 2, 1]


def test_multi_grid_is_the_configurations(monkeypatch):
    monkeypatch.setattr(xception_module, "_MIDDLE_UNITS", 1)
    images = keras.Input((33, 33, 3))
    model = model_of(images, features_of("xception65", images, multi_grid=(1, 1, 3)))
    assert places(model)["exit2"] == [(1, 2), (1, 2), (1, 6)]


@NETWORKS
@pytest.mark.parametrize("size", [(65, 97), (50, 75)])
def test_dense_features_contain_those_of_the_strided_network(name, middle, size):
    images = image(1, *size)
    expected = build(name, middle, 32)(images)
    scale = np.abs(expected["output"]).max()
    assert scale > 0
    for output_stride in (16, 8):
        actual = build(name, middle, output_stride)(images)
        step = 32 // output_stride
        assert actual["output"].shape[1:3] == tuple(-(-n // output_stride) for n in size)
        contained = actual["output"][:, ::step, ::step]
        np.testing.assert_allclose(contained / scale, expected["output"] / scale, atol=1e-5)
        for skip in ("4", "8"):
            np.testing.assert_allclose(
                actual[skip], expected[skip], rtol=1e-4, atol=1e-4 * np.abs(expected[skip]).max()
            )


@NETWORKS
@pytest.mark.parametrize("size", [(33, 33), (34, 63), (47, 48)])
def test_any_size(name, middle, size):
    features = build(name, middle, 16)(image(2, *size))
    shapes = {key: tuple(value.shape) for key, value in features.items()}
    at = {stride: tuple(-(-n // stride) for n in size) for stride in (2, 4, 8, 16)}
    assert shapes == {"output": (2, *at[16], 2048), "2": (2, *at[2], 128), "4": (2, *at[4], 256), "8": (2, *at[8], 728)}


@pytest.mark.parametrize(("name", "units"), [("xception65", (1, 2, 3)), ("xception71", (1, 3, 5))])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_skips_are_the_papers(name, units, output_stride):
    outputs = build(name, 2, output_stride).output
    produced = [outputs[key].node.layer.name for key in ("2", "4", "8")]
    assert produced == [f"backbone/entry{n}/separable2/pointwise/bn" for n in units]


# ---- Values ----


def unit_reference(image, weights, stride, rates, shortcut):
    """Three separable 3x3 convolutions as the docstring says, pixel by pixel; and the second of them."""

    def norm(x, name):
        gamma, beta, mean, variance = (
            weights[f"{name}/bn/{key}"] for key in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    def after(x):
        return np.maximum(x, 0) if shortcut == "none" else x

    x, outputs = image, []
    for index, rate in enumerate(rates, start=1):
        part = f"separable{index}"
        x = x if shortcut == "none" else np.maximum(x, 0)
        height, width = x.shape[:2]
        padded = np.pad(x, ((rate, rate), (rate, rate), (0, 0)))
        kernel = weights[f"{part}/depthwise/conv/depthwise_kernel"][..., 0]
        x = sum(
            padded[rate * i : rate * i + height, rate * j : rate * j + width] * kernel[i, j]
            for i in range(3)
            for j in range(3)
        )
        if index == 3:
            x = x[::stride, ::stride]
        x = after(norm(x, f"{part}/depthwise"))
        x = after(norm(x @ weights[f"{part}/pointwise/conv/kernel"][0, 0], f"{part}/pointwise"))
        outputs.append(x)
    if shortcut == "conv":
        x = x + norm(image[::stride, ::stride] @ weights["shortcut/conv/kernel"][0, 0], "shortcut")
    elif shortcut == "identity":
        x = x + image
    return x, outputs[1]


@pytest.mark.parametrize("size", [(7, 8), (6, 5)])
@pytest.mark.parametrize(
    ("widths", "stride", "rates", "shortcut"),
    [
        ((5, 6, 7), 2, (1, 1, 1), "conv"),
        ((5, 6, 7), 1, (2, 2, 2), "conv"),
        ((4, 4, 4), 1, (2, 2, 2), "identity"),
        ((5, 6, 7), 1, (1, 2, 4), "none"),
    ],
)
def test_unit_equals_the_slow_reference(size, widths, stride, rates, shortcut):
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, xception_unit(inputs, SETTINGS, "unit", widths, stride, rates, shortcut))
    rng = np.random.default_rng(0)
    for variable in model.variables:
        low = 0.1 if variable.name.endswith(("gamma:0", "variance:0")) else -1.0
        variable.assign(rng.uniform(low, 1.0, variable.shape))
    weights = {v.name.removeprefix("unit/").removesuffix(":0"): v.numpy().astype(np.float64) for v in model.variables}
    features = rng.normal(size=(*size, 4)).astype(np.float32)
    output, second = unit_reference(features, weights, stride, rates, shortcut)
    actual = model(features[None])
    for value, expected in zip(actual, (output, second), strict=True):
        np.testing.assert_allclose(value[0], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@NETWORKS
def test_training_reaches_every_weight(name, middle):
    model = build(name, middle, 16)
    with tf.GradientTape() as tape:
        features = model(image(2, 33, 49), training=True)
        loss = sum(tf.reduce_mean((value - 1.0) ** 2) for value in features.values())
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.isfinite(gradient).all() and np.any(gradient), variable.name


@NETWORKS
def test_bfloat16_computes_low_and_stays_finite(name, middle):
    low, full = build(name, middle, 16, "mixed_bfloat16"), build(name, middle, 16)
    assert low.get_layer("backbone/exit2/separable3/pointwise/conv").compute_dtype == "bfloat16"
    assert {v.dtype for v in low.variables} == {tf.float32}
    with tf.GradientTape() as tape:
        features = low(image(2, 33, 33), training=True)
        loss = sum(tf.reduce_mean(tf.cast(value, tf.float32) ** 2) for value in features.values())
    assert {value.dtype for value in features.values()} == {tf.bfloat16}
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(loss, low.trainable_variables))
    # Near to what float32 gives, before the untrained sums of the middle units tell nothing any more.
    for training in (False, True):
        for skip in ("4", "8"):
            expected = full(image(2, 65, 65), training=training)[skip]
            error = tf.cast(low(image(2, 65, 65), training=training)[skip], tf.float32) - expected
            assert np.sqrt(np.mean(error**2)) < 0.05 * np.std(expected)


# ---- Files ----


def assert_round_trips(model: keras.Model, images: np.ndarray, folder) -> None:
    model(images, training=True)
    expected = tf.nest.flatten(model(images))
    model.save(folder / "model.keras")
    model.export(folder / "saved_model")
    loaded = keras.models.load_model(folder / "model.keras")
    assert [v.name for v in loaded.variables] == [v.name for v in model.variables]
    exported = tf.saved_model.load(str(folder / "saved_model"))
    for other in (loaded, exported.serve):
        for actual, value in zip(tf.nest.flatten(other(images)), expected, strict=True):
            np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-5 * np.abs(value).max())


def test_units_round_trip_through_files(tmp_path):
    inputs = keras.Input((None, None, 3))
    features = xception_unit(inputs, SETTINGS, "a", (4, 4, 4), 2, (1, 1, 1)).output
    features = xception_unit(features, SETTINGS, "b", (4, 4, 4), 1, (2, 2, 2), "identity").output
    features = xception_unit(features, SETTINGS, "c", (4, 5, 6), 1, (2, 4, 8), "none").output
    assert_round_trips(keras.Model(inputs, features), image(2, 9, 12) / 255, tmp_path)


@pytest.mark.slow
def test_network_round_trips_through_files(tmp_path):
    config = ExperimentConfig(model=ModelConfig(backbone=BackboneConfig(name="xception71")))
    assert_round_trips(build_model(config, 5), image(2, 33, 50), tmp_path)
