"""Instance files: masks, boxes and scores are the table's, and the official tools read them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation import InstanceAP
from deeplab2_lite.evaluation.submission.coco_panoptic import coco_image_id
from deeplab2_lite.evaluation.submission.instances import CityscapesInstanceWriter, CocoInstanceWriter
from deeplab2_lite.postprocessing.instances import InstanceTable
from deeplab2_lite.postprocessing.segmentation import PanopticResult

INFO = load_dataset_info("cityscapes")
LABEL_IDS = {11: 24, 12: 25, 13: 26}  # person, rider, car
THINGS = [class_id * 1000 + number for class_id in LABEL_IDS for number in (1, 2, 3)]
PANOPTIC_IDS = st.sampled_from([0, 2000, INFO.void_id, *THINGS])
MAPS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=PANOPTIC_IDS)


def result_of(panoptic, seed=0, top_k=None):
    """A result with this map: its things in rows of random order, with invalid rows between; and scores."""
    random = np.random.default_rng(seed)
    ids = [i for i in np.unique(panoptic).tolist() if i // 1000 in INFO.thing_ids]
    top_k = top_k or len(ids) + 3
    rows = random.permutation(top_k)[: len(ids)]
    table = InstanceTable(
        valid=np.zeros(top_k, bool),
        class_id=np.full(top_k, -1, np.int32),
        panoptic_id=np.full(top_k, -1, np.int32),
        center=np.zeros((top_k, 2), np.int32),
        center_score=np.zeros(top_k, np.float32),
        area=np.zeros(top_k, np.int32),
        box=np.zeros((top_k, 4), np.int32),
    )
    instance = np.zeros_like(panoptic)
    for row, panoptic_id in zip(rows, ids, strict=True):
        mask = panoptic == panoptic_id
        y, x = np.nonzero(mask)
        table.valid[row], table.class_id[row], table.panoptic_id[row] = True, panoptic_id // 1000, panoptic_id
        table.area[row], table.box[row] = mask.sum(), (y.min(), x.min(), y.max() + 1, x.max() + 1)
        instance[mask] = row + 1
    scores = np.where(table.valid, random.uniform(0.01, 1, top_k), 0).astype(np.float32)
    return PanopticResult(panoptic, panoptic // 1000, instance, table), scores


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- COCO


def written_coco(folder, *images):
    writer = CocoInstanceWriter(INFO, folder / "instances.json")
    for i, (result, scores) in enumerate(images):
        writer.add(f"{i}.jpg", result, scores, image_id=i + 1)
    path = writer.finish()
    assert path == folder / "instances.json"
    return json.loads(path.read_text())


def assert_describes(annotations, result, scores, image_id, every=1):
    table = result.instances
    rows = np.flatnonzero(table.valid)
    assert len(annotations) == len(rows)
    for annotation, row in zip(annotations[::every], rows[::every], strict=True):
        assert list(annotation) == ["image_id", "category_id", "segmentation", "score", "area"]
        assert annotation["image_id"] == image_id
        assert annotation["category_id"] == LABEL_IDS[table.class_id[row]]
        assert annotation["segmentation"]["size"] == list(result.panoptic.shape)
        mask = result.panoptic == table.panoptic_id[row]
        np.testing.assert_array_equal(mask_utils.decode(annotation["segmentation"]), mask)
        assert annotation["segmentation"]["counts"] == mask_utils.encode(np.asfortranarray(mask))["counts"].decode()
        assert annotation["score"] == scores[row] and annotation["area"] == table.area[row] == mask.sum()
        left, top, width, height = mask_utils.toBbox(annotation["segmentation"])
        assert [top, left, top + height, left + width] == table.box[row].tolist()


@given(panoptic=MAPS, seed=st.integers(0, 9))
def test_coco_masks_scores_and_boxes_are_the_tables(panoptic, seed, tmp_path_factory):
    result, scores = result_of(panoptic, seed)
    assert_describes(written_coco(tmp_path_factory.getbasetemp(), (result, scores)), result, scores, 1)


def frame(height, width):
    panoptic = np.full((height, width), 11001, np.int32)
    panoptic[1:-1, 1:-1] = 0
    return panoptic


@pytest.mark.parametrize(
    "panoptic",
    [
        np.zeros((4, 5), np.int32),
        np.full((4, 5), 13002, np.int32),
        frame(5, 7),
        np.array([[13001]], np.int32),
        np.array([[0, 13001, 0, 13002, 11001, 0, 13001]], np.int32),
        np.array([[13001], [0], [13001]], np.int32),
        # One pixel each, in the corners.
        np.pad(np.zeros((3, 0), np.int32), ((0, 0), (1, 1)), constant_values=((0, 0), (11001, 11002))),
        np.where(np.arange(40 * 30).reshape(40, 30) % 401, 2000, 13000 + np.arange(40 * 30).reshape(40, 30) % 7 + 1),
    ],
    ids=["empty", "whole", "borders", "pixel", "row", "column", "columns", "scattered"],
)
def test_coco_odd_maps(panoptic, tmp_path):
    result, scores = result_of(panoptic.astype(np.int32))
    annotations = written_coco(tmp_path, (result, scores), (result, scores))
    half = len(annotations) // 2
    assert_describes(annotations[:half], result, scores, 1)
    assert_describes(annotations[half:], result, scores, 2)


def test_coco_many_instances_at_cityscapes_size(tmp_path):
    panoptic = np.zeros((1025, 2049), np.int32)
    for number in range(200):
        y, x = divmod(number, 20)
        panoptic[100 * y + number % 20 : 100 * y + 90, 100 * x : 100 * x + 60 + number // 10] = 13001 + number
    result, scores = result_of(panoptic)
    assert result.instances.valid.sum() == 200
    assert_describes(written_coco(tmp_path, (result, scores)), result, scores, 1, every=9)


def test_coco_results_of_no_images_are_an_empty_list(tmp_path):
    assert written_coco(tmp_path) == []
    assert [p.name for p in tmp_path.iterdir()] == ["instances.json"]


def test_coco_images_are_known_by_their_names(tmp_path):
    writer = CocoInstanceWriter(INFO, tmp_path / "instances.json")
    result, scores = result_of(np.array([[13001]], np.int32))
    for name in ("a b.png", "000000000139.jpg", "139.jpg"):
        writer.add(name, result, scores)
    assert [a["image_id"] for a in json.loads(writer.finish().read_text())] == ["a b", 139, "139"]
    assert [coco_image_id(name) for name in ("0000000001390.jpg", "00000000139a.jpg", "x/000000000001")] == [
        "0000000001390", "00000000139a", 1
    ]  # fmt: skip


def test_what_was_encoded_earlier_is_as_good_as_what_is_added(tmp_path):
    images = [result_of(np.array([[13001, 0, 11001]], np.int32), seed) for seed in range(3)]
    expected = written_coco(tmp_path, *images)
    writer = CocoInstanceWriter(INFO, tmp_path / "instances.json")
    entries = [writer.write(f"{i}.jpg", *image, image_id=i + 1) for i, image in enumerate(images)]
    assert json.loads(writer.finish().read_text()) == []
    for entry in json.loads(json.dumps(entries)):
        writer.restore(entry)
    assert json.loads(writer.finish().read_text()) == expected


# ---- the official tools


def drawn_images(perfect):
    """Truth and prediction with road, sky, void, crowd, and instances of which some are tiny."""
    random = np.random.default_rng(5)
    images = []
    for _ in range(3):
        truth = np.zeros((160, 200), np.int32)
        truth[:60], truth[60:70] = 10000, INFO.void_id
        prediction = truth.copy()
        for number in range(1, 13):
            class_id = int(random.choice(list(LABEL_IDS)))
            top, left = random.integers(0, 130), random.integers(0, 160)
            height, width = random.integers(6, 45, size=2)
            truth[top : top + height, left : left + width] = class_id * 1000 + (number if random.random() < 0.8 else 0)
            dy, dx = random.integers(-4, 5, size=2) * (random.random() < 0.7)
            if random.random() < 0.85:
                rows, columns = slice(max(0, top + dy), top + dy + height), slice(max(0, left + dx), left + dx + width)
                prediction[rows, columns] = class_id * 1000 + number
        images.append((truth, np.where(truth % 1000, truth, 0) if perfect else prediction))
    return images


def own_figures(images, rules):
    metric = InstanceAP(INFO, rules=rules)
    for truth, result, scores in images:
        metric.update(truth, result.instance, result.instances.class_id, scores)
    return metric.result()


def results_on(images):
    return [(truth, *result_of(prediction, seed)) for seed, (truth, prediction) in enumerate(images)]


def coco_truth(truths):
    annotations = []
    for i, truth in enumerate(truths):
        for panoptic_id in np.unique(truth).tolist():
            if panoptic_id // 1000 in LABEL_IDS:
                segmentation = mask_utils.encode(np.asfortranarray(truth == panoptic_id))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": LABEL_IDS[panoptic_id // 1000],
                        "segmentation": segmentation,
                        "area": int(mask_utils.area(segmentation)),
                        "bbox": mask_utils.toBbox(segmentation).tolist(),
                        "iscrowd": int(panoptic_id % 1000 == 0),
                    }
                )
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i + 1, "height": t.shape[0], "width": t.shape[1]} for i, t in enumerate(truths)],
        "categories": [{"id": i, "name": str(i)} for i in LABEL_IDS.values()],
        "annotations": annotations,
    }
    truth.createIndex()
    return truth


@pytest.mark.parametrize("perfect", [True, False])
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_pycocotools_reads_the_file(perfect, kind, tmp_path):
    images = results_on(drawn_images(perfect))
    written_coco(tmp_path, *(image[1:] for image in images))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_truth([image[0] for image in images])
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "instances.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    if perfect:
        assert evaluation.stats[0] == pytest.approx(1, abs=1e-12)
    elif kind == "segm":
        figures = own_figures(images, "coco")
        assert 0.1 < figures.ap < 0.9
        np.testing.assert_allclose(evaluation.stats[:3], [figures.ap, figures.ap50, figures.ap75], rtol=0, atol=1e-12)


@pytest.fixture
def cityscapes_script(tmp_path, monkeypatch):
    script = pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    if not hasattr(np, "in1d"):  # the script asks for what NumPy 2.4 took away
        monkeypatch.setattr(np, "in1d", lambda a, b: np.isin(a, b).ravel(), raising=False)
    settings = {
        "predictionPath": str(tmp_path / "results"),
        "predictionWalk": None,
        "gtInstancesFile": str(tmp_path / "gtInstances.json"),
        "quiet": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(script.args, name, value)
    return script


@pytest.mark.parametrize("perfect", [True, False])
def test_cityscapes_scripts_read_the_folder(perfect, tmp_path, cityscapes_script):
    # The script counts instances of 100 pixels and more, and forgives others.
    images = results_on(drawn_images(perfect))
    writer = CityscapesInstanceWriter(INFO, tmp_path / "results")
    original_ids = np.array([c.original_id for c in INFO.classes] + [0])
    truths = []
    for i, (truth, result, scores) in enumerate(images):
        name = f"town_{i:06d}_000019"
        writer.add(f"{name}_leftImg8bit.png", result, scores)
        class_ids, numbers = np.minimum(truth // 1000, INFO.num_classes), truth % 1000
        ids = np.where(numbers > 0, original_ids[class_ids] * 1000 + numbers, original_ids[class_ids])
        truths.append(str(tmp_path / f"{name}_gtFine_instanceIds.png"))
        Image.fromarray(ids.astype(np.uint16)).save(truths[-1])
    assert writer.finish() == tmp_path / "results"
    script, args = cityscapes_script, cityscapes_script.args
    predictions = [script.getPrediction(truth, args) for truth in truths]
    # Step by step, as `evaluateImgLists` does it but for its dump of matches, which fails on NumPy's integers.
    script.setInstanceLabels(args)
    matches = script.matchGtWithPreds(predictions, truths, script.getGtInstances(truths, args), args)
    averages = script.computeAverages(script.evaluateMatches(matches, args), args)
    figures = own_figures(images, "cityscapes")
    if perfect:
        assert averages["allAp"] == pytest.approx(1, abs=1e-12)
    else:
        assert 0.1 < figures.ap < 0.9
    assert averages["allAp"] == pytest.approx(figures.ap, abs=1e-12)
    assert averages["allAp50%"] == pytest.approx(figures.ap50, abs=1e-12)
    for class_id in LABEL_IDS:
        figure = averages["classes"][INFO.classes[class_id].name]["ap"]
        np.testing.assert_allclose(figures.per_class_ap[class_id], figure, rtol=0, atol=1e-12)


# ---- Cityscapes


def lines_of(path):
    """Mask, label id and score of each line of a list, as the script's reader takes them apart."""
    lines = []
    with path.open() as file:
        for line in file:
            mask_path, label_id, score = line.split(" ")
            with Image.open(path.parent / mask_path) as image:
                assert (image.mode, image.format) == ("L", "PNG")
                lines.append((np.asarray(image), int(label_id), float(score)))
    return lines


def assert_lists(path, result, scores):
    table = result.instances
    rows = np.flatnonzero(table.valid)
    lines = lines_of(path)
    assert len(lines) == len(rows)
    for (mask, label_id, score), row in zip(lines, rows, strict=True):
        np.testing.assert_array_equal(mask, 255 * (result.panoptic == table.panoptic_id[row]))
        assert (label_id, score) == (LABEL_IDS[table.class_id[row]], scores[row])


@given(panoptic=MAPS, seed=st.integers(0, 9))
def test_cityscapes_masks_and_scores_are_the_tables(panoptic, seed, tmp_path_factory):
    # One folder for all draws: each replaces the one before.
    folder = tmp_path_factory.getbasetemp() / "cityscapes"
    result, scores = result_of(panoptic, seed)
    CityscapesInstanceWriter(INFO, folder).add("a.png", result, scores)
    assert_lists(folder / "a_pred.txt", result, scores)
    assert len(list(folder.rglob("*.png"))) == result.instances.valid.sum()
    assert {p.name for p in folder.iterdir()} == {"a_pred", "a_pred.txt"}


def test_cityscapes_names(tmp_path):
    writer = CityscapesInstanceWriter(INFO, tmp_path / "deep" / "results")
    result, scores = result_of(np.array([[13001, 11001]], np.int32))
    for name in ("a b%.v2.png", "a\tb.png", "a_b.png", "ä.png"):
        writer.add(name, result, scores)
    writer.add("x.png", result, scores, image_id=7)
    folder = writer.finish()
    lists = sorted(p.name for p in folder.glob("*.txt"))
    assert lists == sorted(["a b%.v2_pred.txt", "a\tb_pred.txt", "a_b_pred.txt", "ä_pred.txt", "7_pred.txt"])
    for name in lists:
        assert_lists(folder / name, result, scores)
        assert writer.list_path("x.png", 7) == folder / "7_pred.txt"
    assert not [p for p in folder.rglob("*.png") if len(str(p.relative_to(folder)).split()) > 1]
    assert len(list(folder.rglob("*.png"))) == 10


def test_a_list_is_there_only_with_all_its_masks(tmp_path, monkeypatch):
    result, scores = result_of(np.array([[13001, 11001, 11002]], np.int32))
    writer = CityscapesInstanceWriter(INFO, tmp_path)
    writer.add("a.png", result, scores)
    assert writer.list_path("a.png").is_file()
    save, saved = Image.Image.save, []

    def fail_at_the_second(*arguments, **options):
        saved.append(arguments)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", fail_at_the_second)
        writer.add("a.png", result, scores)
    assert not writer.list_path("a.png").exists()
    writer.add("a.png", result, scores)
    assert_lists(writer.list_path("a.png"), result, scores)


# ---- mistakes


@pytest.mark.parametrize("make", [CocoInstanceWriter, CityscapesInstanceWriter])
def test_what_does_not_fit_is_refused(make, tmp_path):
    writer = make(INFO, tmp_path / "results")
    result, scores = result_of(np.array([[13001]], np.int32), top_k=4)
    assert message_of(lambda: writer.add("a.png", result, scores[:3])) == (
        "instance_scores: expected one for each row of the table, [4], got the shape [3]"
    )
    batch = result._replace(panoptic=result.panoptic[None])
    assert message_of(lambda: writer.add("a.png", batch, scores)) == (
        "result: expected one image, maps of [height, width], got the shape [1, 1, 1]"
    )
    row = np.flatnonzero(result.instances.valid)[0]
    assert message_of(lambda: writer.add("a.png", result, np.full(4, np.nan))) == (
        f"instance_scores[{row}]: expected a finite number, got nan"
    )
    stuff = dataclasses.replace(INFO, classes=tuple(dataclasses.replace(c, isthing=False) for c in INFO.classes))
    assert message_of(lambda: make(stuff, tmp_path / "results").add("a.png", result, scores)) == (
        f"class_id[{row}]: expected the id of a thing class of 'cityscapes', got 13"
    )
    assert not list(tmp_path.rglob("*.txt")) and not list(tmp_path.rglob("*.json"))
