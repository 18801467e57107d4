"""Layers and networks as Keras keeps them: configurations, files, summaries, and exports in Keras 3."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite import layers
from deeplab2_lite.backbones import BACKBONES
from deeplab2_lite.config import BackboneConfig, BatchNormConfig, ExperimentConfig, ModelConfig
from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.export import export_saved_model
from deeplab2_lite.layers.convolutions import conv, conv_bn
from deeplab2_lite.layers.normalization import BatchNormalization
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.model import build_model
from deeplab2_lite.panoptic_deeplab import PanopticDeepLab

ROOT = Path(__file__).parents[1]
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
LAYERS = (
    (BatchNormalization, {"synchronized": True, "momentum": 0.9, "epsilon": 1e-4, "trainable": False}),
    (layers.CountedDropout, {"rate": 0.25, "seed": 7}),
    (layers.HardSigmoid, {}),
    (layers.HardSwish, {}),
    (layers.ImageNormalization, {"mean": (1.0, 2.0, 3.0), "deviation": (4.0, 5.0, 6.0)}),
    (layers.ImagePooling, {"kernel": (3, 5)}),
    (layers.ImagePooling, {}),
    (layers.ResizeLike, {}),
)


def pixels(*shape: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).uniform(-4, 4, shape), tf.float32)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("kind", "arguments"), LAYERS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_layer_is_rebuilt_from_its_config(kind, arguments, policy):
    layer = kind(name="part/layer", dtype=keras.mixed_precision.Policy(policy), **arguments)
    inputs = pixels(2, 6, 7, 3)
    inputs = [inputs, pixels(2, 12, 13, 3)] if kind is layers.ResizeLike else inputs
    expected = layer(inputs, training=True) if kind is layers.CountedDropout else layer(inputs)
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == f"deeplab2_lite>{kind.__name__}"
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is kind
    assert again.get_config() == layer.get_config()
    assert again.compute_dtype == layer.compute_dtype and again.trainable == layer.trainable
    found = again(inputs, training=True) if kind is layers.CountedDropout else again(inputs)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(tf.cast(found, tf.float32), tf.cast(expected, tf.float32))
    assert [v.name for v in again.variables] == [v.name for v in layer.variables]


def assert_kept(network: keras.Model, folder: Path) -> None:
    """Holds a network against its copies through configuration and file."""
    images = tf.abs(pixels(1, 33, 49, 3)) * 60.0
    expected = network(images)
    copy = type(network).from_config(network.get_config())
    copy.set_weights(network.get_weights())
    network.save(folder / "network.keras")
    for again in (copy, keras.models.load_model(folder / "network.keras")):
        assert type(again) is type(network) is PanopticDeepLab
        assert again.get_config() == network.get_config()
        weights = {v.name: v.numpy() for v in again.variables}
        assert list(weights) == [v.name for v in network.variables]
        for variable in network.variables:
            np.testing.assert_array_equal(weights[variable.name], variable)
        found = again(images)
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_network_of_all_layers_is_kept(policy, tmp_path):
    settings = LayerSettings(BatchNormConfig(synchronized=True), policy=policy)
    images = keras.Input((None, None, 3), name="images")
    features = layers.ImageNormalization((127.5,) * 3, (127.5,) * 3, name="normalize", dtype=settings.dtype)(images)
    stem = conv_bn(features, settings, "backbone/stem", 4, 3, strides=4, activation="hard_swish")
    pooled = layers.ImagePooling(name="backbone/pool", dtype=settings.dtype)(stem)
    context = layers.ResizeLike(name="backbone/resize", dtype=settings.dtype)([pooled, stem])
    dropped = layers.CountedDropout(0.5, 3, name="backbone/dropout", dtype=settings.dtype)(context)
    logits = keras.layers.Conv2D(
        2, 1, kernel_regularizer=keras.regularizers.L2(0.01), name="semantic/logits/conv", dtype="float32"
    )(dropped + stem)
    network = PanopticDeepLab(images, {"semantic_logits": logits})
    network(pixels(1, 33, 33, 3), training=True)
    assert_kept(network, tmp_path)
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert float(loaded.losses[0]) == pytest.approx(float(network.losses[0]))


def experiment(name: str, **model) -> ExperimentConfig:
    stride = 8 if name.startswith("auto_deeplab") else 32 if name.startswith("hrnet") else 16
    return ExperimentConfig(model=ModelConfig(backbone=BackboneConfig(name=name, output_stride=stride), **model))


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_networks_of_all_backbones_are_kept(name, tmp_path):
    assert_kept(build_model(experiment(name), 3), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("tasks", ["panoptic", "semantic", "instance"])
def test_every_task_has_a_summary_and_a_plot(tasks, tmp_path):
    network = build_model(experiment("mobilenet_v3_small", tasks=tasks), 3)
    lines = []
    network.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert f"Total params: {network.count_params()}" in text
    for layer in network.layers:
        # Keras cuts long names at the end of their column.
        assert layer.name[:20] in text
    pytest.importorskip("pydot")
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")
    keras.utils.plot_model(network, tmp_path / "network.png", show_shapes=True)
    assert (tmp_path / "network.png").stat().st_size > 10_000


KERAS_3 = """
import sys
import keras
import numpy as np

assert keras.__version__.startswith("3")
folder = sys.argv[1]
images = np.load(f"{folder}/images.npy")
layer = keras.layers.TFSMLayer(f"{folder}/export", call_endpoint="serving_default")
inputs = keras.Input((None, None, 3), dtype="uint8")
model = keras.Model(inputs, layer(inputs)["panoptic_pred"])
for found in (layer(images)["panoptic_pred"], model.predict(images, verbose=0)):
    np.testing.assert_array_equal(found, np.load(f"{folder}/panoptic.npy"))
"""


def in_another_process(code: str, *arguments: str, cwd: Path = ROOT) -> None:
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_an_export_is_a_layer_of_keras_3(tmp_path):
    pytest.importorskip("keras", minversion="3")
    config = load_config("shapes/mobilenet_v3_small", "postprocessing.center_threshold=-1.0,postprocessing.top_k=20")
    info = resolve_dataset_info(config)
    images = keras.Input((None, None, 3), name="images")
    features = conv_bn(images, LayerSettings(), "backbone/stem", 4, 3, strides=4)
    sizes = {"semantic_logits": info.num_classes, "center_heatmap": 1, "center_offset": 2}
    heads = {name: conv(features, LayerSettings(), f"heads/{name}", channels) for name, channels in sizes.items()}
    network = PanopticDeepLab(images, heads)
    network.compile("adam")
    folder = export_saved_model(network, config, info, tmp_path / "export")
    stored = [name for name, _ in tf.train.list_variables(str(folder / "variables" / "variables"))]
    assert not any("optimizer" in name or "metrics" in name for name in stored)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 33, 49, 3), np.uint8)
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    panoptic = serve(images=tf.constant(pictures))["panoptic_pred"]
    assert len(np.unique(panoptic)) > 3
    np.save(tmp_path / "images.npy", pictures)
    np.save(tmp_path / "panoptic.npy", panoptic)
    in_another_process(KERAS_3, str(tmp_path))


@pytest.mark.slow
def test_the_page_on_keras_works_when_pasted(tmp_path):
    page = (ROOT / "docs" / "keras.md").read_text()
    blocks = re.findall(r"```python( keras3)?\n(.*?)```", page, re.S)
    assert len(blocks) > 5
    for keras3 in ("", " keras3"):
        code = "\n".join(block for kind, block in blocks if kind == keras3)
        in_another_process(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", cwd=tmp_path)
