"""The training input: order, restarts, division over pipelines, cache, messages."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import AugmentationConfig, DataConfig, ExperimentConfig, PhotometricConfig, TrainConfig
from deeplab2_lite.data.augment import augment
from deeplab2_lite.data.ordering import record_at
from deeplab2_lite.data.pipeline import TrainingBatch, training_dataset
from deeplab2_lite.data.record_format import encode_png
from deeplab2_lite.data.record_index import open_records, reading_error, record_names
from deeplab2_lite.data.records import make_record
from deeplab2_lite.data.targets import make_targets
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError

INFO = DatasetInfo("test", (ClassInfo("road", False, (1, 1, 1), 0), ClassInfo("car", True, (2, 2, 2), 1)))
CONFIG = ExperimentConfig(
    data=DataConfig(
        crop_size=(33, 49),
        augmentation=AugmentationConfig(photometric=PhotometricConfig(brightness=0.1)),
    ),
    train=TrainConfig(batch_size=4, seed=3),
)
NUM_RECORDS = 11


def example(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image full of noise, of a size of its own, and a label with two cars."""
    generator = np.random.default_rng(number)
    height, width = 30 + number, 60 - number
    panoptic = np.zeros((height, width), np.int32)
    panoptic[5:12, 8:20], panoptic[15:25, 3:30] = 1001, 1002
    return generator.integers(0, 256, (height, width, 3)).astype(np.uint8), panoptic


def write_shards(folder, records, shards=3, split="train"):
    for shard, numbers in enumerate(np.array_split(np.arange(len(records)), shards)):
        with tf.io.TFRecordWriter(str(folder / f"{split}-{shard:05d}-of-{shards:05d}.tfrecord")) as writer:
            for number in numbers:
                writer.write(records[number])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    examples = [example(i) for i in range(NUM_RECORDS)]
    write_shards(folder, [make_record(encode_png(x), "png", f"image_{i}.png", y) for i, (x, y) in enumerate(examples)])
    return open_records(folder, "train")


def batches(dataset, count):
    return list(itertools.islice(dataset, count))


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
            np.testing.assert_array_equal(x, y)


def test_types_and_static_shapes(index):
    spec = training_dataset(CONFIG, INFO, index).element_spec
    assert isinstance(spec, TrainingBatch)
    assert spec.image == tf.TensorSpec([4, 33, 49, 3], tf.float32)
    assert spec.record == tf.TensorSpec([4], tf.int64)
    assert spec.targets.semantic == tf.TensorSpec([4, 33, 49], tf.int32)
    assert spec.targets.center_offset == tf.TensorSpec([4, 33, 49, 2], tf.float32)
    for name in ("semantic_weight", "center_heatmap", "center_weight", "offset_weight"):
        assert getattr(spec.targets, name) == tf.TensorSpec([4, 33, 49], tf.float32)


def test_each_example_is_its_record_augmented_at_its_position(index):
    for step, batch in enumerate(batches(training_dataset(CONFIG, INFO, index), 4)):
        for i, record in enumerate(batch.record.numpy()):
            position = step * 4 + i
            assert record == record_at(tf.constant(position, tf.int64), NUM_RECORDS, 3).numpy()
            image, panoptic = (tf.constant(a) for a in example(int(record)))
            expected = augment(image, panoptic, tf.constant([3, position], tf.int64), CONFIG.data, INFO.void_id)
            np.testing.assert_allclose(batch.image[i], expected.image, atol=1e-3)
            targets = make_targets(expected.panoptic, INFO, CONFIG.targets)
            for got, wanted in zip(batch.targets, targets, strict=True):
                np.testing.assert_allclose(got[i], wanted, atol=1e-6)


def test_every_epoch_visits_each_record_once_in_another_order(index):
    config = dataclasses.replace(CONFIG, train=TrainConfig(batch_size=NUM_RECORDS, seed=3))
    epochs = [b.record.numpy() for b in batches(training_dataset(config, INFO, index), 5)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_RECORDS))
    assert len({tuple(epoch) for epoch in epochs}) == 5
    other_seed = dataclasses.replace(CONFIG, train=TrainConfig(batch_size=NUM_RECORDS, seed=4))
    assert tuple(epochs[0]) != tuple(next(iter(training_dataset(other_seed, INFO, index))).record.numpy())


@pytest.mark.parametrize("num_records", [1, 2, 1000])
def test_order_of_any_number_of_records(num_records):
    places = tf.data.Dataset.range(3 * num_records).map(lambda p: record_at(p, num_records, 0))
    order = np.array(list(places.as_numpy_iterator())).reshape(3, num_records)
    np.testing.assert_array_equal(np.sort(order, axis=1), [np.arange(num_records)] * 3)
    if num_records == 1000:
        # Neighbours are far apart, as in a shuffle: a third of the range on average.
        distance = np.abs(np.diff(order, axis=1)).mean(axis=1)
        assert (np.abs(distance - 333) < 50).all()


@pytest.mark.parametrize("start", [1, 2, 7])
def test_a_restart_gives_the_same_batches(index, start):
    uninterrupted = batches(training_dataset(CONFIG, INFO, index), start + 3)
    resumed = batches(training_dataset(CONFIG, INFO, index, start_step=start), 3)
    assert_equal_batches(uninterrupted[start:], resumed)


def test_cache_changes_nothing(index):
    cached = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, cache=True))
    plain = batches(training_dataset(CONFIG, INFO, index), 4)
    assert_equal_batches(plain, batches(training_dataset(cached, INFO, index), 4))


def test_cache_holds_the_records_in_memory(tmp_path):
    records = [make_record(encode_png(x), "png", "a.png", y) for x, y in map(example, range(3))]
    write_shards(tmp_path, records, shards=1)
    cached = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, cache=True))
    dataset = training_dataset(cached, INFO, open_records(tmp_path, "train"))
    (tmp_path / "train-00000-of-00001.tfrecord").unlink()
    assert len(batches(dataset, 2)) == 2


@pytest.mark.parametrize(("pipelines", "replicas"), [(1, 2), (2, 2), (2, 4)])
@pytest.mark.parametrize("start", [0, 3])
def test_division_over_pipelines_and_replicas(index, pipelines, replicas, start):
    """All replicas of all pipelines together see, in order, the batch of one device."""
    whole = batches(training_dataset(CONFIG, INFO, index, start), 3)
    local = replicas // pipelines
    parts = []
    for pipeline in range(pipelines):
        context = tf.distribute.InputContext(pipelines, pipeline, replicas)
        parts.append(batches(training_dataset(CONFIG, INFO, index, start, context), 3 * local))
    for step, expected in enumerate(whole):
        pieces = [part[step * local + r] for part in parts for r in range(local)]
        joined = tf.nest.map_structure(lambda *tensors: tf.concat(tensors, axis=0), *pieces)
        assert_equal_batches([expected], [joined])


def test_mirrored_replicas_share_each_batch(index):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    dataset = strategy.distribute_datasets_from_function(
        lambda context: training_dataset(CONFIG, INFO, index, 2, context)
    )
    assert_equal_batches(batches(training_dataset(CONFIG, INFO, index, 2), 2), batches(dataset, 2))


def test_batch_that_cannot_be_divided(index):
    with pytest.raises(UserError, match=r"train\.batch_size: expected a multiple of the 3 replicas, got 4"):
        training_dataset(CONFIG, INFO, index, context=tf.distribute.InputContext(1, 0, 3))


def test_record_names(index):
    # 11 records in 3 shards: 4, 4, 3.
    assert record_names(index, np.array([0, 5, 10], np.int64)) == [
        "train-00000-of-00003.tfrecord record 0 (image_0.png)",
        "train-00001-of-00003.tfrecord record 1 (image_5.png)",
        "train-00002-of-00003.tfrecord record 2 (image_10.png)",
    ]


def _damage_class(records):
    image, panoptic = example(1)
    panoptic[3, 3] = 2000
    records[1] = make_record(encode_png(image), "png", "bad.png", panoptic)


def _damage_image(records):
    records[1] = make_record(encode_png(example(1)[0])[:500], "png", "bad.png", example(1)[1])


@pytest.mark.parametrize(("damage", "expected"), [(_damage_class, r"bad\.png.*2000"), (_damage_image, "record")])
@pytest.mark.parametrize("distributed", [False, True])
def test_faulty_record_becomes_one_line(tmp_path, damage, expected, distributed):
    records = [make_record(encode_png(x), "png", "good.png", y) for x, y in map(example, range(3))]
    damage(records)
    write_shards(tmp_path, records, shards=1)
    index = open_records(tmp_path, "train")
    dataset = training_dataset(CONFIG, INFO, index)
    if distributed:
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        dataset = strategy.distribute_datasets_from_function(lambda _: training_dataset(CONFIG, INFO, index))
    iterator = iter(dataset)

    @tf.function
    def step():
        return next(iterator).image

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        step()
    error = reading_error(caught.value, index)
    assert isinstance(error, UserError) and "\n" not in str(error)
    assert str(error).startswith(f"{tmp_path}: ")
    assert re.search(expected, str(error)), error


def test_damaged_file_becomes_one_line(tmp_path):
    records = [make_record(encode_png(x), "png", "a.png", y) for x, y in map(example, range(2))]
    write_shards(tmp_path, records, shards=1)
    path = tmp_path / "train-00000-of-00001.tfrecord"
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    index = open_records(tmp_path, "train")
    with pytest.raises(tf.errors.DataLossError) as caught:
        batches(training_dataset(CONFIG, INFO, index), 1)
    error = reading_error(caught.value, index)
    assert str(error).startswith(f"{tmp_path}: {path.name} record 0: damaged; its checksum (CRC)")
    assert "\n" not in str(error)


def test_errors_of_the_network_are_not_about_records(index):
    @tf.function
    def step(x):
        tf.debugging.Assert(x > 0, ["loss is not finite"])
        return x

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        step(tf.constant(-1.0))
    assert reading_error(caught.value, index) is None
