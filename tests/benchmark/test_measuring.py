"""The benchmark: stages that do as `infer`, and times by a clock that the test turns."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.benchmark import measuring as benchmarks
from deeplab2_lite.benchmark.machine import describe_machine, peak_bytes
from deeplab2_lite.benchmark.measuring import benchmark_experiment, benchmark_model
from deeplab2_lite.benchmark.report import format_benchmark, to_csv
from deeplab2_lite.benchmark.scene import draw_heads
from deeplab2_lite.benchmark.stages import END_TO_END, INSTANCES, PART_OF_STAGE, InferenceStages, split_network
from deeplab2_lite.benchmark.timing import Timing, measure
from deeplab2_lite.config_loading import load_config, save_config
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, load_dataset_info
from deeplab2_lite.inference import InferenceSettings, infer, inference_function, result_tensors
from deeplab2_lite.loading import TrainedModel
from deeplab2_lite.model import build_model
from deeplab2_lite.postprocessing import Heads, InstanceTable, PanopticResult, Upsampling

from .fakes import MACHINE, fake_benchmark, message_of

EXPERIMENT = "shapes/mobilenet_v3_small"
CONFIG = load_config(EXPERIMENT)
INFO = load_dataset_info("shapes")
SETTINGS = InferenceSettings.from_config(CONFIG, INFO)
# Not of the form 16 k + 1, so that padding takes part.
SIZE = (60, 91)
HEAD_SIZE = (17, 25)


@pytest.fixture(scope="module")
def small_network():
    """A network of four layers, in whose place any other could be."""
    images = keras.Input((None, None, 3), name="images")
    features = keras.layers.Conv2D(4, 4, strides=4, padding="same", activation="tanh", name="backbone/conv")(images)
    channels = {"semantic_logits": INFO.num_classes, "center_heatmap": 1, "center_offset": 2}
    return keras.Model(images, {n: keras.layers.Conv2D(c, 1, name=n)(features) for n, c in channels.items()})


def unwatched(name, function, *arguments):
    return function(*arguments)


def pixels(batch=1, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, *size, 3), np.uint8)


# ---- the drawn scene


def drawn(instances, size=SIZE, head_size=HEAD_SIZE, info=INFO, nms_kernel=7, threshold=0.1, seed=0, stride=4):
    heads = draw_heads(info, head_size, size, instances, nms_kernel, threshold, seed, stride)
    return Heads(*(tf.constant(head[np.newaxis]) for head in heads))


@pytest.mark.parametrize(
    ("instances", "size", "nms_kernel", "threshold", "stride"),
    [
        (0, (60, 91), 7, 0.1, 4),
        (1, (60, 91), 7, 0.1, 4),
        (9, (60, 91), 7, 0.9, 4),
        (9, (60, 91), 7, 0.9, 2),
        (200, (253, 509), 7, 0.1, 4),
        (200, (253, 509), 7, 0.1, 2),
        (12, (253, 509), 41, 0, 4),
    ],
)
def test_a_drawn_scene_has_just_so_many_instances(instances, size, nms_kernel, threshold, stride):
    head_size = tuple(-(-(side - 1) // 16) * 16 // stride + 1 for side in size)
    heads = drawn(instances, size, head_size, nms_kernel=nms_kernel, threshold=threshold, seed=instances, stride=stride)
    assert [head.shape[1:] for head in heads] == [(*head_size, 9), (*head_size, 1), (*head_size, 2)]
    assert {head.dtype for head in heads} == {tf.float32}
    settings = SETTINGS._replace(nms_kernel=nms_kernel, center_threshold=threshold)
    result = settings.merge(heads, Upsampling(*(stride * (side - 1) + 1 for side in head_size), *size))
    assert np.count_nonzero(result.instances.valid) == instances
    things = np.isin(result.semantic, INFO.thing_ids).mean()
    assert things < 0.3 and (instances == 0) == (things == 0)
    assert len(np.unique(result.semantic[~np.isin(result.semantic, INFO.thing_ids)])) >= 4


def test_a_scene_follows_from_its_seed():
    first, same, other = (drawn(5, seed=seed).semantic_logits.numpy() for seed in (1, 1, 2))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_a_label_space_of_things_alone_has_a_scene_too():
    cells = DatasetInfo("cells", (ClassInfo("cell", True, (1, 2, 3), 0),))
    assert drawn(3, info=cells).semantic_logits.shape[-1] == 1


def test_scenes_that_there_are_not():
    assert message_of(lambda: drawn(100)) == (
        "--instances: an image of this size has room for 10 centres of which none hides another "
        "(postprocessing.nms_kernel); got 100"
    )
    sky = DatasetInfo("sky", (ClassInfo("sky", False, (1, 2, 3), 0),))
    assert message_of(lambda: drawn(1, info=sky)) == "--instances: label space 'sky' has no things; expected 0, got 1"
    assert drawn(0, info=sky).semantic_logits.shape[-1] == 1


# ---- stages


def test_both_halves_make_the_network():
    network = build_model(CONFIG)
    backbone, decoder = split_network(network)
    images = tf.constant(pixels(2, (49, 65)), tf.float32)
    expected, found = network(images), decoder(backbone(images))
    for name, head in expected.items():
        np.testing.assert_array_equal(found[name], head)
    kinds = [
        {layer.name.startswith("backbone/") for layer in half.layers if layer.weights} for half in (backbone, decoder)
    ]
    assert kinds == [{True}, {False}]


@pytest.mark.parametrize(("longest_side", "xla"), [(None, False), (45, False), (None, True), (45, True)])
def test_stages_on_drawn_heads_do_as_infer(small_network, longest_side, xla):
    settings = SETTINGS._replace(longest_side=longest_side, stuff_area_limit=30)
    seen, head_size = ((60, 91), (17, 25)) if longest_side is None else ((30, 45), (9, 13))
    heads = Heads(
        *(tf.concat(parts, 0) for parts in zip(*(drawn(2, seen, head_size, seed=s) for s in (0, 1)), strict=True))
    )
    images = tf.constant(pixels(2))
    stages = InferenceStages(small_network, settings, xla)
    seen_stages = []

    def watch(name, function, *arguments):
        seen_stages.append(name)
        return function(*arguments)

    result = stages.run(images, watch, heads)
    assert seen_stages == [
        name for name in [*PART_OF_STAGE, INSTANCES, END_TO_END] if name != "resizing" or longest_side is not None
    ]
    expected = infer(lambda padded, training: heads, images, settings)
    assert result.panoptic.shape == (2, *SIZE)
    for panoptic in (result.panoptic, result.end_to_end):
        np.testing.assert_array_equal(panoptic, expected.result.panoptic)
    for name, column in expected.result.instances._asdict().items():
        np.testing.assert_array_equal(getattr(result.instances, name), column, err_msg=name)
    assert np.count_nonzero(result.instances.valid) == 4
    np.testing.assert_allclose(result.instance_scores, expected.instance_scores, rtol=1e-5)
    # The network is part of the one function: told so while it runs, that takes its heads instead.
    own = stages._infer_drawn(images, heads, tf.constant(False))
    assert np.mean(own == stages._infer(images)) > 0.999
    assert not np.array_equal(own, result.end_to_end)


@pytest.mark.parametrize("percentiles", [None, (10.0, 90.0)])
def test_stages_of_a_network_do_as_the_one_function(small_network, percentiles):
    # Random weights give a heatmap round 0: a low threshold makes centres of its waves.
    settings = SETTINGS._replace(center_threshold=-1.0, stuff_area_limit=30, intensity_percentiles=percentiles)
    stages, whole = InferenceStages(small_network, settings), inference_function(small_network, settings)
    for size in ((60, 91), (33, 40), (50, 20)):
        images = tf.constant(pixels(1, size))
        result, (expected, scores) = stages.run(images, unwatched), whole(images)
        assert len(np.unique(expected.panoptic)) > 3
        for panoptic in (result.panoptic, result.end_to_end):
            assert np.mean(panoptic == expected.panoptic) > 0.999
        assert np.mean(result.instances.valid == expected.instances.valid) > 0.98
        np.testing.assert_allclose(np.sort(result.instance_scores), np.sort(scores), atol=1e-2)


# ---- the clock


class FakeTime:
    """A clock that stands still but where a stage is computed."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def stage(self, durations):
        """Returns a function that takes so long, one duration a call."""
        remaining = iter(durations)

        def compute():
            self.now += next(remaining)
            return tf.constant([[[3000, 1001, 1002, 1002]], [[255000, 2001, 5000, 5000]]])

        return compute


def test_runs_before_those_that_count_do_not():
    clock = FakeTime()
    # Compilation, the run for memory, and then five.
    decode = clock.stage([100, 100, 1, 5, 2, 4, 3])
    merge = clock.stage([100, 100, 0.5, 0.5, 0.5, 2.5, 0.5])
    whole = clock.stage([100, 100, 9, 9, 9, 9, 1])

    def run_round(watch):
        watch("merging", decode)
        watch("grouping", merge)
        clock.now += 50
        return watch(END_TO_END, whole)

    measured = measure([run_round], 1000, 5, clock)
    assert [stage.name for stage in measured.stages] == ["merging", "grouping"]
    assert measured.stages[0].seconds == pytest.approx((1, 5, 2, 4, 3))
    assert measured.stages[0].median == pytest.approx(3)
    assert measured.stages[0].quartiles == pytest.approx((2, 4))
    assert measured.end_to_end.seconds == pytest.approx((9, 9, 9, 9, 1))
    # Two in the first image, one in the second; 3000 and 5000 are stuff, 255000 void.
    assert measured.instances == 1.5
    found = fake_benchmark(stages=measured.stages)
    assert found.total("sum").seconds == pytest.approx((1.5, 5.5, 2.5, 6.5, 3.5))
    assert found.total("sum").median == pytest.approx(3.5)


def test_several_images_share_a_row():
    clock = FakeTime()
    computations = [clock.stage([9, 9, seconds]) for seconds in (1, 2, 6)]
    rounds = [lambda watch, compute=compute: watch(END_TO_END, compute) for compute in computations]
    measured = measure(rounds, 1000, 1, clock)
    assert measured.stages == ()
    assert measured.end_to_end.seconds == pytest.approx((1, 2, 6))
    assert message_of(lambda: measure([], 1000, 1, clock)) == "images: expected at least one"


def test_peak_memory_is_over_what_is_in_use():
    kept = [tf.ones([2**20])]

    def compute():
        # The square of 4 MiB is given up for its sum.
        kept.append(tf.reduce_sum(tf.square(kept[0])))

    compute()
    peak = peak_bytes(compute)
    assert peak is None or 2**22 <= peak < 2**23


def test_the_machine_is_named():
    machine = describe_machine()
    assert machine.kind == "CPU" and machine.device and machine.cores >= 1 and machine.threads >= 1
    assert str(machine).startswith(machine.device) and f"TensorFlow {tf.__version__}" in str(machine)


# ---- an experiment


@pytest.fixture(scope="module")
def measured(small_network):
    """One experiment, by a clock that goes on by 1 s each time it is read."""
    ticks = iter(range(10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "build_model", lambda config, num_classes: small_network)
        return benchmark_experiment(
            CONFIG, SIZE, batch_size=2, instances=3, runs=2, clock=lambda: float(next(ticks)), info=INFO
        )


def test_an_experiment_is_measured_by_stage(measured):
    assert [stage.name for stage in measured.stages] == [
        *[name for name in PART_OF_STAGE if name != "resizing"],
        INSTANCES,
    ]
    assert {stage.seconds for stage in measured.stages} == {(1.0, 1.0)}
    assert measured.end_to_end == Timing(END_TO_END, (1.0, 1.0), measured.end_to_end.peak_bytes)
    assert measured.total("sum").seconds == (7.0, 7.0)
    assert measured.total("post-processing", "post-processing").seconds == (4.0, 4.0)
    assert measured.total("network", "network").seconds == (2.0, 2.0)
    assert measured.seconds_per_image == 0.5
    assert (measured.name, measured.data_set, measured.backbone) == (EXPERIMENT, "shapes", "mobilenet_v3_small")
    assert (measured.image_sizes, measured.batch_size, measured.precision) == ((SIZE,), 2, "float32")
    assert (measured.drawn_instances, measured.found_instances, measured.published) == (3, 3.0, None)


def test_heads_at_stride_2_are_measured():
    branch = "{aspp_channels: 16, decoder_channels: 16, head_channels: 16, projection_channels: [8, 8, 4]}"
    config = load_config(
        EXPERIMENT, f"model.decoder.skip_strides=[8,4,2],model.semantic={branch},model.instance={branch}"
    )
    found = benchmark_experiment(config, SIZE, instances=3, runs=1)
    assert (found.drawn_instances, found.found_instances) == (3, 3.0)


def test_experiments_that_cannot_be_measured():
    semantic = load_config(EXPERIMENT, "model.tasks=semantic")
    assert message_of(lambda: benchmark_experiment(semantic)) == (
        "model.tasks: 'semantic' gives no panoptic map; expected panoptic"
    )
    assert message_of(lambda: benchmark_experiment(CONFIG, instances=201)) == (
        "--instances: expected at most postprocessing.top_k, 200, got 201"
    )


def test_images_are_resized_to_the_size_that_was_asked_for(monkeypatch):
    seen = []

    class Stages:
        def __init__(self, network, settings, xla):
            seen.append(settings.longest_side)

        def run(self, images, watch, drawn):
            seen.append((images.shape[1:3], drawn.center_heatmap.shape[1:3]))
            raise KeyboardInterrupt

    monkeypatch.setattr(benchmarks, "InferenceStages", Stages)
    monkeypatch.setattr(benchmarks, "build_model", lambda config, num_classes: None)
    config = load_config("coco/mobilenet_v3_large")
    for size in (None, (65, 100)):
        with pytest.raises(KeyboardInterrupt):
            benchmark_experiment(config, size, instances=2)
    assert seen == [641, ((641, 641), (161, 161)), 100, ((65, 100), (17, 29))]


# ---- a trained model


def test_a_trained_model_is_measured_on_images(small_network, monkeypatch):
    trained = TrainedModel(small_network, CONFIG, INFO, 1)
    monkeypatch.setattr(benchmarks, "load_model_dir", {Path("runs/x"): trained}.get)
    images = [pixels(size=size)[0] for size in ((60, 91), (33, 40))]
    found = benchmark_model("runs/x", iter(images), runs=2)
    assert (found.image_sizes, found.batch_size, found.drawn_instances) == (((60, 91), (33, 40)), 1, None)
    assert (found.name, found.data_set, found.backbone) == ("runs/x", "shapes", "mobilenet_v3_small")
    assert {len(stage.seconds) for stage in (*found.stages, found.end_to_end)} == {4}
    assert all(seconds > 0 for stage in (*found.stages, found.end_to_end) for seconds in stage.seconds)
    text = format_benchmark(found)
    assert text.startswith("runs/x: 33 x 40 to 60 x 91, 2 images, 2 runs\n")
    assert "random" not in text


def test_a_model_of_one_task_gives_no_panoptic_map(small_network, monkeypatch):
    trained = TrainedModel(small_network, load_config(EXPERIMENT, "model.tasks=semantic"), INFO, 1)
    monkeypatch.setattr(benchmarks, "load_model_dir", lambda path: trained)
    assert message_of(lambda: benchmark_model("runs/x", [])) == (
        "runs/x: model.tasks 'semantic' gives no panoptic map; expected panoptic"
    )


class ServedModule(tf.Module):
    """Gives for each image the instances that its red says; as an export of a trained network would."""

    def __init__(self, files):
        super().__init__()
        self.files = [tf.saved_model.Asset(str(file)) for file in files]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def serve(self, images):
        panoptic = tf.cast(images[..., 0], tf.int32) + 6000
        table = InstanceTable(*(tf.zeros([1, 4], tf.int32) for _ in InstanceTable._fields))
        return result_tensors(PanopticResult(panoptic, panoptic, panoptic, table), tf.zeros([1, 4]))


def test_a_saved_model_is_measured_as_a_whole(tmp_path):
    module = ServedModule([save_config(CONFIG, tmp_path / "config.yaml"), INFO.save(tmp_path)])
    tf.saved_model.save(module, str(tmp_path / "export"), signatures={"serving_default": module.serve})
    image = np.zeros((5, 7, 3), np.uint8)
    image[:2], image[3:, 4:] = 1, 9
    found = benchmark_model(tmp_path / "export", [image], runs=3)
    assert found.stages == () and len(found.end_to_end.seconds) == 3 and found.found_instances == 2
    assert (found.data_set, found.backbone, found.precision) == ("shapes", "mobilenet_v3_small", "float32")
    lines = format_benchmark(found).splitlines()
    assert lines[2].startswith("A SavedModel is one graph") and len(lines) == 7
    assert [row[8] for row in csv.reader(io.StringIO(to_csv([found], MACHINE)))] == ["stage", END_TO_END]
    assert message_of(lambda: benchmark_model(tmp_path / "export", [image], xla=True)) == (
        f"--xla: {tmp_path / 'export'}: a SavedModel's graph is made for TensorFlow itself; expected a model folder"
    )


def test_what_is_no_model(tmp_path):
    assert message_of(lambda: benchmark_model(tmp_path, [])).startswith(f"{tmp_path}: neither a model folder")
