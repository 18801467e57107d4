"""A model folder as training writes it, of a network that is small and says something of every image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deeplab2_lite.config_loading import load_config, resolve_dataset_info, save_config
from deeplab2_lite.data.shapes import generate_scene
from deeplab2_lite.loading import CHECKPOINTS, CONFIG_FILE, TrainedModel, load_model_dir

from ..trainer.tiny import tiny_network

SIZE = (65, 97)
# Random weights give a heatmap round 0: a low threshold makes centres of its waves.
SMALL = (
    "data.crop_size=[65,97],data.shapes.height=65,data.shapes.width=97,data.intensity_percentiles=[1.0,99.0],"
    "model.semantic.aspp_channels=16,model.semantic.decoder_channels=16,model.semantic.head_channels=16,"
    "model.instance.aspp_channels=16,model.instance.decoder_channels=16,model.instance.head_channels=16,"
    "postprocessing.center_threshold=-1.0,postprocessing.top_k=20,postprocessing.stuff_area_limit=20"
)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from deeplab2_lite.checkpoints import CheckpointStore, named_weights
    from deeplab2_lite.model import build_model

    folder = tmp_path_factory.mktemp("run")
    config = load_config("shapes/mobilenet_v3_small", SMALL)
    info = resolve_dataset_info(config)
    store = CheckpointStore(folder / CHECKPOINTS)
    store.save(1, named_weights(build_model(config)), {}, {})
    store.close()
    info.save(folder)
    save_config(config, folder / CONFIG_FILE)
    return folder


@pytest.fixture(scope="session", params=["few_layers", pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> TrainedModel:
    if request.param == "mobilenet_v3_small":
        return load_model_dir(request.getfixturevalue("model_dir"))
    config = load_config("shapes/mobilenet_v3_small", SMALL)
    info = resolve_dataset_info(config)
    return TrainedModel(tiny_network(config, info.num_classes), config, info, 0)


@pytest.fixture(scope="session")
def scenes() -> list[np.ndarray]:
    return [generate_scene(0, "export", index, *SIZE)[0] for index in range(3)]
