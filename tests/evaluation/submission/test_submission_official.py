"""Submissions as the servers' own scripts read them: they take them, and their figures are ours of the same maps."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.data.converters.segment_maps import read_panoptic_json, read_panoptic_png
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.evaluation import InstanceAP, MeanIoU, PanopticQuality
from deeplab2_lite.evaluation.submission import models as submission_models

from .submission_doubles import DoublePredictor, result_of, save_answer

pytest.importorskip("cityscapesscripts")

INFO, COCO, VISTAS = (load_dataset_info(name) for name in ("cityscapes", "coco", "mapillary_vistas"))
ORIGINAL = np.array([c.original_id for c in INFO.classes])


@pytest.fixture(autouse=True)
def double(monkeypatch):
    def load(paths, kind, overrides):
        return DoublePredictor(load_dataset_info(paths[0]))

    monkeypatch.setattr(submission_models, "load_predictor", load)


@pytest.fixture(autouse=True)
def old_numpy_name(monkeypatch):
    if not hasattr(np, "in1d"):  # the scripts ask for what NumPy 2.4 took away
        monkeypatch.setattr(np, "in1d", lambda a, b: np.isin(a, b).ravel(), raising=False)


def predicted(truth, info, seed):
    """What the double shall say: the truth moved, some segments lost, without crowds."""
    rng = np.random.default_rng(seed)
    moved = np.roll(truth, rng.integers(-4, 5, 2), (0, 1))
    things = np.isin(moved // 1000, info.thing_ids)
    ids = np.unique(moved[things])
    lost = ids[rng.random(len(ids)) < 0.15]
    moved[(things & (moved % 1000 == 0)) | np.isin(moved, lost)] = info.void_id
    return moved


def submitted(tmp_path, form, model, name, *words):
    """Submits the images of `in`, and returns the folder of what was in the zip."""
    flags = [f"--format={form}", f"--model={model}", f"--input={tmp_path / 'in'}", f"--output={tmp_path / name}"]
    assert cli.main(["submit", *flags, *words]) == 0
    folder = tmp_path / form
    with zipfile.ZipFile(tmp_path / name) as archive:
        archive.extractall(folder)
    return folder


def panoptic_figures(truth_json, folder, stem, tmp_path, monkeypatch):
    from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as script

    monkeypatch.setattr(script, "pq_compute_multi_core", lambda *args: script.pq_compute_single_core(0, *args))
    with contextlib.redirect_stdout(io.StringIO()):
        return script.evaluatePanoptic(
            str(truth_json), str(truth_json.with_suffix("")), str(folder / f"{stem}.json"), str(folder / stem),
            str(tmp_path / "results.json"),
        )  # fmt: skip


def check_cityscapes(tmp_path, monkeypatch, split):
    """Submits drawn predictions on the labels in gtFine/, in all three formats, and runs all three scripts."""
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instances
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as semantic
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    with contextlib.redirect_stdout(io.StringIO()):
        convert2panoptic(str(tmp_path / "gtFine"), setNames=[split])
    truth_json = tmp_path / "gtFine" / f"cityscapes_panoptic_{split}.json"
    class_ids = {c.original_id: i for i, c in enumerate(INFO.classes)}
    annotations = read_panoptic_json(truth_json, truth_json.with_suffix(""), lambda c: class_ids[c["id"]])
    quality, iou, ap = PanopticQuality(INFO), MeanIoU(INFO), InstanceAP(INFO, rules="cityscapes")
    for seed, (key, annotation) in enumerate(annotations.items()):
        truth = read_panoptic_png(*annotation, INFO)
        prediction = predicted(truth, INFO, seed)
        save_answer(tmp_path / "in" / key.split("_")[0] / f"{key}_leftImg8bit.png", prediction, INFO)
        result, scores = result_of(prediction, INFO)
        rows = np.zeros_like(truth)
        for row in np.flatnonzero(result.instances.valid):
            rows[prediction == result.instances.panoptic_id[row]] = row + 1
        quality.update(truth, prediction)
        iou.update(truth // 1000, result.semantic)
        ap.update(truth, rows, result.instances.class_id[:-1], scores[:-1])

    folder = submitted(tmp_path, "cityscapes_panoptic", "cityscapes", "p.zip")
    figures = panoptic_figures(truth_json, folder, "p", tmp_path, monkeypatch)
    for name, average in (("All", quality.result().all), ("Things", quality.result().things)):
        expected = [figures[name][key] for key in ("pq", "sq", "rq", "n")]
        np.testing.assert_allclose(tuple(average), expected, rtol=0, atol=1e-12)
    assert 0.1 < figures["All"]["pq"] < 1

    labels = sorted(str(path) for path in (tmp_path / "gtFine" / split).glob("*/*_gtFine_labelIds.png"))
    folder = submitted(tmp_path, "cityscapes_semantic", "cityscapes", "s.zip")
    args = semantic.args
    for key, value in (
        ("predictionPath", str(folder)),
        ("predictionWalk", None),
        ("JSONOutput", False),
        ("quiet", True),
    ):
        monkeypatch.setattr(args, key, value)
    with contextlib.redirect_stdout(io.StringIO()):
        found = [semantic.getPrediction(args, label) for label in labels]
        figures = semantic.evaluateImgLists(found, labels, args)
    assert iou.result().mean_iou == pytest.approx(figures["averageScoreClasses"], abs=1e-12)

    folder = submitted(tmp_path, "cityscapes_instance", "cityscapes", "i.zip")
    args = instances.args
    truths = [label.replace("labelIds", "instanceIds") for label in labels]
    for key, value in (
        ("predictionPath", str(folder)), ("predictionWalk", None), ("quiet", True),
        ("gtInstancesFile", str(tmp_path / "gtInstances.json")),
    ):  # fmt: skip
        monkeypatch.setattr(args, key, value)
    instances.setInstanceLabels(args)
    found = [instances.getPrediction(truth, args) for truth in truths]
    matches = instances.matchGtWithPreds(found, truths, instances.getGtInstances(truths, args), args)
    figures = instances.computeAverages(instances.evaluateMatches(matches, args), args)
    assert 0.05 < figures["allAp50%"] < 1
    assert ap.result().ap == pytest.approx(figures["allAp"], abs=1e-12)
    assert ap.result().ap50 == pytest.approx(figures["allAp50%"], abs=1e-12)


def draw_labels(folder, keys):
    """Writes labelIds and instanceIds: road, sky, cars and persons, a group of cars, and what is not evaluated."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for key in keys:
        ids = np.full((1024, 2048), 7, np.uint16)
        ids[:400] = 23
        ids[1000:] = 1
        for number in range(9):
            label = int(rng.choice([24, 26]))
            top, left = rng.integers(0, 800), rng.integers(0, 1800)
            height, width = rng.integers(60, 200, 2)
            ids[top : top + height, left : left + width] = label * 1000 + number if number else label
        Image.fromarray(ids).save(folder / f"{key}_gtFine_instanceIds.png")
        labels = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
        Image.fromarray(labels).save(folder / f"{key}_gtFine_labelIds.png")


def test_the_scripts_of_cityscapes_on_drawn_labels(tmp_path, monkeypatch):
    draw_labels(tmp_path / "gtFine" / "val" / "ulm", ["ulm_000000_000019", "ulm_000001_000019"])
    check_cityscapes(tmp_path, monkeypatch, "val")


@pytest.mark.slow
@pytest.mark.real_data
def test_the_scripts_of_cityscapes_on_real_labels(tmp_path, monkeypatch, real_data):
    source = real_data / "cityscapes" / "gtFine" / "val" / "frankfurt"
    folder = tmp_path / "gtFine" / "val" / "frankfurt"
    folder.mkdir(parents=True)
    for path in sorted(source.glob("*_gtFine_instanceIds.png"))[:4]:
        for kind in ("instanceIds", "labelIds"):
            name = path.name.replace("instanceIds", kind)
            shutil.copy(source / name, folder / name)
    check_cityscapes(tmp_path, monkeypatch, "val")


@pytest.mark.real_data
def test_the_script_of_coco_on_real_labels(tmp_path, monkeypatch, real_data):
    truth_json = real_data / "coco" / "annotations" / "panoptic_val2017.json"
    content = json.loads(truth_json.read_text())
    class_ids = {c.original_id: i for i, c in enumerate(COCO.classes)}
    annotations = read_panoptic_json(truth_json, truth_json.with_suffix(""), lambda c: class_ids[c["id"]])
    names = {image["id"]: image["file_name"] for image in content["images"]}
    quality = PanopticQuality(COCO)
    for image_id, annotation in annotations.items():
        truth = read_panoptic_png(*annotation, COCO)
        prediction = predicted(truth, COCO, image_id)
        save_answer(tmp_path / "in" / names[image_id], prediction, COCO)
        quality.update(truth, prediction)
    stem = "panoptic_val2017_double_results"
    folder = submitted(tmp_path, "coco_panoptic", "coco", f"{stem}.zip", f"--image_info={truth_json}")
    figures = panoptic_figures(truth_json, folder, stem, tmp_path, monkeypatch)
    assert len(annotations) == 50 and 0.1 < figures["All"]["pq"] < 1
    expected = [figures["All"][key] for key in ("pq", "sq", "rq", "n")]
    np.testing.assert_allclose(tuple(quality.result().all), expected, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.real_data
def test_maps_of_vistas_are_numbered_as_its_labels(tmp_path, real_data):
    name = "_HnWguqEbRCphUquTMrCCA"
    with Image.open(real_data / "mapillary_vistas" / "training" / "v1.2" / "labels" / f"{name}.png") as image:
        labels = np.array(image)
    class_ids = np.full(256, VISTAS.ignore_label)
    class_ids[[c.original_id for c in VISTAS.classes]] = np.arange(VISTAS.num_classes)
    classes = class_ids[labels]
    things = np.isin(classes, VISTAS.thing_ids)
    save_answer(tmp_path / "in" / f"{name}.jpg", classes * 1000 + things, VISTAS)
    folder = submitted(tmp_path, "mapillary_semantic", "mapillary_vistas", "v.zip")
    with Image.open(folder / f"{name}.png") as image:
        shown = np.array(image)
    assert shown.dtype == np.uint8 and shown.shape == labels.shape
    evaluated = classes != VISTAS.ignore_label
    assert evaluated.mean() > 0.9
    np.testing.assert_array_equal(shown[evaluated], labels[evaluated])
