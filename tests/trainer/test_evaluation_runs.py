"""Evaluation of checkpoints as training writes them, and with the weights that are asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import deeplab2_lite as dl
from deeplab2_lite.checkpoints import CheckpointStore, named_weights
from deeplab2_lite.trainer import train
from deeplab2_lite.trainer.evaluator import PanopticEvaluator

from .conftest import SMALL

SETTINGS = f"{SMALL},data.shapes=null,train.image_interval=null"


def command(mode, model_dir, settings):
    module = [sys.executable, "-m", "deeplab2_lite.trainer.train"]
    return [*module, f"--mode={mode}", "--model_dir", str(model_dir), "--params_override", settings]


@pytest.mark.slow
def test_beside_training(records, tmp_path):
    settings = f"{SETTINGS},data.dir={records},train.steps=60,train.checkpoint_interval=5,train.max_to_keep=1"
    with (tmp_path / "log").open("w") as log:
        # The newest checkpoint alone stays, so that most are gone before anybody could read them.
        training, evaluation = (
            subprocess.Popen(command(mode, tmp_path / "run", settings), stderr=log, stdout=log)
            for mode in ("train", "continuous_eval")
        )
        assert training.wait(600) == 0 and evaluation.wait(600) == 0, (tmp_path / "log").read_text()[-3000:]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == 60


@pytest.fixture(scope="module")
def averaged(records, tmp_path_factory):
    """A run with averaged weights, which are far from the last ones."""
    model_dir = tmp_path_factory.mktemp("runs") / "run"
    settings = f"{SETTINGS},data.dir={records},train.ema_decay=0.9,train.optimizer.learning_rate=1.0e-3"
    assert train.main(["--mode=train", "--model_dir", str(model_dir), "--params_override", settings]) == 0
    return model_dir


def test_averaged_weights_are_evaluated_exported_and_loaded_on_request(averaged, monkeypatch):
    checkpoint = CheckpointStore(averaged / "checkpoints").load()
    name = "semantic/head/logits/conv/kernel"
    assert np.abs(checkpoint.weights[name] - checkpoint.averages[name]).max() > 1e-5
    evaluated = []

    def remember(self, num_steps):
        evaluated.append(named_weights(self._network)[name].numpy())
        return {}

    monkeypatch.setattr(PanopticEvaluator, "evaluate", remember)
    for value in ("false", "true"):
        override = f"inference.averaged_weights={value}"
        for mode in ("eval", "export"):
            assert train.main([f"--mode={mode}", "--model_dir", str(averaged), "--params_override", override]) == 0
        loaded = dl.loading.load_model_dir(averaged, overrides=override).network
        exported = tf.saved_model.load(str(averaged / "export" / "saved_model"))
        kernels = [v.numpy() for v in exported.network.variables if v.shape == checkpoint.weights[name].shape]
        wanted = (checkpoint.averages if value == "true" else checkpoint.weights)[name]
        assert any(np.array_equal(kernel, wanted) for kernel in kernels), value
        np.testing.assert_array_equal(named_weights(loaded)[name], wanted)
        np.testing.assert_array_equal(evaluated.pop(), wanted)


def test_averages_that_are_not_there_are_asked_for(averaged, capsys):
    override = "inference.averaged_weights=true,train.ema_decay=null"
    assert train.main(["--mode=eval", "--model_dir", str(averaged), "--params_override", override]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: inference.averaged_weights: there are none without train.ema_decay"
    )
