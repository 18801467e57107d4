"""Two evaluations against each other: intervals as slow resampling finds them, and what a user is told."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, label_space_difference
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.comparison.count_table import CountTable
from deeplab2_lite.evaluation.comparison.differences import FEWEST_IMAGES, compare
from deeplab2_lite.evaluation.comparison.instance_resampling import InstanceTables
from deeplab2_lite.evaluation.comparison.table import format_comparison, write_comparison
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.evaluation_files import read_evaluation, write_images
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts
from deeplab2_lite.evaluation.metrics.instance_ap import InstanceAP
from deeplab2_lite.evaluation.report import per_class_rows, scalars, write_json

INFO = DatasetInfo(
    "street",
    (
        ClassInfo("road", False, (120, 60, 120), 0, "ground"),
        ClassInfo("car", True, (0, 0, 140), 1, "moving", 400.0),
        ClassInfo("person", True, (220, 20, 60), 2, "moving", 150.0),
        ClassInfo("never", True, (1, 2, 3), 3),
    ),
)
RULES = ("coco", "cityscapes")


def blocks(random, size, cells, stuff=(0, 255)):
    """A map of square cells, each an instance, road or void."""
    ids = random.choice([stuff[0] * 1000, stuff[1] * 1000, 1001, 1002, 1003, 2001, 2002, 2000], (cells, cells))
    side = size // cells
    return np.kron(ids, np.ones((side, side), int)).astype(np.int32)


def predicted(random, truth, errors):
    """The truth but for a share of its cells, with scores in steps, so that some are equal."""
    other = blocks(random, len(truth), 5)
    mistaken = np.kron(random.random((5, 5)) < errors, np.ones((len(truth) // 5,) * 2, bool))
    panoptic = np.where(mistaken, other, truth).astype(np.int32)
    panoptic = np.where(panoptic == 2000, 2001, panoptic)
    ids = [i for i in np.unique(panoptic) if i % 1000]
    instance = np.zeros_like(panoptic)
    for row, panoptic_id in enumerate(ids):
        instance[panoptic == panoptic_id] = row + 1
    semantic = np.where(panoptic == INFO.void_id, 0, panoptic // 1000)
    scores = random.random(len(ids)).astype(np.float32)
    return ImagePrediction(semantic, panoptic, instance, np.array(ids, np.int32) // 1000, scores)


def evaluation(errors, seed, images=12, rules=RULES):
    """A report on scenes that do not depend on errors and seed."""
    metric = Evaluation(INFO, instance_rules=rules, boundary=True)
    for i in range(images):
        truth = blocks(np.random.default_rng(i), 60, 5)
        prediction = predicted(np.random.default_rng([seed, i]), truth, errors)
        if not rules:
            prediction = ImagePrediction(prediction.semantic, prediction.panoptic)
        metric.add(metric.count(truth, prediction, f"{i:02d}.png"))
    return metric.report(step=seed)


@pytest.fixture(scope="module")
def reports():
    """A worse and a better evaluation of the same 12 images."""
    return evaluation(0.5, 1), evaluation(0.3, 2)


def figures_of(images, order):
    """The figures of some images, one after the other, by the metrics themselves."""
    metric = Evaluation(INFO, instance_rules=RULES, boundary=True)
    for i in order:
        metric.add(images[i])
    report = metric.report(0)
    values = {tag: value for tag, value in scalars(report).items() if not tag.startswith("instance")}
    by_class = {}
    for key in ("PQ", "SQ", "RQ", "boundary PQ", "IoU", "iIoU", "boundary IoU"):
        by_class[key] = [row.get(key, math.nan) for row in per_class_rows(report)]
    for key in ("SQ", "RQ") if report.boundary is not None else ():
        by_class[f"boundary {key}"] = getattr(report.boundary, f"per_class_{key.lower()}")
    for tag, column, rules in (("instance", "", "coco"), ("instance_cityscapes", "Cityscapes ", "cityscapes")):
        average = InstanceAP(INFO, rules)
        for i in order:
            average.add(images[i].instance[rules])
        result = average.result()
        values[f"{tag}/AP"], values[f"{tag}/AP50"] = result.ap, result.ap50
        by_class[f"{column}AP"], by_class[f"{column}AP50"] = result.per_class_ap, result.per_class_ap50
    return values, by_class


def test_figures_of_draws_are_those_of_the_metrics(reports):
    """Drawn with repetition, images count as if they stood in the data set so often."""
    images = reports[0].images
    random = np.random.default_rng(3)
    # Detections of one score: pycocotools takes equal scores in the order of the images, so each draw is sorted.
    draws = [np.arange(12), np.zeros(12, int), *np.sort(random.integers(12, size=(8, 12)), axis=1)]
    weights = np.stack([np.bincount(draw, minlength=12) for draw in draws]).astype(float)
    ours = [CountTable.of(images, INFO).summed(weights).figures(), InstanceTables.of(images, INFO).figures(weights)]
    for row, draw in enumerate(draws):
        overall, classes = figures_of(images, draw)
        for part in ours:
            for tag, values in part.overall.items():
                np.testing.assert_allclose(values[row], overall.get(tag, math.nan), atol=1e-12, err_msg=tag)
            for column, values in part.classes.items():
                np.testing.assert_allclose(values[row], classes[column], atol=1e-12, err_msg=column)
    assert set(ours[0].overall) | set(ours[1].overall) == set(figures_of(images, draws[0])[0])


def test_equal_scores_and_images_without_anything():
    """Detections of one score, images without detections, and images without instances."""
    metric = Evaluation(INFO, instance_rules=RULES)
    for i in range(6):
        random = np.random.default_rng(i)
        truth = blocks(random, 60, 5) if i % 3 else np.zeros((60, 60), np.int32)
        prediction = predicted(random, truth, 0.5)
        scores = np.round(prediction.score * 3) / 3
        if i == 4:
            prediction = prediction._replace(panoptic=0 * truth, instance=0 * truth, semantic=0 * truth)
        metric.add(metric.count(truth, prediction._replace(score=scores), str(i)))
    images = metric.report(0).images
    tables = InstanceTables.of(images, INFO)
    for draw in ([0, 1, 2, 3, 4, 5], [0, 0, 3], [4, 4], [0, 2, 4, 5]):
        got = tables.figures(np.bincount(draw, minlength=6)[None].astype(float))
        overall, classes = figures_of(images, draw)
        assert got.overall["instance_cityscapes/AP"][0] == pytest.approx(
            overall["instance_cityscapes/AP"], abs=1e-12, nan_ok=True
        )
        for column, values in got.classes.items():
            np.testing.assert_allclose(values[0], classes[column], atol=1e-12, err_msg=f"{column} {draw}")


def test_intervals_are_those_of_slow_resampling(reports):
    before, after = reports
    found = compare(after, before, draws=40, seed=7)
    chosen = np.random.default_rng(7).integers(12, size=(40, 12))
    changes, by_class = [], []
    for order in np.sort(chosen, axis=1):
        (old, old_classes), (new, new_classes) = figures_of(before.images, order), figures_of(after.images, order)
        changes.append({tag: new[tag] - old[tag] for tag in old})
        by_class.append({c: np.subtract(new_classes[c], old_classes[c]) for c in old_classes})
    assert set(found.overall) == set(changes[0])
    for tag, difference in found.overall.items():
        low, high = np.quantile([change[tag] for change in changes], [0.025, 0.975])
        assert (difference.low, difference.high) == pytest.approx((low, high), abs=1e-12), tag
        assert difference.change == pytest.approx(difference.after - difference.before, abs=1e-15)
    assert found.overall["panoptic_quality/All/PQ"].after == pytest.approx(after.panoptic.pq, abs=1e-12)
    assert found.overall["semantic/mIoU"].before == pytest.approx(before.semantic.mean_iou, abs=1e-12)
    for column, differences in found.classes.items():
        for class_id, difference in enumerate(differences[:3]):
            drawn = np.array([change[column][class_id] for change in by_class])
            drawn = drawn[np.isfinite(drawn)]
            expected = np.quantile(drawn, [0.025, 0.975]) if drawn.size else [math.nan, math.nan]
            got = [difference.low, difference.high]
            np.testing.assert_allclose(got, expected, atol=1e-12, err_msg=f"{column} {class_id}")
        assert all(math.isnan(value) for value in differences[3])


def test_draws_do_not_depend_on_blocks(reports):
    whole = np.random.default_rng(0).integers(12, size=(250, 12))
    random = np.random.default_rng(0)
    parts = [random.integers(12, size=(rows, 12)) for rows in (100, 100, 50)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    first, again = (compare(reports[1], reports[0], draws=250) for _ in range(2))
    assert repr(first) == repr(again)


def test_identical_evaluations_differ_by_exactly_nothing(reports):
    found = compare(reports[0], reports[0], draws=100)
    for difference in found.overall.values():
        assert (difference.change, difference.low, difference.high) == (0.0, 0.0, 0.0)
        assert not difference.is_significant
    for differences in found.classes.values():
        counted = [difference for difference in differences if not math.isnan(difference.before)]
        assert {(d.change, d.low, d.high) for d in counted} == {(0.0, 0.0, 0.0)}
    assert {image.change for image in found.images} == {0.0}
    text = format_comparison(found)
    assert "greatest" not in text and "*" not in text.replace(", * leaves", "")


def test_a_known_gain_is_significant_and_noise_is_not():
    worse, better, same = evaluation(0.6, 1, 30, ()), evaluation(0.1, 2, 30, ()), evaluation(0.6, 3, 30, ())
    gain = compare(better, worse).overall["panoptic_quality/All/PQ"]
    assert gain.low > 0.2 and gain.is_significant and gain.low < gain.change < gain.high
    loss = compare(worse, better).overall["panoptic_quality/All/PQ"]
    assert loss.high < 0 and loss.is_significant
    noise = compare(same, worse).overall["panoptic_quality/All/PQ"]
    assert noise.low < 0 < noise.high and not noise.is_significant


@pytest.mark.parametrize("count", [1, FEWEST_IMAGES - 1])
def test_few_images_give_differences_but_no_intervals(count):
    found = compare(evaluation(0.2, 1, count), evaluation(0.5, 2, count))
    assert all(math.isnan(d.low) and math.isnan(d.high) and not d.is_significant for d in found.overall.values())
    assert found.overall["panoptic_quality/All/PQ"].change > 0
    assert f"no intervals: they need at least {FEWEST_IMAGES} images" in format_comparison(found)
    assert ("on 1 image;" in format_comparison(found)) == (count == 1)


def test_a_class_of_few_images_has_no_interval(reports):
    rare = np.zeros((60, 60), np.int32)
    rare[10:30, 10:30] = 3001
    metrics = [Evaluation(INFO, instance_rules=()) for _ in range(2)]
    for i in range(8):
        truth = rare if i < FEWEST_IMAGES - 1 else 0 * rare
        wrong = np.where(truth == 3001, 0, truth)
        for metric, panoptic in zip(metrics, (wrong, truth), strict=True):
            metric.add(metric.count(truth, ImagePrediction(panoptic // 1000, panoptic), str(i)))
    found = compare(metrics[1].report(1), metrics[0].report(0))
    assert found.classes["PQ"][3].change == 1.0
    assert math.isnan(found.classes["PQ"][3].low)
    assert not math.isnan(found.classes["PQ"][0].low)


def test_images_are_ordered_by_their_change_and_only_common_ones_count(reports):
    before, after = reports
    fewer = dataclasses.replace(before, images=before.images[2:])
    found = compare(dataclasses.replace(after, images=after.images[:-1]), fewer)
    assert (found.num_images, found.left_out) == (9, ("00.png", "01.png", "11.png"))
    assert [image.change for image in found.images] == sorted(image.change for image in found.images)
    one = Evaluation(INFO, instance_rules=RULES)
    one.add(after.images[5])
    image = next(image for image in found.images if image.name == "05.png")
    assert image.after == pytest.approx(one.report(0).panoptic.pq, abs=1e-12)
    text = format_comparison(found)
    assert "3 images are in one of the two alone and left out: 00.png, 01.png, 11.png" in text
    assert "greatest losses in PQ" in text and "greatest gains in PQ" in text


def test_metrics_that_one_of_the_two_lacks_are_left_out(reports):
    semantic = dataclasses.replace(
        reports[0], images=tuple(ImageCounts(image.name, semantic=image.semantic) for image in reports[0].images)
    )
    found = compare(reports[1], semantic, draws=20)
    assert set(found.overall) == {"semantic/mIoU", "semantic/category_mIoU", "semantic/pixel_accuracy"}
    assert found.image_figure == "mIoU"
    assert set(found.classes) == {"IoU"}


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_compared_is_named(reports):
    before, after = reports
    other = dataclasses.replace(INFO, label_divisor=256)
    assert message_of(lambda: compare(after, dataclasses.replace(before, info=other))) == (
        "--baseline: of another label space: label_divisor is 256 of 'street' and 1000 of 'street'"
    )
    stuff = (*INFO.classes[:1], dataclasses.replace(INFO.classes[1], isthing=False), *INFO.classes[2:])
    assert label_space_difference(INFO, dataclasses.replace(INFO, name="b", classes=stuff)) == (
        "class 1 is thing 'car' of 'street' and stuff 'car' of 'b'"
    )
    assert label_space_difference(INFO, dataclasses.replace(INFO, name="another")) is None
    elsewhere = tuple(image._replace(name=f"x{image.name}") for image in before.images)
    assert message_of(lambda: compare(after, dataclasses.replace(before, images=elsewhere))) == (
        "--baseline: no image in common; it has 12 images (x00.png, x01.png, ...), "
        "the evaluation has 12 images (00.png, 01.png, ...)"
    )


def test_files_bring_an_evaluation_back(reports, tmp_path):
    before, after = reports
    write_json(before, tmp_path / "metrics.json")
    write_images(before, tmp_path)
    read = read_evaluation(tmp_path)
    assert (read.step, read.num_images) == (before.step, 12)
    direct, from_files = compare(after, before, draws=50), compare(after, read, draws=50)
    assert repr(direct.overall) == repr(from_files.overall)
    assert repr(direct.images) == repr(from_files.images)
    model_dir = tmp_path / "model"
    (model_dir / "evaluation").mkdir(parents=True)
    for path in list(tmp_path.glob("*.*")):
        path.rename(model_dir / "evaluation" / path.name)
    assert read_evaluation(model_dir).num_images == 12
    assert message_of(lambda: read_evaluation(tmp_path)) == (
        f"{tmp_path}: no metrics.json here; expected a folder that 'deeplab2-lite evaluate' wrote"
    )
    images = model_dir / "evaluation" / "images.jsonl"
    images.write_text(images.read_text() + '{"name": "x", "panoptic": {"99": [1, 0, 0, 0, 0]}}\n')
    assert message_of(lambda: read_evaluation(model_dir)).startswith(f"{images} line 13: no counts of an image")


def test_json_and_table_say_the_same(reports, tmp_path):
    found = compare(reports[1], reports[0], draws=50)
    content = json.loads(write_comparison(found, tmp_path / "comparison.json").read_text())
    assert content["overall"]["semantic/mIoU"]["change"] == found.overall["semantic/mIoU"].change
    assert content["classes"][1]["name"] == "car"
    assert content["classes"][3]["PQ"]["change"] is None
    assert [image["name"] for image in content["images"]] == [image.name for image in found.images]
    change = found.overall["semantic/mIoU"]
    line = next(line for line in format_comparison(found).splitlines() if line.startswith("semantic/mIoU"))
    assert line.split()[1:5] == [
        f"{100 * change.before:.1f}",
        f"{100 * change.after:.1f}",
        f"{100 * change.change:+.1f}",
        f"{100 * change.low:+.1f}",
    ]


def test_the_table_of_images_has_the_worst_first(reports, tmp_path):
    write_images(reports[0], tmp_path)
    rows = [line.split(",") for line in (tmp_path / "images.csv").read_text().splitlines()]
    assert rows[0][:4] == ["image", "PQ", "SQ", "RQ"]
    values = [float(row[1]) for row in rows[1:]]
    assert values == sorted(values) and len(values) == 12
    first = next(image for image in reports[0].images if image.name == rows[1][0])
    assert [int(value) for value in rows[1][-3:]] == [int(getattr(first.panoptic, k).sum()) for k in ("tp", "fp", "fn")]
