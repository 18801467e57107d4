"""A network of few layers that says something of every image, exported once as it is and once frozen.

Networks of backbones are exported in tests/trainer and tests/runtimes, and folded in test_folding.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.data.shapes import generate_scene
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.export import export_saved_model
from deeplab2_lite.inference import InferenceSettings, inference_function

MAX_SIDE = 200
# Of weights whose maps have things, stuff and void.
SEED = 0
# Random weights give a heatmap round 0: a low threshold makes centres of its waves.
SMALL = (
    "data.crop_size=[65,97],data.shapes.height=65,data.shapes.width=97,"
    "model.semantic.aspp_channels=16,model.semantic.decoder_channels=16,model.semantic.head_channels=16,"
    "model.instance.aspp_channels=16,model.instance.decoder_channels=16,model.instance.head_channels=16,"
    "postprocessing.center_threshold=-1.0,postprocessing.top_k=20,postprocessing.stuff_area_limit=20,"
    f"export.max_side={MAX_SIDE}"
)


class Trained(NamedTuple):
    """What is exported, and the map that it must give."""

    network: keras.Model
    config: ExperimentConfig
    info: DatasetInfo
    panoptic: Callable[[np.ndarray], np.ndarray]

    def export(self, folder: Path, **values: object) -> Path:
        export = dataclasses.replace(self.config.export, **values)
        return export_saved_model(self.network, dataclasses.replace(self.config, export=export), self.info, folder)


def meta_graph_of(saved_model: Path) -> MetaGraphDef:
    content = SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    return content.meta_graphs[0]


def with_trained_statistics(network: tf.Module, seed: int = 0) -> None:
    """Gives batch normalization what training would: nothing is 0 or 1 in it."""
    random = np.random.default_rng(seed)
    for variable in network.variables:
        name, shape = variable.name.rsplit("/", 1)[-1], variable.shape
        if name.startswith(("gamma", "moving_variance")):
            variable.assign(random.uniform(0.5, 2, shape))
        elif name.startswith(("beta", "moving_mean")):
            variable.assign(random.normal(0, 0.1, shape))


def _network(num_classes: int) -> keras.Model:
    layers = keras.layers
    images = keras.Input((None, None, 3), name="images")
    features = layers.Rescaling(1 / 127.5, -1)(images)
    for number in range(2):
        features = layers.Conv2D(16, 3, 2, "same", use_bias=False, name=f"conv{number}")(features)
        features = layers.ReLU()(layers.BatchNormalization(name=f"conv{number}/bn")(features))
    features = layers.DepthwiseConv2D(5, padding="same", dilation_rate=3, use_bias=False, name="wide")(features)
    features = layers.BatchNormalization(name="wide/bn")(features)
    channels = {"semantic_logits": num_classes, "center_heatmap": 1, "center_offset": 2}
    network = keras.Model(images, {n: layers.Conv2D(count, 1, name=n)(features) for n, count in channels.items()})
    with_trained_statistics(network)
    random = np.random.default_rng(SEED)
    for variable in network.trainable_variables:
        if "kernel" in variable.name:
            variable.assign(random.normal(0, 0.3, variable.shape))
    return network


@pytest.fixture(scope="session")
def trained() -> Trained:
    config = load_config("shapes/mobilenet_v3_small", SMALL)
    info = resolve_dataset_info(config)
    network = _network(info.num_classes)
    run = inference_function(network, InferenceSettings.from_config(config, info))
    return Trained(network, config, info, lambda image: run(tf.constant(image[None]))[0].panoptic[0].numpy())


@pytest.fixture(scope="session")
def served(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel whose signatures give PNG files beside the panoptic map."""
    return trained.export(
        tmp_path_factory.mktemp("served") / "1", outputs=("panoptic_pred", "panoptic_png_bytes", "semantic_png_bytes")
    )


@pytest.fixture(scope="session")
def served_model(served: Path):
    pytest.importorskip("tensorflow_serving")
    from .served_model import ServedModel

    model = ServedModel(served, "shapes")
    yield model
    model.close()


@pytest.fixture(scope="session")
def frozen(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.export(tmp_path_factory.mktemp("frozen") / "1", frozen=True)


@pytest.fixture(scope="session")
def scenes() -> list[np.ndarray]:
    sizes = [(65, 97), (50, 81), (65, 64)]
    return [generate_scene(0, "serving", index, 65, 97)[0][:h, :w] for index, (h, w) in enumerate(sizes)]
