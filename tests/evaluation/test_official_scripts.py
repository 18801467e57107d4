"""The figures of cityscapesScripts itself, where that package is installed (it is no dependency)."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

import deeplab2_lite as dl
from deeplab2_lite.evaluation import InstanceAP, MeanIoU, PanopticQuality

pytest.importorskip("cityscapesscripts")

INFO = dl.load_dataset_info("cityscapes")
ORIGINAL = np.array([c.original_id for c in INFO.classes])
IMAGES = 3


@pytest.fixture(autouse=True)
def old_numpy_name(monkeypatch):
    if not hasattr(np, "in1d"):  # the script asks for what NumPy 2.4 took away
        monkeypatch.setattr(np, "in1d", lambda a, b: np.isin(a, b).ravel(), raising=False)


def drawn_images() -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns panoptic truth and prediction with road, building, things, crowd, void and tiny instances."""
    rng = np.random.default_rng(5)
    images = []
    for _ in range(IMAGES):
        truth = np.zeros((160, 200), np.int32)
        truth[:60], truth[60:70] = 2000, INFO.void_id
        prediction = np.zeros_like(truth)
        prediction[:64] = 2000
        for number in range(1, 13):
            class_id = int(rng.choice([11, 13]))
            top, left = rng.integers(0, 130), rng.integers(0, 160)
            size = rng.integers(6, 45, size=2)
            shift = rng.integers(-4, 5, size=2) * (rng.random() < 0.7)
            instance = 0 if rng.random() < 0.2 else number
            truth[top : top + size[0], left : left + size[1]] = class_id * 1000 + instance
            if rng.random() < 0.85:
                rows = slice(max(0, top + shift[0]), top + shift[0] + size[0])
                columns = slice(max(0, left + shift[1]), left + shift[1] + size[1])
                prediction[rows, columns] = class_id * 1000 + number
        prediction[150:, :9] = INFO.void_id
        images.append((truth, prediction))
    return images


def original_semantic(panoptic: np.ndarray) -> np.ndarray:
    """Returns Cityscapes label ids; void becomes 0, unlabeled."""
    semantic = panoptic // INFO.label_divisor
    return np.where(semantic == INFO.ignore_label, 0, ORIGINAL[np.minimum(semantic, INFO.num_classes - 1)])


def test_panoptic_quality_equals_the_script(tmp_path):
    from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as script

    metric, pairs = PanopticQuality(INFO), []
    for i, maps in enumerate(drawn_images()):
        metric.update(*maps)
        annotations = []
        for kind, panoptic in zip(("truth", "prediction"), maps, strict=True):
            # The script's void is 0, so every id moves up by one.
            ids = np.where(panoptic == INFO.void_id, 0, panoptic + 1)
            rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
            name = f"{kind}{i}.png"
            Image.fromarray(rgb).save(tmp_path / name)
            segments = [
                {
                    "id": int(v),
                    "category_id": int((v - 1) // 1000),
                    "area": int((ids == v).sum()),
                    "iscrowd": int(INFO.classes[(v - 1) // 1000].isthing and (v - 1) % 1000 == 0),
                }
                for v in np.unique(ids)
                if v
            ]
            annotations.append({"image_id": str(i), "file_name": name, "segments_info": segments})
        pairs.append(tuple(annotations))
    categories = {i: {"id": i, "name": c.name, "isthing": int(c.isthing)} for i, c in enumerate(INFO.classes)}
    with contextlib.redirect_stdout(io.StringIO()):
        statistics = script.pq_compute_single_core(0, pairs, str(tmp_path), str(tmp_path), categories)
    expected, result = script.average_pq(statistics, categories), metric.result()
    assert 0.1 < result.things.pq < 0.9 and result.fp.sum() > 0 and result.fn.sum() > 0
    for name, average in (("All", result.all), ("Things", result.things), ("Stuff", result.stuff)):
        figures = [expected[name][key] for key in ("pq", "sq", "rq", "n")]
        np.testing.assert_allclose(tuple(average), figures, rtol=0, atol=1e-12)


def test_mean_iou_equals_the_script():
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    metric = MeanIoU(INFO)
    confusion = script.generateMatrix(script.args)
    for truth, prediction in drawn_images():
        metric.update(truth // 1000, prediction // 1000)
        np.add.at(confusion, (original_semantic(truth), original_semantic(prediction)), 1)
    scores = [script.getIouScoreForLabel(label, confusion, script.args) for label in ORIGINAL]
    result = metric.result()
    np.testing.assert_allclose(result.per_class_iou, scores, rtol=0, atol=1e-12)
    expected = script.getScoreAverage(dict(enumerate(scores)), script.args)
    assert result.mean_iou == pytest.approx(expected, abs=1e-12)


def test_instance_ap_equals_the_script(tmp_path, monkeypatch):
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script

    rng = np.random.default_rng(3)
    metric, truths, predictions = InstanceAP(INFO, rules="cityscapes"), [], []
    for i, (truth, prediction) in enumerate(drawn_images()):
        ids = [int(v) for v in np.unique(prediction) if v // 1000 in INFO.thing_ids and v % 1000]
        masks = np.zeros_like(prediction)
        for row, panoptic_id in enumerate(ids):
            masks[prediction == panoptic_id] = row + 1
        class_ids = np.array(ids) // 1000
        scores = rng.choice([0.25, 0.5, 0.75, 1.0], size=len(ids))
        metric.update(truth, masks, class_ids, scores)

        semantic, instance = original_semantic(truth), truth % 1000
        truths.append(str(tmp_path / f"truth{i}.png"))
        Image.fromarray(np.where(instance > 0, semantic * 1000 + instance, semantic).astype(np.uint16)).save(truths[-1])
        lines = []
        for row in range(len(ids)):
            Image.fromarray((255 * (masks == row + 1)).astype(np.uint8)).save(tmp_path / f"{i}_{row}.png")
            lines.append(f"{i}_{row}.png {ORIGINAL[class_ids[row]]} {scores[row]}\n")
        predictions.append(str(tmp_path / f"prediction{i}.txt"))
        (tmp_path / f"prediction{i}.txt").write_text("".join(lines))
    monkeypatch.setattr(script.args, "predictionPath", str(tmp_path))
    monkeypatch.setattr(script.args, "gtInstancesFile", str(tmp_path / "gtInstances.json"))
    monkeypatch.setattr(script.args, "quiet", True)
    # Step by step, as `evaluateImgLists` does it but for its dump of intermediate results.
    script.setInstanceLabels(script.args)
    instances = script.getGtInstances(truths, script.args)
    matches = script.matchGtWithPreds(predictions, truths, instances, script.args)
    expected = script.computeAverages(script.evaluateMatches(matches, script.args), script.args)
    result = metric.result()
    assert 0.05 < result.ap < 0.95
    assert result.ap == pytest.approx(expected["allAp"], abs=1e-12)
    assert result.ap50 == pytest.approx(expected["allAp50%"], abs=1e-12)
    for class_id in INFO.thing_ids:
        figures = expected["classes"][INFO.classes[class_id].name]
        np.testing.assert_allclose(result.per_class_ap[class_id], figures["ap"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.per_class_ap50[class_id], figures["ap50%"], rtol=0, atol=1e-12)
