"""The figures of cityscapesScripts and pycocotools themselves: on 500 random maps, and on real labels.

cityscapesScripts is no dependency: these tests run where it is installed.
"""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deeplab2_lite.evaluation import InstanceAP, InstanceIoU, MeanIoU, PanopticQuality
from deeplab2_lite.evaluation.sources.panoptic_files import PanopticFolder, check_same_images, load_pair

from .official_inputs import (
    INFO,
    ORIGINAL,
    Instances,
    Pair,
    drawn_prediction,
    instances_of,
    label_ids,
    panoptic_of_instance_ids,
    random_pairs,
    real_truths,
    write_instances,
    write_panoptic,
    write_truth,
)

pytest.importorskip("cityscapesscripts")

RANDOM_MAPS = 500
CATEGORIES = [
    {"id": int(c.original_id), "name": c.name, "isthing": int(c.isthing), "supercategory": c.category}
    for c in INFO.classes
]


@pytest.fixture(autouse=True)
def old_numpy_name(monkeypatch):
    if not hasattr(np, "in1d"):  # the scripts ask for what NumPy 2.4 took away
        monkeypatch.setattr(np, "in1d", lambda a, b: np.isin(a, b).ravel(), raising=False)


@pytest.fixture(scope="module")
def random_maps() -> list[Pair]:
    return list(random_pairs(RANDOM_MAPS, seed=0))


def real_pairs(real_data, count: int) -> list[Pair]:
    truths = [panoptic_of_instance_ids(path) for path in real_truths(real_data, count)]
    return [Pair(truth, drawn_prediction(truth, np.random.default_rng(i))) for i, truth in enumerate(truths)]


def quietly(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def assert_equal(measured, expected):
    """To 1e-9, NaN where the other is NaN."""
    np.testing.assert_allclose(np.array(measured, float), np.array(expected, float), rtol=0, atol=1e-9)


def check_panoptic(pairs: list[Pair], folder) -> None:
    """Writes both folders, and compares with the script; reads them back for our figures too."""
    from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as script

    metric, folders = PanopticQuality(INFO), []
    for kind, maps in zip(("truth", "prediction"), zip(*pairs, strict=True), strict=True):
        png_dir = folder / kind
        png_dir.mkdir()
        annotations = [write_panoptic(png_dir / f"{i}.png", panoptic, f"image{i}") for i, panoptic in enumerate(maps)]
        content = {"annotations": annotations, "categories": CATEGORIES}
        (folder / f"{kind}.json").write_text(json.dumps(content))
        folders.append(PanopticFolder(folder / f"{kind}.json", png_dir, INFO, is_prediction=kind == "prediction"))
    check_same_images(*folders)
    from_files = PanopticQuality(INFO)
    for i, pair in enumerate(pairs):
        metric.update(*pair)
        from_files.update(*load_pair(*folders, f"image{i}"))
    check_panoptic_files(folder, script, [metric, from_files])


def check_panoptic_files(folder, script, metrics) -> None:
    truth, prediction = (json.loads((folder / f"{kind}.json").read_text()) for kind in ("truth", "prediction"))
    predictions = {annotation["image_id"]: annotation for annotation in prediction["annotations"]}
    matched = [(annotation, predictions[annotation["image_id"]]) for annotation in truth["annotations"]]
    categories = {category["id"]: category for category in truth["categories"]}
    arguments = (0, matched, str(folder / "truth"), str(folder / "prediction"), categories)
    statistics = quietly(script.pq_compute_single_core, *arguments)
    expected = script.average_pq(statistics, categories)
    for metric in metrics:
        result = metric.result()
        assert 0.1 < result.things.pq < 0.9 and result.fp.sum() > 0 and result.fn.sum() > 0
        for name, average in (("All", result.all), ("Things", result.things), ("Stuff", result.stuff)):
            assert_equal(tuple(average), [expected[name][key] for key in ("pq", "sq", "rq", "n")])
        for class_id, category in enumerate(ORIGINAL[:-1]):
            counts = statistics[category]
            assert (counts.tp, counts.fp, counts.fn) == (result.tp[class_id], result.fp[class_id], result.fn[class_id])
            assert_equal(np.nan_to_num(result.per_class_pq[class_id]), expected["per_class"][category]["pq"])


def test_panoptic_quality_of_random_maps(random_maps, tmp_path):
    check_panoptic(random_maps, tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize("count", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_panoptic_quality_of_drawn_predictions_over_real_labels(real_data, tmp_path, count):
    from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as script
    from cityscapesscripts.preparation import createPanopticImgs

    # The truth as the official converter makes it.
    city = tmp_path / "gtFine" / "val" / "frankfurt"
    city.mkdir(parents=True)
    paths = real_truths(real_data, count)
    for path in paths:
        (city / path.name).symlink_to(path)
    quietly(createPanopticImgs.convert2panoptic, str(tmp_path / "gtFine"), str(tmp_path), False, ["val"])
    (tmp_path / "cityscapes_panoptic_val.json").rename(tmp_path / "truth.json")
    (tmp_path / "cityscapes_panoptic_val").rename(tmp_path / "truth")
    truths = PanopticFolder(tmp_path / "truth.json", tmp_path / "truth", INFO)
    (tmp_path / "prediction").mkdir()
    annotations, metric, from_files = [], PanopticQuality(INFO), PanopticQuality(INFO)
    for i, (path, name) in enumerate(zip(paths, truths.names, strict=True)):
        truth = panoptic_of_instance_ids(path)
        assert path.name.startswith(name)
        # Numbers of instances differ, the segments do not.
        assert np.unique(np.stack([truth, truths.load(name)]).reshape(2, -1), axis=1).shape[1] == np.unique(truth).size
        prediction = drawn_prediction(truth, np.random.default_rng(i))
        annotations.append(write_panoptic(tmp_path / "prediction" / f"{name}.png", prediction, name))
        metric.update(truth, prediction)
    (tmp_path / "prediction.json").write_text(json.dumps({"annotations": annotations}))
    predictions = PanopticFolder(tmp_path / "prediction.json", tmp_path / "prediction", INFO, is_prediction=True)
    for name in truths.names:
        from_files.update(*load_pair(truths, predictions, name))
    check_panoptic_files(tmp_path, script, [metric, from_files])


def check_semantic(pairs: list[Pair], folder) -> None:
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    semantic, instance = MeanIoU(INFO), InstanceIoU(INFO)
    truths, predictions = [], []
    for i, pair in enumerate(pairs):
        semantic.update(pair.truth // 1000, pair.prediction // 1000)
        instance.update(pair.truth, pair.prediction // 1000)
        truths.append(str(write_truth(folder, str(i), pair.truth)[0]))
        predictions.append(str(folder / f"{i}_prediction.png"))
        Image.fromarray(label_ids(pair.prediction)).save(predictions[-1])
    arguments = script.CArgs()
    arguments.__dict__.update(script.args.__dict__, quiet=True, JSONOutput=False)
    expected = script.evaluateImgLists(predictions, truths, arguments)
    result, weighted = semantic.result(), instance.result()
    assert 0.2 < result.mean_iou < 0.95 and 0.2 < weighted.mean_iou < 0.95
    assert_equal(result.per_class_iou, [expected["classScores"][name] for name in INFO.class_names])
    assert_equal(weighted.per_class_iou, [expected["classInstScores"][name] for name in INFO.class_names])
    assert_equal(result.per_category_iou, [expected["categoryScores"][name] for name in INFO.categories])
    assert_equal(weighted.per_category_iou, [expected["categoryInstScores"][name] for name in INFO.categories])
    assert np.isfinite(weighted.per_category_iou).sum() == 2  # human and vehicle
    for kind, figure in (
        ("Classes", result.mean_iou),
        ("InstClasses", weighted.mean_iou),
        ("Categories", result.mean_category_iou),
        ("InstCategories", weighted.mean_category_iou),
    ):
        assert_equal(figure, expected[f"averageScore{kind}"])


def test_iou_and_instance_iou_of_random_maps(random_maps, tmp_path):
    check_semantic(random_maps, tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize("count", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_iou_and_instance_iou_of_drawn_predictions_over_real_labels(real_data, tmp_path, count):
    check_semantic(real_pairs(real_data, count), tmp_path)


def official_ap(truths, predictions, monkeypatch):
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script

    folder = truths[0].parent
    monkeypatch.setattr(script.args, "predictionPath", str(folder))
    monkeypatch.setattr(script.args, "gtInstancesFile", str(folder / "gtInstances.json"))
    monkeypatch.setattr(script.args, "quiet", True)
    truths, predictions = [str(path) for path in truths], [str(path) for path in predictions]
    # Step by step, as `evaluateImgLists` does it but for its dump of intermediate results.
    script.setInstanceLabels(script.args)
    instances = script.getGtInstances(truths, script.args)
    matches = script.matchGtWithPreds(predictions, truths, instances, script.args)
    return script.computeAverages(script.evaluateMatches(matches, script.args), script.args)


def check_instances(pairs: list[Pair], folder, monkeypatch) -> None:
    rng = np.random.default_rng(3)
    metric, truths, predictions = InstanceAP(INFO, rules="cityscapes"), [], []
    for i, (truth, prediction) in enumerate(pairs):
        instances = instances_of(prediction, rng)
        metric.update(truth, *instances)
        truths.append(write_truth(folder, str(i), truth)[1])
        predictions.append(write_instances(folder, str(i), instances))
    expected, result = official_ap(truths, predictions, monkeypatch), metric.result()
    assert 0.05 < result.ap < 0.95
    assert_equal([result.ap, result.ap50], [expected["allAp"], expected["allAp50%"]])
    for class_id in INFO.thing_ids:
        figures = expected["classes"][INFO.classes[class_id].name]
        assert_equal(result.per_class_ap[class_id], figures["ap"])
        assert_equal(result.per_class_ap50[class_id], figures["ap50%"])


def test_cityscapes_ap_of_random_maps(random_maps, tmp_path, monkeypatch):
    check_instances(random_maps, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.real_data
def test_cityscapes_ap_of_drawn_predictions_over_real_labels(real_data, tmp_path, monkeypatch):
    check_instances(real_pairs(real_data, 15), tmp_path, monkeypatch)


def check_coco(pairs: list[Pair]) -> None:
    """Compares with pycocotools on annotations made mask by mask, all images in one data set."""

    def annotation(image, mask, class_id, **more):
        run_lengths = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"image_id": image, "category_id": int(class_id), "segmentation": run_lengths, **more}

    rng = np.random.default_rng(4)
    metric, truths, detections = InstanceAP(INFO, rules="coco"), [], []
    for image, (truth, prediction) in enumerate(pairs, 1):
        instances = instances_of(prediction, rng)
        metric.update(truth, *instances)
        for panoptic_id in np.unique(truth):
            class_id, instance = divmod(int(panoptic_id), 1000)
            if class_id in INFO.thing_ids:
                mask = truth == panoptic_id
                more = {"id": len(truths) + 1, "iscrowd": int(instance == 0), "area": int(mask.sum())}
                truths.append(annotation(image, mask, class_id, **more))
        for row, class_id in enumerate(instances.class_ids):
            score = float(instances.scores[row])
            detections.append(annotation(image, instances.masks == row + 1, class_id, score=score))
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i, "height": t.shape[0], "width": t.shape[1]} for i, (t, _) in enumerate(pairs, 1)],
        "categories": [{"id": class_id} for class_id in INFO.thing_ids],
        "annotations": truths,
    }
    quietly(coco.createIndex)
    evaluation = COCOeval(coco, quietly(coco.loadRes, detections), "segm")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        quietly(step)
    result = metric.result()
    assert 0.05 < result.ap < 0.95
    figures = [result.ap, result.ap50, result.ap75, result.ap_small, result.ap_medium, result.ap_large]
    assert_equal(figures, np.where(evaluation.stats[:6] < 0, np.nan, evaluation.stats[:6]))


def test_coco_ap_of_random_maps(random_maps):
    check_coco(random_maps)


@pytest.mark.slow
@pytest.mark.real_data
def test_coco_ap_of_drawn_predictions_over_real_labels(real_data):
    check_coco(real_pairs(real_data, 15))


def test_single_caravans_are_void_in_a_panoptic_label(tmp_path, monkeypatch):
    """The one difference from the script that is left: see docs/evaluation.md."""
    truth = np.zeros((40, 60), np.int32)
    truth[:20, :20], truth[:20, 30:50] = 13001, INFO.void_id
    masks = (truth == 13001) + 2 * (truth == INFO.void_id)
    instances = Instances(masks, np.array([13, 13]), np.array([0.5, 0.9]))
    metric = InstanceAP(INFO, rules="cityscapes")
    metric.update(truth, *instances)
    assert metric.result().per_class_ap[13] == 1.0
    text = write_instances(tmp_path, "0", instances)
    _, path = write_truth(tmp_path, "0", truth)
    assert official_ap([path], [text], monkeypatch)["classes"]["car"]["ap"] == 1.0
    (tmp_path / "gtInstances.json").unlink()
    caravan = 29000
    values = np.array(Image.open(path)).astype(np.uint16)
    Image.fromarray(np.where(masks == 2, caravan, values).astype(np.uint16)).save(path)
    assert official_ap([path], [text], monkeypatch)["classes"]["car"]["ap"] == 0.25
