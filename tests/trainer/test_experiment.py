"""The command from end to end, on a tiny experiment: what it writes, that it goes on, what it exports."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image

import deeplab2_lite as dl
from deeplab2_lite.checkpoints import CheckpointStore
from deeplab2_lite.trainer import train
from deeplab2_lite.trainer.calibration import measure_step
from deeplab2_lite.trainer.evaluation_runs import evaluate
from deeplab2_lite.trainer.experiment import Experiment
from deeplab2_lite.trainer.training_run import TrainingRun
from deeplab2_lite.visualize import save_image

from .conftest import SMALL


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the default mode."""
    model_dir = tmp_path_factory.mktemp("runs") / "run"
    assert train.main(["--model_dir", str(model_dir), "--params_override", SMALL]) == 0
    return model_dir


def test_everything_lies_under_the_model_folder(run):
    assert (run / "config.yaml").is_file()
    assert dl.load_dataset_info(run).name == "shapes"
    assert dl.load_dataset_info(run / "data").splits == {"train": 10, "val": 3}
    assert CheckpointStore(run / "checkpoints").steps() == [2, 4, 6]
    assert len(list((run / "pictures").glob("*.png"))) == 2
    assert (run / "export" / "saved_model" / "saved_model.pb").is_file()
    assert (run / "export" / "merge" / "saved_model.pb").is_file()


def test_metrics_are_strict_json_and_csv(run):
    metrics = json.loads((run / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert metrics["step"] == 6
    assert metrics["num_images"] == 3
    assert 0 <= metrics["panoptic_quality/All/PQ"] <= 1
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["name"] for row in rows] == list(dl.load_dataset_info("shapes").class_names)


def test_tensorboard_has_losses_figures_and_pictures(run):
    def tags(folder):
        found = {}
        for path in folder.glob("events*"):
            for event in tf.compat.v1.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    found.setdefault(value.tag, []).append(event.step)
        return found

    training, evaluation = tags(run / "train"), tags(run / "eval")
    assert training["losses/train_total_loss"] == [2, 4, 6]
    assert {"losses/train_semantic_loss", "losses/train_center_loss", "losses/train_regression_loss"} <= set(training)
    for name in ("prediction_and_truth", "center_heatmap", "center_offset"):
        assert training[f"{name}/0"] == [4]
    assert evaluation["panoptic_quality/All/PQ"] == [6]


def test_the_end_names_the_folder_and_three_commands(run, capsys):
    assert train.main(["--model_dir", str(run), "--mode", "export"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(run)
    assert len([line for line in lines if line.startswith("  ")]) == 3


def test_the_same_command_goes_on_to_the_same_weights(run, tmp_path, monkeypatch, capsys):
    arguments = ["--mode", "train", "--model_dir", str(tmp_path), "--params_override", SMALL]
    save = TrainingRun._save_if_due

    def interrupt_after_step_4(self, outputs):
        save(self, outputs)
        if self._experiment.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_save_if_due", interrupt_after_step_4)
        assert train.main(arguments) == 130
    assert CheckpointStore(tmp_path / "checkpoints").latest_step() == 4
    assert train.main(arguments) == 0
    assert "going on from the checkpoint of step 4" in capsys.readouterr().err
    resumed = CheckpointStore(tmp_path / "checkpoints").load()
    straight = CheckpointStore(run / "checkpoints").load()
    early = CheckpointStore(run / "checkpoints").load(4)
    assert resumed.step == straight.step == 6
    for kind in ("weights", "optimizer"):
        one, two, start = (flat(getattr(checkpoint, kind)) for checkpoint in (resumed, straight, early))
        # Sums over threads round differently from run to run; another batch or lost momentum is no rounding.
        assert np.linalg.norm(one - two) < 1e-2 * np.linalg.norm(two - start), kind


def curve(folder):
    return list(csv.DictReader((folder / "learning_curve.csv").open()))


def test_the_learning_curve_has_losses_by_step_and_the_figures_of_evaluations(run):
    rows = curve(run)
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    seconds = [float(row["seconds"]) for row in rows]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert all(float(row["total_loss"]) > float(row["semantic_loss"]) > 0 for row in rows)
    # Of the step that has just been taken.
    assert float(rows[2]["learning_rate"]) == pytest.approx(1e-4 * (1 / 6) ** 0.9, rel=1e-4)
    metrics = json.loads((run / "metrics.json").read_text())
    assert [row["PQ"] for row in rows[:2]] == ["", ""]
    for column, key in (
        ("PQ", "panoptic_quality/All/PQ"),
        ("SQ_things", "panoptic_quality/Things/SQ"),
        ("mIoU", "semantic/mIoU"),
        ("detection_AP50", "detection/AP50"),
    ):
        assert float(rows[2][column]) == pytest.approx(metrics[key], rel=1e-5), column
    with Image.open(run / "learning_curve.png") as picture:
        assert min(picture.size) > 400


@pytest.mark.slow
def test_a_budget_is_measured_once_and_trains_as_so_many_steps_do(run, tmp_path, monkeypatch, capsys):
    settings = f"{SMALL},train.image_interval=null".replace(",train.steps=6", "")
    arguments = ["--mode", "train", "--model_dir", str(tmp_path), "--params_override", settings]
    measured = []

    def measure(*arguments):
        # So slow a step that what else the machine does makes no difference.
        measured.append(measure_step(*arguments))
        return 1000.0

    def interrupt_after_step_4(self, outputs):
        save(self, outputs)
        if self._experiment.step == 4:
            raise KeyboardInterrupt

    save = TrainingRun._save_if_due
    monkeypatch.setattr("deeplab2_lite.trainer.pacing.measure_step", measure)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_save_if_due", interrupt_after_step_4)
        assert train.main([*arguments, "--budget=6800s"]) == 130
    error = capsys.readouterr().err
    assert "--budget: 1:53:20" in error and "1e+03 s a step: 6 steps" in error
    saved = dl.load_config(tmp_path / "config.yaml")
    assert (saved.train.steps, saved.train.budget_seconds) == (6, 6800.0)
    before = float(curve(tmp_path)[-1]["seconds"])
    # As if it had been killed after a row that its checkpoint does not know of.
    with (tmp_path / "learning_curve.csv").open("a") as file:
        file.write("5,99999" + "," * (len(curve(tmp_path)[0]) - 2) + "\n")
    assert train.main(["--mode", "train", "--model_dir", str(tmp_path)]) == 0
    assert "goes on within its time, with the 6 steps" in capsys.readouterr().err
    assert len(measured) == 1 and measured[0] > 0
    rows = curve(tmp_path)
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert before < float(rows[2]["seconds"]) < 99999
    assert float(rows[2]["learning_rate"]) == pytest.approx(1e-4 * (1 / 6) ** 0.9, rel=1e-4)
    one, two, start = (
        flat(CheckpointStore(folder / "checkpoints").load(step).weights)
        for folder, step in ((tmp_path, 6), (run, 6), (run, 2))
    )
    assert np.linalg.norm(one - two) < 1e-2 * np.linalg.norm(two - start)


def test_a_run_of_so_many_steps_keeps_them(run, capsys):
    assert train.main(["--mode", "train", "--model_dir", str(run), "--budget=1h"]) == 0
    assert "the run goes on with the 6 steps it was started with; nothing is measured" in capsys.readouterr().err
    saved = dl.load_config(run / "config.yaml")
    assert (saved.train.steps, saved.train.budget_seconds) == (6, None)


def flat(arrays):
    return np.concatenate([np.ravel(arrays[name]).astype(np.float64) for name in sorted(arrays)])


def test_a_checkpoint_of_another_network_is_refused_by_name(run, capsys):
    before = (run / "config.yaml").read_text()
    override = f"{SMALL},model.semantic.head_channels=24"
    assert train.main(["--model_dir", str(run), "--params_override", override, "--mode", "eval"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: weights of {run / 'checkpoints' / '6'}: 'semantic/head/")
    assert (run / "config.yaml").read_text() == before


def test_evaluation_alone_repeats_the_figures(run, capsys):
    before = json.loads((run / "metrics.json").read_text())
    assert train.main(["--model_dir", str(run), "--mode", "eval"]) == 0
    assert json.loads((run / "metrics.json").read_text()) == before
    assert "mIoU" in capsys.readouterr().err


def test_continuous_evaluation_ends_with_the_last_checkpoint(run):
    (run / "metrics.json").unlink()
    assert train.main(["--model_dir", str(run), "--mode", "continuous_eval"]) == 0
    assert json.loads((run / "metrics.json").read_text())["step"] == 6


def test_models_load_by_one_name(run, tmp_path):
    network = dl.load_model(run)
    image = np.random.default_rng(0).uniform(0, 255, (2, 65, 97, 3)).astype(np.float32)
    expected = network(image, training=False)
    network.save(tmp_path / "model.keras")
    for loaded in (dl.load_model(tmp_path / "model.keras"), keras.models.load_model(tmp_path / "model.keras")):
        for name, value in loaded(image, training=False).items():
            np.testing.assert_array_equal(value, expected[name])
    served = dl.load_model(run / "export" / "saved_model")
    assert set(served.signatures) == {"serving_default", "serving_bytes", "serving_examples"}
    with pytest.raises(dl.UserError, match="neither a model folder"):
        dl.load_model(tmp_path)


def test_the_export_answers_what_is_asked_for(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    override = "export.outputs=[panoptic_png_bytes,semantic_pred],export.frozen=true"
    assert train.main(["--model_dir", str(copy), "--mode", "export", "--params_override", override]) == 0
    signature = dl.load_model(copy / "export" / "saved_model").signatures["serving_bytes"]
    assert set(signature.structured_outputs) == {"panoptic_png_bytes", "semantic_pred"}
    with pytest.raises(dl.UserError, match=r"no output 'panoptic_pred'.*export\.outputs"):
        dl.Predictor(copy / "export" / "saved_model")


def test_predictor_and_command_give_what_the_export_gives(run, tmp_path):
    from deeplab2_lite.cli import main

    random = np.random.default_rng(1)
    images = {f"{h}x{w}": random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((40, 61), (65, 97))}
    (tmp_path / "in").mkdir()
    for name, image in images.items():
        save_image(tmp_path / "in" / f"{name}.png", image)
    results = {}
    for kind, path in (("export", run / "export" / "saved_model"), ("run", run)):
        output = tmp_path / kind
        assert main(["predict", "--model", str(path), "--input", str(tmp_path / "in"), "--output", str(output)]) == 0
        content = json.loads((output / "panoptic.json").read_text())
        assert [image["file_name"] for image in content["images"]] == ["40x61.png", "65x97.png"]
        assert sorted(p.name for p in (output / "overlay").iterdir()) == ["40x61.png", "65x97.png"]
        predictor = dl.Predictor(path)
        results[kind] = {name: predictor(image) for name, image in images.items()}
        for name, image in images.items():
            assert results[kind][name].panoptic.shape == image.shape[:2]
    for name in images:
        for one, two in zip(*(tf.nest.flatten(results[kind][name]) for kind in results), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, err_msg=name)


def test_a_predictor_refuses_what_is_no_image(run):
    predictor = dl.Predictor(run)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(dl.UserError, match="expected uint8"):
            predictor(wrong)


PLAIN_TENSORFLOW = """
import sys
import numpy as np
import tensorflow as tf
folder, source = sys.argv[1:]
serve = tf.saved_model.load(folder).signatures["serving_default"]
bytes_of = tf.saved_model.load(folder).signatures["serving_bytes"]
expected = np.load(source)
names = [name.removesuffix(":image") for name in expected.files if name.endswith(":image")]
for name in names:
    image = expected[name + ":image"]
    for outputs in (serve(images=image[None]), bytes_of(image_bytes=tf.io.encode_png(image)[None])):
        panoptic = outputs["panoptic_pred"].numpy()[0]
        assert panoptic.shape == image.shape[:2], name
        assert np.array_equal(panoptic, expected[name + ":panoptic"]), name
assert not any(module.startswith("deeplab2_lite") for module in sys.modules)
print(len(names), "maps are equal")
"""


def compare_export_with_evaluator(config, tmp_path, monkeypatch):
    """Evaluates, exports, and loads the export in a process without this library; returns its output."""
    maps = {}

    def remember(self, image, truth, prediction, name=""):
        maps[f"{len(maps) // 2}:image"] = image
        maps[f"{len(maps) // 2}:panoptic"] = prediction.panoptic

    monkeypatch.setattr("deeplab2_lite.evaluation.evaluate.Evaluation.update", remember)
    experiment = Experiment(config, tmp_path / "model", training=True)
    # Untrained, the network is unsure of every pixel: the least difference would show.
    experiment.save()
    experiment.store.close()
    evaluate(experiment)
    folder = experiment.export()
    np.savez(tmp_path / "maps.npz", **maps)
    command = [sys.executable, "-c", PLAIN_TENSORFLOW, str(folder), str(tmp_path / "maps.npz")]
    # Not in the checkout, so that the library could not even be found there.
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    sizes = {value.shape[:2] for key, value in maps.items() if key.endswith(":image")}
    distinct = [len(np.unique(value)) for key, value in maps.items() if key.endswith(":panoptic")]
    return done.stdout, sizes, distinct


@pytest.mark.real_data
def test_the_export_gives_the_evaluators_maps_on_real_images(real_data, tmp_path, monkeypatch):
    from deeplab2_lite.data.conversion import convert
    from deeplab2_lite.data.converters import instance_masks as build_instance_masks

    source = tmp_path / "nuclei"
    chosen = {}
    for path in sorted((real_data / "nuclei" / "val" / "images").iterdir()):
        chosen.setdefault(Image.open(path).size, path)
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (source / split / kind).mkdir(parents=True)
            for path in chosen.values():
                (source / split / kind / path.name).symlink_to(path.parent.parent / kind / path.name)
    records = convert(build_instance_masks.plan(source, object_name="nucleus"), tmp_path / "records").parent
    override = f"{SMALL},data.shapes=null,data.dir={records},evaluation.pictures=0,postprocessing.center_threshold=-1.0"
    config = dl.load_config("shapes/mobilenet_v3_small", override)
    output, sizes, distinct = compare_export_with_evaluator(config, tmp_path, monkeypatch)
    assert f"{len(chosen)} maps are equal" in output
    assert len(sizes) == len(chosen) >= 3
    assert max(distinct) > 10


@pytest.mark.slow
@pytest.mark.real_data
def test_the_export_gives_the_evaluators_maps_on_resized_photographs(real_data, tmp_path, monkeypatch):
    from deeplab2_lite.data.conversion import convert
    from deeplab2_lite.data.converters import coco_panoptic as build_coco_panoptic

    folder = real_data / "coco"
    annotations = json.loads((folder / "annotations" / "panoptic_val2017.json").read_text())
    kept = {a["image_id"] for a in annotations["annotations"][:3]}
    annotations["annotations"] = annotations["annotations"][:3]
    annotations["images"] = [image for image in annotations["images"] if image["id"] in kept]
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").symlink_to(folder / "val2017")
        (tmp_path / "annotations" / f"panoptic_{split}2017.json").write_text(json.dumps(annotations))
        (tmp_path / "annotations" / f"panoptic_{split}2017").symlink_to(folder / "annotations" / "panoptic_val2017")
    sources = build_coco_panoptic.official_layout(tmp_path)
    records = convert(build_coco_panoptic.plan(sources), tmp_path / "records").parent
    override = (
        f"{SMALL},data.shapes=null,data.dir={records},data.longest_side=257,evaluation.pictures=0,"
        "postprocessing.center_threshold=-1.0,postprocessing.stuff_area_limit=4"
    )
    config = dl.load_config("shapes/mobilenet_v3_small", override)
    output, sizes, distinct = compare_export_with_evaluator(config, tmp_path, monkeypatch)
    assert "3 maps are equal" in output
    assert len(sizes) >= 2
    assert max(distinct) > 10


def test_the_merge_alone_serves_any_batch_and_size(run):
    merge = tf.saved_model.load(str(run / "export" / "merge"))
    random = np.random.default_rng(2)
    info = dl.load_dataset_info("shapes")
    for batch, height, width in ((1, 9, 13), (3, 5, 7)):
        heads = {
            "semantic_logits": random.normal(size=(batch, height, width, info.num_classes)).astype(np.float32),
            "center_heatmap": random.uniform(size=(batch, height, width, 1)).astype(np.float32),
            "center_offset": random.normal(size=(batch, height, width, 2)).astype(np.float32),
        }
        full = dl.postprocessing.upsample_heads(heads, 4 * height - 3, 4 * width - 3)
        expected = dl.postprocessing.panoptic_segmentation(
            *full,
            thing_ids=info.thing_ids,
            label_divisor=info.label_divisor,
            ignore_label=info.ignore_label,
            stuff_area_limit=info.stuff_area_limit,
        )
        at_once = merge.signatures["serving_default"](**dict(zip(full._fields, full, strict=True)))
        in_two = merge.signatures["upsample_and_merge"](
            **heads, height=tf.constant(4 * height - 3), width=tf.constant(4 * width - 3)
        )
        for outputs in (at_once, in_two):
            np.testing.assert_array_equal(outputs["panoptic_pred"], expected.panoptic)
            np.testing.assert_array_equal(outputs["instance_box"], expected.instances.box)
            np.testing.assert_array_equal(outputs["instance_valid"], expected.instances.valid)


def test_evaluation_of_a_missing_run_is_refused(tmp_path, capsys):
    missing = tmp_path / "nothing"
    assert train.main(["--model_dir", str(missing), "--mode", "eval"]) == 2
    assert f"--model_dir: no folder {missing}" in capsys.readouterr().err
    assert not missing.exists()


def test_training_alone_needs_no_evaluation_split(records, tmp_path, capsys):
    (tmp_path / "records").mkdir()
    for path in (*records.glob("train-*.tfrecord"), records / "dataset_info.yaml"):
        (tmp_path / "records" / path.name).symlink_to(path)
    override = f"{SMALL},data.shapes=null,data.dir={tmp_path / 'records'},train.steps=2"
    arguments = ["--model_dir", str(tmp_path / "run"), "--params_override", override]
    assert train.main([*arguments, "--mode", "train"]) == 0
    assert train.main([*arguments, "--mode", "eval"]) == 2
    assert "val" in capsys.readouterr().err.splitlines()[-1]


def test_missing_records_are_refused_before_training(tmp_path, capsys):
    override = f"{SMALL},data.shapes=null,data.dir={tmp_path / 'none'}"
    assert train.main(["--model_dir", str(tmp_path / "run"), "--params_override", override]) == 2
    assert "data.dir: no folder" in capsys.readouterr().err


def test_modes_that_a_task_has_no_use_for_are_refused_before_any_work(tmp_path, capsys):
    for tasks, mode, word in (
        ("instance", "train_and_eval", "nothing to evaluate"),
        ("semantic", "export", "no panoptic"),
    ):
        override = f"{SMALL},model.tasks={tasks}"
        assert train.main(["--model_dir", str(tmp_path / tasks), "--params_override", override, "--mode", mode]) == 2
        assert word in capsys.readouterr().err
        assert not (tmp_path / tasks).exists()


def test_semantic_only_trains_and_evaluates(records, tmp_path):
    override = f"{SMALL},data.shapes=null,data.dir={Path(records)},model.tasks=semantic,train.steps=2"
    assert train.main(["--model_dir", str(tmp_path), "--params_override", override]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert "semantic/mIoU" in metrics
    assert not any("panoptic" in name for name in metrics)
