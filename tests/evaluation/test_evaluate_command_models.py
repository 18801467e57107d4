"""The command `evaluate` on models: the figures of the evaluator in training, resuming, ensembles, other strides."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from deeplab2_lite import cli
from deeplab2_lite.checkpoints import CheckpointStore, assign, named_weights
from deeplab2_lite.config import ShapesConfig
from deeplab2_lite.config_loading import load_config, save_config
from deeplab2_lite.data import shapes
from deeplab2_lite.data.pipeline import evaluation_dataset
from deeplab2_lite.data.record_index import open_records
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.evaluation.evaluate import Evaluation
from deeplab2_lite.evaluation.evaluate_arguments import UNFINISHED
from deeplab2_lite.evaluation.sources.models import ModelRequest, open_models
from deeplab2_lite.inference import InferenceSettings, infer
from deeplab2_lite.loading import load_model_dir
from deeplab2_lite.model import build_model
from deeplab2_lite.multi_view import Member
from deeplab2_lite.trainer.evaluation_runs import evaluate
from deeplab2_lite.trainer.experiment import Experiment

# A heatmap of random weights has few values above 0.1.
SMALL = (
    "data.crop_size=[65,97],train.optimizer.warmup_steps=0,evaluation.pictures=0,"
    "postprocessing.center_threshold=0,postprocessing.top_k=6,postprocessing.stuff_area_limit=0,"
    "model.semantic.aspp_channels=8,model.semantic.decoder_channels=8,model.semantic.head_channels=8,"
    "model.instance.aspp_channels=8,model.instance.decoder_channels=8,model.instance.head_channels=8"
)
IMAGES = 4


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of four scenes."""
    shape = ShapesConfig(train_images=1, val_images=IMAGES, height=65, width=97)
    return shapes.build(tmp_path_factory.mktemp("records"), shape).parent


def make_model(folder, records, seed=0, overrides=""):
    """Writes a model folder of random weights; returns what the evaluator in training says of it."""
    config = load_config(
        "shapes/mobilenet_v3_small", f"{SMALL},data.shapes=null,data.dir={records},train.seed={seed}{overrides}"
    )
    experiment = Experiment(config, folder, training=True)
    # As if training had moved them: no two channels of the logits are of one mind.
    random = np.random.default_rng(seed)
    for variable in experiment.network.trainable_variables:
        if "head" in variable.name:
            variable.assign(variable + 0.3 * random.standard_normal(variable.shape))
    experiment.state.global_step.assign(seed + 1)
    experiment.save()
    experiment.store.close()
    return experiment


@pytest.fixture(scope="module")
def model(records, tmp_path_factory):
    """A model folder, with the figures of the evaluator in training."""
    folder = tmp_path_factory.mktemp("models") / "model"
    evaluate(make_model(folder, records))
    return folder


@pytest.fixture(scope="module")
def evaluated(model, tmp_path_factory):
    """The files of one evaluation by the command."""
    folder = tmp_path_factory.mktemp("evaluated")
    assert run_evaluate(model, "--output", folder, "--pictures=2", "--html") == 0
    return folder


def run_evaluate(model, *words):
    """Runs the command in this process; returns the exit status."""
    shared = ["--pictures=0", "--no-html"]
    return cli.main(["evaluate", f"--model={model}", *shared, *map(str, words)])


def refused(capsys, model, *words):
    """What the command says when it refuses."""
    capsys.readouterr()
    assert run_evaluate(model, *words) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text.removeprefix("error: ").rstrip("\n")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_figures_are_exactly_those_of_the_evaluator_in_training(model, evaluated):
    for name in ("metrics.json", "metrics.csv"):
        assert (evaluated / name).read_bytes() == (model / name).read_bytes()
    metrics = metrics_of(evaluated)
    assert (metrics["num_images"], metrics["step"]) == (IMAGES, 1)
    predicted = sum(metrics[key] for key in metrics if key.endswith(("/TP", "/FP")))
    assert predicted > IMAGES  # there was something to get wrong
    names = [json.loads(line)["name"] for line in (evaluated / "images.jsonl").read_text().splitlines()]
    assert names == [f"val_{i:06d}.png" for i in range(IMAGES)]


def test_pictures_are_of_the_worst(model, evaluated):
    rows = (evaluated / "images.csv").read_text().splitlines()
    worst = [row.split(",")[0].removesuffix(".png") for row in rows[1:3]]
    pictures = sorted(path.name for path in (evaluated / "pictures").iterdir())
    assert pictures == [f"0001_{worst[0]}.png", f"0002_{worst[1]}.png"]
    assert worst[0] in (evaluated / "report.html").read_text()


def expected_map(records, members, position):
    """The panoptic map of a scene by `infer` alone."""
    info = load_dataset_info(records)
    settings = InferenceSettings.from_config(members[0].config, info)
    network = [Member(m.network, m.config.model.backbone.output_stride) for m in members]
    batches = evaluation_dataset(members[0].config, info, open_records(records, "val"))
    batch = next(iter(batches.skip(position)))
    return infer(network, batch.image, settings).result.panoptic[0].numpy()


def test_a_flipped_ensemble_of_two_strides_is_the_mean(model, records, tmp_path):
    other = tmp_path / "other"
    make_model(other, records, seed=1, overrides=",model.backbone.output_stride=32")
    source = open_models(ModelRequest((model, other), overrides="inference.flip_left_right=true"))
    assert source.step is None  # of two steps none is that of the ensemble
    members = [load_model_dir(path) for path in (model, other)]
    inference = dataclasses.replace(members[0].config.inference, flip_left_right=True)
    flipped = members[0]._replace(config=dataclasses.replace(members[0].config, inference=inference))
    found = next(iter(source.maps([2]))).prediction
    # Graph and eager mode round apart, so that a pixel may fall otherwise.
    assert np.mean(found == expected_map(records, [flipped, members[1]], 2)) > 0.995
    assert np.mean(found == expected_map(records, members, 2)) < 0.98


def test_another_output_stride_has_the_same_weights(model, records):
    overrides = "model.backbone.output_stride=8"
    source = open_models(ModelRequest((model,), overrides=overrides))
    trained = load_model_dir(model)
    assert trained.config.model.backbone.output_stride == 16
    config = load_config(model / "config.yaml", overrides)
    network = build_model(config, trained.info.num_classes)
    assign(named_weights(network), CheckpointStore(model / "checkpoints").load().weights, "weights")
    maps = next(iter(source.maps([1])))
    same = trained._replace(network=network, config=config)
    # Random weights see little of the stride.
    assert np.mean(maps.prediction == expected_map(records, [same], 1)) > 0.999
    assert np.mean(maps.prediction == expected_map(records, [trained], 1)) < 0.997
    assert maps.image.shape == (65, 97, 3) and maps.truth.shape == (65, 97)


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on(model, evaluated, monkeypatch, tmp_path, capsys):
    counted = []
    count = Evaluation.count

    def interrupted(self, truth, prediction, name=""):
        if len(counted) == 2:
            raise KeyboardInterrupt
        counted.append(name)
        return count(self, truth, prediction, name)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "count", interrupted)
        assert run_evaluate(model, "--output", tmp_path) == 130
    assert [path.name for path in tmp_path.iterdir()] == [UNFINISHED]
    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "count", lambda *a: counted.append(a[3]) or count(*a))
        assert run_evaluate(model, "--output", tmp_path) == 0
    assert counted == [f"val_{i:06d}.png" for i in range(IMAGES)]
    assert "(2 of the images were counted by an earlier, interrupted run)" in capsys.readouterr().out
    for name in ("metrics.json", "metrics.csv", "images.jsonl", "images.csv"):
        assert (tmp_path / name).read_bytes() == (evaluated / name).read_bytes()


@pytest.mark.slow
def test_views_and_tiles_win_over_the_model(model, tmp_path):
    """The same flags twice are the same; the model twice is the model; scales and tiles change the figures."""
    known = metrics_of(model)["semantic/mIoU"]
    runs = {
        "twice": ["--model", model],
        "scales": ["--scales", "1", "1.5"],
        "tiles": ["--tile_size", "49", "49", "--tile_overlap", "16"],
        "one_tile": ["--tile_size", "97", "129", "--tile_overlap", "16"],
    }
    for name, words in runs.items():
        assert run_evaluate(model, *words, "--output", tmp_path / name) == 0
    found = {name: metrics_of(tmp_path / name)["semantic/mIoU"] for name in runs}
    assert found["twice"] == pytest.approx(known, abs=1e-3)
    for name in ("scales", "tiles"):
        assert found[name] != known


def test_what_cannot_be_evaluated_is_named(model, records, tmp_path, capsys):
    override = "--params_override=model.instance.head_channels=4"
    assert refused(capsys, model, override).startswith(f"weights of {model}/checkpoints/1: 'instance/")
    assert refused(capsys, model, "--scales", "0") == (
        "inference.scales: expected different numbers in (0, 8], at least one, got (0.0,)"
    )
    assert refused(capsys, model, "--tile_overlap", "16") == (
        "inference.tile_overlap: has no meaning without inference.tile_size; leave it out"
    )
    assert str(records) in refused(capsys, model, "--split", "test")
    other = shutil.copytree(records, tmp_path / "records")
    info = dataclasses.replace(load_dataset_info(records), label_divisor=500)
    info.save(other)
    assert refused(capsys, model, "--data", other) == (
        f"{other}: of another label space than {model}: label_divisor is 1000 of 'shapes' and 500 of 'shapes'"
    )
    assert "neither a model folder" in refused(capsys, tmp_path)


def test_models_that_do_not_go_together_are_named(model, tmp_path, capsys):
    copy = shutil.copytree(model, tmp_path / "copy")
    config = load_config(copy / "config.yaml")
    for key, value in (("longest_side", 64), ("intensity_percentiles", (1.0, 99.0))):
        data = dataclasses.replace(config.data, **{key: value})
        save_config(dataclasses.replace(config, data=data), copy / "config.yaml")
        assert refused(capsys, model, "--model", copy, "--output", tmp_path) == (
            f"{copy} has data.{key} {value}, {model} has None; an ensemble needs one"
        )
    info = load_dataset_info(copy)
    classes = (dataclasses.replace(info.classes[0], name="lane"), *info.classes[1:])
    dataclasses.replace(info, classes=classes).save(copy)
    assert refused(capsys, model, "--model", copy, "--output", tmp_path) == (
        f"{copy} is of another label space than {model}: class 0 is stuff 'road' of 'shapes' and "
        "stuff 'lane' of 'shapes'"
    )


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(model, evaluated, tmp_path):
    killed = (
        "import os, signal, sys\n"
        "from deeplab2_lite import cli\n"
        "from deeplab2_lite.evaluation.evaluate import Evaluation\n"
        "count = Evaluation.count\n"
        "def stop(self, truth, prediction, name=''):\n"
        "    if name == 'val_000003.png': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return count(self, truth, prediction, name)\n"
        "Evaluation.count = stop\n"
        "cli.main(sys.argv[1:])\n"
    )
    words = ["evaluate", f"--model={model}", f"--output={tmp_path}", "--pictures=0", "--no-html"]
    root = cli.__file__.rsplit(os.sep, 2)[0]
    ended = subprocess.run([sys.executable, "-c", killed, *words], cwd=root)
    assert ended.returncode == -signal.SIGKILL
    assert len((tmp_path / UNFINISHED).read_text().splitlines()) == 1 + 3
    assert run_evaluate(model, "--output", tmp_path) == 0
    for name in ("metrics.json", "metrics.csv", "images.jsonl", "images.csv"):
        assert (tmp_path / name).read_bytes() == (evaluated / name).read_bytes()


@pytest.mark.slow
def test_a_saved_model_gives_the_figures_of_its_folder(model, records, evaluated, tmp_path, capsys):
    experiment = Experiment(load_config(model / "config.yaml"), model, training=False)
    saved = experiment.export()
    out = tmp_path / "out"
    assert run_evaluate(saved, "--data", records, "--output", out) == 0
    ours, theirs = metrics_of(out), metrics_of(evaluated)
    assert {**ours, "step": 1} == theirs
    assert refused(capsys, saved, "--output", out) == (
        f"--data: missing; {saved} is a SavedModel and knows of no records"
    )
    assert refused(capsys, saved, "--flip", "--data", records).startswith(
        f"--model: {saved} is a SavedModel, whose settings were fixed when it was exported"
    )
    assert refused(capsys, model, "--model", saved) == (
        f"--model: {saved} is a SavedModel, which gives maps alone; an ensemble takes model folders"
    )


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["evaluation.batch_size=3", "evaluation={batch_size: 3, fixed_size: [97,129]}"])
def test_batches_are_resumed_whole(model, records, tmp_path, monkeypatch, settings):
    override = f"--params_override={settings}"
    assert run_evaluate(model, override, "--output", tmp_path / "whole") == 0
    counted = []
    count = Evaluation.count

    def interrupted(self, truth, prediction, name=""):
        if len(counted) == 3:
            raise KeyboardInterrupt
        counted.append(name)
        return count(self, truth, prediction, name)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "count", interrupted)
        assert run_evaluate(model, override, "--output", tmp_path / "out") == 130
    assert run_evaluate(model, override, "--output", tmp_path / "out") == 0
    for name in ("metrics.json", "images.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
