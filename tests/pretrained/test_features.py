"""Imported weights give the features of the network that they come from."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import tf_keras as keras

from deeplab2_lite.backbones import BACKBONES
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.model import build_model
from deeplab2_lite.pretrained import import_weights

from . import reference
from .files import save_objects, save_safetensors, save_slim

# Odd at every stride: keras.applications pads even sizes on one side alone.
SIZE = (65, 97)
IMAGES = np.random.default_rng(0).uniform(0, 255, (1, *SIZE, 3)).astype(np.float32)


def configuration(backbone: str, more: str = ""):
    return load_config((), f"model.backbone={{name: {backbone}, output_stride: 32}},data.dataset_info=shapes{more}")


def backbone_of(config) -> keras.Model:
    images = keras.Input((*SIZE, 3))
    features = BACKBONES[config.model.backbone.name](images, config.model.backbone, LayerSettings.from_config(config))
    return keras.Model(images, {"output": features.output, **{str(k): v for k, v in features.skips.items()}})


def assert_equal_features(actual, expected):
    assert set(expected) <= set(actual)
    for name, features in expected.items():
        assert actual[name].shape == features.shape
        scale = np.abs(features).max()
        assert scale > 0.1, name
        np.testing.assert_allclose(actual[name] / scale, features / scale, atol=1e-4, err_msg=name)


def check(source, backbone, path, expected, left_over=(), more=""):
    """Imports into a backbone and holds its features against those of the source."""
    config = configuration(backbone, more)
    network = backbone_of(config)
    report = import_weights(network, config, source, path)
    assert len(report.loaded) == len(network.variables) and report.skipped == ()
    assert set(report.left_over) == set(left_over)
    assert_equal_features(network(IMAGES), expected)


# ---- keras.applications


def randomize(model: keras.Model) -> None:
    """Gives every variable, moving statistics and biases too, values that show where they went."""
    for variable in model.variables:
        random = np.random.default_rng(zlib.crc32(variable.name.encode()))
        kind, shape = variable.name.rpartition("/")[2], variable.shape
        if kind.endswith("kernel:0"):
            bound = np.sqrt(6.0 / np.prod(shape[:2] if kind.startswith("depthwise") else shape[:-1]))
            value = random.uniform(-bound, bound, shape)
        else:
            low, high = {"gamma:0": (0.5, 1.5), "moving_variance:0": (0.02, 1.5)}.get(kind, (-0.2, 0.2))
            value = random.uniform(low, high, shape)
        variable.assign(value)


@pytest.mark.parametrize(
    ("name", "backbone", "skips"),
    [
        ("MobileNetV3Small", "mobilenet_v3_small", ("expanded_conv/squeeze_excite/AvgPool", "expanded_conv_2/project")),
        pytest.param(
            "MobileNetV3Large",
            "mobilenet_v3_large",
            ("expanded_conv_2/project", "expanded_conv_5/squeeze_excite/AvgPool"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_keras_mobilenet_v3(name, backbone, skips, tmp_path):
    source = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(*SIZE, 3))
    randomize(source)
    source.save_weights(tmp_path / "weights.h5")
    ends = keras.Model(source.input, [*(source.get_layer(skip).input for skip in skips), source.output])(IMAGES)
    expected = dict(zip(("4", "8", "output"), ends, strict=True))
    more = ",model.backbone.halve_last_block=false"
    check("keras_applications", backbone, tmp_path / "weights.h5", expected, more=more)


@pytest.mark.parametrize(
    ("name", "last_of_block3"),
    [("ResNet50", 6), pytest.param("ResNet101", 23, marks=pytest.mark.slow)],
)
def test_keras_resnet(name, last_of_block3, tmp_path):
    backbone = f"{name.lower()}_caffe"
    source = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(*SIZE, 3))
    randomize(source)
    source.save(tmp_path / "model.h5")
    layers = ("conv2_block3_out", "conv3_block4_out", "conv5_block3_out")
    assert source.get_layer(f"conv4_block{last_of_block3}_out") is not None
    ends = keras.Model(source.input, [source.get_layer(layer).output for layer in layers])
    expected = ends(keras.applications.resnet50.preprocess_input(IMAGES.copy()))
    expected = dict(zip(("4", "8", "output"), expected, strict=True))
    check("keras_applications", backbone, tmp_path / "model.h5", expected)


# ---- TF-slim


@pytest.mark.parametrize("depth", [65, pytest.param(71, marks=pytest.mark.slow)])
def test_slim_xception(depth, tmp_path):
    net = reference.Slim(1e-3)
    expected = reference.slim_xception(net, IMAGES, depth)
    classifier = {f"xception_{depth}/logits/weights": np.zeros((1, 1, 2048, 3), np.float32)}
    state = {"global_step": np.array(3), **{f"{n}/Momentum": v for n, v in list(net.variables.items())[:5]}}
    path = save_slim(tmp_path / "model.ckpt", {**net.variables, **classifier, **state})
    check("tf_slim", f"xception{depth}", path, expected, left_over=classifier)


@pytest.mark.parametrize(
    ("depth", "units"), [(50, (3, 4, 6, 3)), pytest.param(101, (3, 4, 23, 3), marks=pytest.mark.slow)]
)
def test_slim_resnet_beta(depth, units, tmp_path):
    net = reference.Slim(1e-5)
    expected = reference.slim_resnet_beta(net, IMAGES, units, f"resnet_v1_{depth}")
    path = save_slim(tmp_path / "model.ckpt", net.variables)
    check("tf_slim", f"resnet{depth}_beta", f"{path}.index", expected)


def test_slim_mobilenet_v3(tmp_path):
    net = reference.Slim(1e-3)
    expected = reference.slim_mobilenet_v3_large(net, IMAGES)
    path = save_slim(tmp_path / "model.ckpt", net.variables)
    # Any epsilon of ours gives the same features.
    more = ",model.backbone.halve_last_block=false,model.batch_norm.epsilon=0.02"
    check("tf_slim", "mobilenet_v3_large", path, expected, more=more)


# ---- DeepLab2

DEEPLAB2 = ",model.aspp.separable=false,model.depthwise_norm=true"


def test_deeplab2_panoptic_deeplab(tmp_path):
    net = reference.DeepLab2()
    classes = 19
    expected = reference.deeplab2_panoptic_deeplab(net, IMAGES, classes)
    path = save_objects(tmp_path / "ckpt", {**net.variables, "global_step": np.array(60000)})
    config = configuration("resnet50_deeplab2", DEEPLAB2)
    network = build_model(config, classes, SIZE)
    assert sum(int(np.prod(v.shape)) for v in network.trainable_variables) == 54_973_702
    report = import_weights(network, config, "deeplab2", path)
    assert len(report.loaded) == len(network.variables) and report.skipped == report.left_over == ()
    assert_equal_features(network(IMAGES), expected)


@pytest.mark.slow
def test_deeplab2_resnet_beta(tmp_path):
    net = reference.DeepLab2()
    expected = reference.deeplab2_resnet(net, IMAGES, beta=True)
    path = save_objects(tmp_path / "ckpt", net.variables)
    expected = {"4": expected["res2"], "8": expected["res3"], "output": expected["res5"]}
    check("deeplab2", "resnet50_beta_deeplab2", path, expected)


# ---- PyTorch


@pytest.mark.parametrize(
    ("depth", "units"), [(50, (3, 4, 6, 3)), pytest.param(101, (3, 4, 23, 3), marks=pytest.mark.slow)]
)
def test_torchvision_resnet(depth, units, tmp_path):
    net = reference.PyTorch()
    expected = reference.torchvision_resnet(net, IMAGES, units)
    classifier = {"fc.weight": np.zeros((3, 2048), np.float32), "fc.bias": np.zeros(3, np.float32)}
    path = save_safetensors(tmp_path / "model.safetensors", {**net.variables, **classifier})
    check("pytorch", f"resnet{depth}", path, expected, left_over=classifier)


@pytest.mark.slow
def test_hrnet_classifier(tmp_path):
    net = reference.PyTorch()
    expected = reference.hrnet_classifier(net, IMAGES)
    classifier = {"classifier.weight": np.zeros((3, 2048), np.float32), "classifier.bias": np.zeros(3, np.float32)}
    np.savez(tmp_path / "model.npz", **{f"module.{k}": v for k, v in {**net.variables, **classifier}.items()})
    check("pytorch", "hrnet_w48_plus", tmp_path / "model.npz", expected, left_over=classifier)
