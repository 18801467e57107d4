"""A tiny experiment that is real in all its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeplab2_lite.config import ExperimentConfig, ShapesConfig
from deeplab2_lite.config_loading import load_config

# Plain SGD: Adam would turn the rounding noise of weights without gradient into whole steps.
SMALL = (
    "data.shapes.train_images=10,data.shapes.val_images=3,data.shapes.height=65,data.shapes.width=97,"
    "data.crop_size=[65,97],data.cache=false,train.batch_size=4,train.steps=6,train.steps_per_loop=2,"
    "train.checkpoint_interval=2,train.image_interval=4,evaluation.pictures=2,"
    "train.optimizer={name: sgd, learning_rate: 1.0e-4, warmup_steps: 0, options: {momentum: 0.9}},"
    "model.semantic.aspp_channels=16,model.semantic.decoder_channels=16,model.semantic.head_channels=16,"
    "model.instance.aspp_channels=16,model.instance.decoder_channels=16,model.instance.head_channels=16"
)


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of ten training and three evaluation scenes."""
    from deeplab2_lite.data import shapes

    shape = ShapesConfig(train_images=10, val_images=3, height=65, width=97)
    return shapes.build(tmp_path_factory.mktemp("records"), shape).parent


@pytest.fixture(scope="session")
def config(records: Path) -> ExperimentConfig:
    """The default experiment, small, on these records."""
    return load_config("shapes/mobilenet_v3_small", f"{SMALL},data.shapes=null,data.dir={records}")
