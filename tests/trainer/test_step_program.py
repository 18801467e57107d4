"""The training step as a program of XLA learns what TensorFlow's own step learns, and carries its state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.data.shapes import generate_scene
from deeplab2_lite.data.targets import make_targets
from deeplab2_lite.runtimes.jax_module import JaxModule
from deeplab2_lite.trainer.step_program import build_step, export_step

from .tiny import tiny_network

SMALL = (
    "data.crop_size=[65,97],train.batch_size=2,train.steps=10,"
    "train.optimizer={name: adam, learning_rate: 1.0e-3, warmup_steps: 2},"
    "model.semantic.aspp_channels=16,model.semantic.decoder_channels=16,model.semantic.head_channels=16,"
    "model.instance.aspp_channels=16,model.instance.decoder_channels=16,model.instance.head_channels=16"
)
STEPS = 3


@pytest.mark.parametrize("network", ["tiny", pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)])
def test_losses_and_state_are_those_of_tensorflow(network: str, tmp_path: Path, monkeypatch) -> None:
    if network == "tiny":
        build = "deeplab2_lite.trainer.step_program.build_model"
        monkeypatch.setattr(build, lambda config, num_classes, size: tiny_network(config, num_classes))
    config = load_config("shapes/mobilenet_v3_small", SMALL)
    info = resolve_dataset_info(config)
    program = JaxModule(export_step(config, info, tmp_path / "step"))
    step = build_step(config, info, compiled=False)
    names = [spec.name for spec in step.inputs]
    totals = []
    for number in range(STEPS):
        batch = _batch(config, info, number)
        expected = step.function(*(tf.constant(batch[name]) for name in names))
        found = program(**batch)
        assert sorted(found) == sorted(expected) and len(found) == 4
        for name, loss in expected.items():
            np.testing.assert_allclose(np.asarray(found[name]), loss.numpy(), rtol=2e-4, err_msg=f"{name} {number}")
        totals.append(float(expected["total_loss"]))
    assert len(set(totals)) == STEPS
    state = program.state()
    (iterations,) = [value for name, value in state.items() if name.endswith("/iteration")]
    assert iterations.dtype == np.int64 and iterations == STEPS
    # Batch statistics and weights moved, and to the same values.
    found = {name.split("/", 1)[1]: value for name, value in state.items()}
    for variable in step.state.network.variables:
        name = variable.name.removesuffix(":0")
        np.testing.assert_allclose(found[name], variable.numpy(), atol=5e-3, err_msg=name)


def _batch(config, info, number: int) -> dict[str, np.ndarray]:
    scenes = [generate_scene(0, "step", 2 * number + index, *config.data.crop_size) for index in range(2)]
    targets = [make_targets(tf.constant(panoptic), info, config.targets) for _, panoptic in scenes]
    batch = {"image": np.stack([image for image, _ in scenes]).astype(np.float32)}
    return batch | {name: np.stack([getattr(t, name).numpy() for t in targets]) for name in targets[0]._fields}
