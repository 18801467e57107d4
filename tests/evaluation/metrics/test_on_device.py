"""Confusion counted on the device is that of the host, and the evaluator in training may rely on it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import deeplab2_lite as dl
from deeplab2_lite.config import ShapesConfig
from deeplab2_lite.data import shapes
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation import MeanIoU
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.metrics.on_device import confusion_on_device
from deeplab2_lite.trainer.evaluation_runs import evaluate
from deeplab2_lite.trainer.evaluator import PanopticEvaluator
from deeplab2_lite.trainer.experiment import Experiment

INFO = DatasetInfo(
    "five", tuple(ClassInfo(f"{i}", i > 2, (i, i, i), i) for i in range(5)), ignore_label=9, label_divisor=10
)
SIZE = (190, 181)  # more than one block of pixels, none of them full


def drawn_batch(seed, images=3):
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 30, 31, 40, 90, 93], size=(images, *SIZE)).astype(np.int32)
    prediction = rng.choice([0, 1, 2, 3, 4, 9], size=truth.shape).astype(np.int32)
    truth[1], prediction[2] = INFO.void_id, INFO.ignore_label
    return truth, prediction


def host_counts(truth, prediction):
    metric = MeanIoU(INFO)
    metric.update(truth // INFO.label_divisor, prediction)
    return metric.result()


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("by_products", [False, True])
def test_counts_equal_those_of_the_host(by_products, jit_compile):
    def count(truth, prediction):
        return confusion_on_device(truth, prediction, INFO, by_products=by_products)

    shape = drawn_batch(0)[0].shape if jit_compile else (None, None, None)
    function = tf.function(count, [tf.TensorSpec(shape, tf.int32)] * 2, jit_compile=jit_compile)
    for seed in range(2):
        truth, prediction = drawn_batch(seed)
        counts = function(truth, prediction).numpy()
        assert counts.dtype == np.int32 and counts.shape == (3, 6, 6)
        metric = MeanIoU(INFO)
        for i in range(3):
            expected = host_counts(truth[i], prediction[i]).confusion
            np.testing.assert_array_equal(counts[i, :-1], expected)
            metric.add(metric.count_matrix(counts[i]))
        whole = host_counts(truth, prediction)
        np.testing.assert_array_equal(metric.result().confusion, whole.confusion)
        assert metric.result().mean_iou == whole.mean_iou
        assert counts[1].sum() == 0 and counts[2, :, :-1].sum() == 0


@pytest.mark.parametrize("by_products", [False, True])
def test_what_is_no_class_is_void_in_the_prediction_and_refused_in_the_truth(by_products):
    truth = np.array([[[0, 0, 0, 72, -10, 90]]], np.int32)
    prediction = np.array([[[0, 7, -3, 0, 0, 0]]], np.int32)
    counts = confusion_on_device(tf.constant(truth), tf.constant(prediction), INFO, by_products=by_products).numpy()[0]
    assert counts[0].tolist() == [1, 0, 0, 0, 0, 2]
    assert counts[-1].tolist() == [2, 0, 0, 0, 0, 0] and counts.sum() == 5
    with pytest.raises(UserError, match=r"truth: 2 pixels are of an unknown class; expected 0\.\.4 or 9"):
        MeanIoU(INFO).count_matrix(counts)


def test_an_evaluation_takes_the_matrix_for_the_map():
    truth, semantic = drawn_batch(4, images=3)
    reports = []
    for on_device in (False, True):
        evaluation = Evaluation(INFO)
        for i in range(3):
            counts = confusion_on_device(truth[i : i + 1], semantic[i : i + 1], INFO).numpy()[0]
            panoptic = semantic[i] * INFO.label_divisor
            prediction = ImagePrediction(None, panoptic, confusion=counts)
            if not on_device:
                prediction = ImagePrediction(semantic[i], panoptic)
            evaluation.add(evaluation.count(truth[i], prediction, f"{i}"))
        reports.append(evaluation.report(0))
    for ours, theirs in zip(*(report.images for report in reports), strict=True):
        assert ours.to_json() == theirs.to_json()
    assert reports[0].semantic.mean_iou == reports[1].semantic.mean_iou > 0


def test_a_panoptic_map_alone_gives_its_classes():
    truth, semantic = drawn_batch(5, images=3)
    panoptic = semantic * INFO.label_divisor + 3
    for boundary in (False, True):
        evaluation = Evaluation(INFO, boundary=boundary)
        alone = evaluation.count(truth[0], ImagePrediction(None, panoptic[0]))
        both = evaluation.count(truth[0], ImagePrediction(semantic[0], panoptic[0]))
        assert alone.to_json() == both.to_json()
        assert ("boundary_iou" in alone.to_json()) == boundary


# A small network on small scenes, as the tests of the trainer have it.
SMALL = (
    "data.crop_size=[65,97],train.optimizer.warmup_steps=0,runtime.strategy=one_device,evaluation.pictures=0,"
    "model.semantic.aspp_channels=8,model.semantic.decoder_channels=8,model.semantic.head_channels=8,"
    "model.instance.aspp_channels=8,model.instance.decoder_channels=8,model.instance.head_channels=8"
)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    shape = ShapesConfig(train_images=1, val_images=3, height=65, width=97)
    return shapes.build(tmp_path_factory.mktemp("records"), shape).parent


@pytest.mark.parametrize("tasks", ["panoptic", "semantic"])
def test_the_evaluator_in_training_reads_no_map_it_does_not_need(records, tmp_path, monkeypatch, tasks):
    override = f"data.shapes=null,data.dir={records},model.tasks={tasks},{SMALL}"
    experiment = Experiment(dl.load_config("shapes/mobilenet_v3_small", override), tmp_path, training=True)
    experiment.save()
    experiment.store.close()
    seen, batches = [], PanopticEvaluator._batches

    def remember(self, step, limit):
        for batch, outputs in batches(self, step, limit):
            seen.append((batch, set(outputs)))
            yield batch, outputs

    monkeypatch.setattr(PanopticEvaluator, "_batches", remember)
    metrics = []
    for needs_maps in (False, True):
        monkeypatch.setattr(Evaluation, "needs_semantic_maps", property(lambda self, value=needs_maps: value))
        evaluate(experiment)
        metrics.append(json.loads((tmp_path / "metrics.json").read_text()))
    assert metrics[0] == metrics[1] and metrics[0]["num_images"] == 3
    (small, names), (large, other_names) = seen[0], seen[-1]
    assert "confusion" in names and "semantic" not in names
    assert "semantic" in other_names and "confusion" not in other_names
    assert isinstance(small.image, tuple) == (tasks == "semantic")
    assert not isinstance(large.image, tuple)


TWO_REPLICAS = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.evaluation.metrics.on_device import confusion_on_device
info = DatasetInfo("x", tuple(ClassInfo(str(i), False, (0, 0, 0), i) for i in range(5)), ignore_label=9)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
maps = [tf.constant(rng.choice([0, 1, 2, 3, 4, 9], size=(4, 30, 40)).astype(np.int32)) for _ in range(2)]
dataset = strategy.experimental_distribute_dataset(
    tf.data.Dataset.from_tensor_slices((maps[0] * info.label_divisor, maps[1])).batch(4)
)
@tf.function
def count(truth, prediction):
    replicas = strategy.run(
        lambda t, p: tf.reduce_sum(confusion_on_device(t, p, info), axis=0), args=(truth, prediction)
    )
    return strategy.reduce(tf.distribute.ReduceOp.SUM, replicas, axis=None)
[total] = [count(*batch) for batch in dataset]
whole = confusion_on_device(maps[0] * info.label_divisor, maps[1], info)
assert strategy.num_replicas_in_sync == 2
np.testing.assert_array_equal(total, tf.reduce_sum(whole, axis=0))
print(int(tf.reduce_sum(total)))
"""


def test_replicas_reduce_to_the_whole():
    done = subprocess.run([sys.executable, "-c", TWO_REPLICAS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 3500 < int(done.stdout) < 4500
