"""A classifier from folders of images to weights that segmentation starts from, through the commands."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deeplab2_lite.checkpoints import CheckpointStore, named_weights
from deeplab2_lite.cli import main
from deeplab2_lite.errors import UserError
from deeplab2_lite.predictor import Predictor
from deeplab2_lite.trainer.classification import rank_of_label
from deeplab2_lite.trainer.experiment import Experiment
from deeplab2_lite.trainer.training_run import TrainingRun

SETTINGS = (
    "name=stripes,model.tasks=classification,model.backbone={name: mobilenet_v3_small, output_stride: 32},"
    "data.crop_size=[33,33],data.augmentation.flip_up_down=true,classification={min_area: 0.5, dropout: 0.2},"
    "train.batch_size=8,train.steps=40,train.steps_per_loop=5,train.checkpoint_interval=20,train.precision=float32,"
    "model.batch_norm.momentum=0.9,train.optimizer={name: sgd, learning_rate: 0.05},evaluation.batch_size=4"
)


def stripes(random, across):
    """Noise with stripes of random phase, across or down."""
    wave = 100 * np.sign(np.sin(np.arange(40) * 0.8 + random.uniform(0, 6)))
    image = 128 + (wave[:, None] if across else wave[None, :]) + random.normal(0, 20, (40, 40))
    return Image.fromarray(np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2))


@pytest.fixture(scope="module")
def stripe_records(tmp_path_factory):
    """Records of images with stripes across, and others with stripes down."""
    folder, random = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 5)):
        for name in ("across", "down"):
            (folder / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                stripes(random, name == "across").save(folder / "images" / split / name / f"{i}.png")
    assert main(["convert", "image_folders", "--input", f"{folder}/images", "--output", f"{folder}/records"]) == 0
    return folder / "records"


@pytest.fixture(scope="module")
def arguments(stripe_records, tmp_path_factory):
    """Everything but the mode and the model folder."""
    empty = tmp_path_factory.mktemp("config") / "empty.yaml"
    empty.write_text("{}")
    return ["train", "--config_file", str(empty), "--params_override", f"{SETTINGS},data.dir={stripe_records}"]


@pytest.fixture(scope="module")
def run(arguments, tmp_path_factory):
    """A finished run."""
    model_dir = tmp_path_factory.mktemp("runs") / "run"
    assert main([*arguments, "--model_dir", str(model_dir)]) == 0
    return model_dir


def test_it_learns_and_says_so(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["step"] == 40
    assert metrics["num_images"] == 10
    assert metrics["accuracy/top_1"] >= 0.9
    assert metrics["losses/eval_classification_loss"] < np.log(2)
    assert "accuracy/top_5" not in metrics
    assert not (run / "export").exists()


def test_evaluation_repeats_the_figures_at_any_batch_size(run, capsys):
    before = json.loads((run / "metrics.json").read_text())
    command = ["train", "--model_dir", str(run), "--mode", "eval", "--config_file", str(run / "config.yaml")]
    assert main([*command, "--params_override", "evaluation.batch_size=10"]) == 0
    assert json.loads((run / "metrics.json").read_text()) == pytest.approx(before, rel=1e-5)
    assert "top_1" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_to_the_same_weights(run, arguments, tmp_path, monkeypatch, capsys):
    save = TrainingRun._save_if_due

    def interrupt_after_step_20(self, outputs):
        save(self, outputs)
        if self._experiment.step == 20:
            raise KeyboardInterrupt

    command = [*arguments, "--mode", "train", "--model_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_save_if_due", interrupt_after_step_20)
        assert main(command) == 130
    assert main(command) == 0
    assert "going on from the checkpoint of step 20" in capsys.readouterr().err
    resumed = CheckpointStore(tmp_path / "checkpoints").load()
    straight, early = (CheckpointStore(run / "checkpoints").load(step) for step in (40, 20))
    for kind in ("weights", "optimizer"):
        one, two, start = (flat(getattr(checkpoint, kind)) for checkpoint in (resumed, straight, early))
        # Sums over threads round differently from run to run; another batch or lost momentum is no rounding.
        assert np.linalg.norm(one - two) < 2e-2 * np.linalg.norm(two - start), kind


def flat(arrays):
    return np.concatenate([np.ravel(arrays[name]).astype(np.float64) for name in sorted(arrays)])


def test_segmentation_starts_from_every_weight_of_the_backbone(run, config, tmp_path, capsys):
    train = dataclasses.replace(config.train, init_checkpoint=str(run))
    experiment = Experiment(dataclasses.replace(config, train=train), tmp_path, training=True)
    assert f"starting from {run}" in capsys.readouterr().err
    learnt = CheckpointStore(run / "checkpoints").load().weights
    backbone = {k: v for k, v in named_weights(experiment.network).items() if k.startswith("backbone/")}
    assert set(backbone) == {name for name in learnt if name.startswith("backbone/")}
    for name, variable in backbone.items():
        np.testing.assert_array_equal(variable, learnt[name], err_msg=name)


def test_what_a_classifier_cannot_do_ends_in_a_line(run, capsys, tmp_path):
    assert main(["train", "--model_dir", str(run), "--mode", "export"]) == 2
    assert "model.tasks 'classification' gives no panoptic map" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"model\.tasks 'classification' gives no panoptic map"):
        Predictor(run)
    for settings, message in (
        ("data.train_split=trian", "no shards of split 'trian'"),
        ("data.dir=/nowhere", "data.dir: no folder /nowhere"),
        ("classification.first_label=2", "image/class/label: got 1, expected 2..3 (classification.first_label, 2 cl"),
    ):
        command = ["train", "--config_file", str(run / "config.yaml"), "--model_dir", str(tmp_path / "new")]
        assert main([*command, "--params_override", settings, "--mode", "train"]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and message in error, error


@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0, np.nan, np.inf, -np.inf]), min_size=4, max_size=4), st.integers(0, 3))
def test_ranks_are_those_of_a_stable_sort(logits, label):
    if np.isnan(logits[label]):
        expected = 4
    else:
        keys = [np.inf if np.isnan(v) else v for v in logits]
        nan_first = sorted(range(4), key=lambda i: (-keys[i], not np.isnan(logits[i]), i))
        expected = nan_first.index(label)
    assert rank_of_label(np.float32([logits]), np.int32([label])).numpy().tolist() == [expected]
