"""The evaluation input: order, batches of one size, padding to a fixed size, division over pipelines."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config import DataConfig, EvaluationConfig, ExperimentConfig
from deeplab2_lite.data.pipeline import EvaluationBatch, evaluation_dataset
from deeplab2_lite.data.record_format import encode_png
from deeplab2_lite.data.record_index import open_records, reading_error
from deeplab2_lite.data.records import make_record
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError

INFO = DatasetInfo("test", (ClassInfo("road", False, (1, 1, 1), 0), ClassInfo("car", True, (2, 2, 2), 1)))
SIZES = [(20, 30), (30, 20), (20, 30), (25, 25), (20, 30), (30, 20), (20, 30)]


def example(number: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(number)
    image = generator.integers(0, 256, (*SIZES[number], 3)).astype(np.uint8)
    return image, generator.choice([0, 1001, 1002, INFO.void_id], SIZES[number]).astype(np.int32)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for shard, numbers in enumerate(np.array_split(np.arange(len(SIZES)), 2)):
        with tf.io.TFRecordWriter(str(folder / f"val-{shard:05d}-of-00002.tfrecord")) as writer:
            for number in numbers:
                image, panoptic = example(number)
                writer.write(make_record(encode_png(image), "png", f"image_{number}.png", panoptic))
    return open_records(folder, "val")


def config(batch_size: int, fixed_size: tuple[int, int] | None = None) -> ExperimentConfig:
    return ExperimentConfig(evaluation=EvaluationConfig(batch_size=batch_size, fixed_size=fixed_size))


def assert_holds_its_records(batch: EvaluationBatch) -> None:
    """Each valid entry is its record, in the upper left corner of a void frame; the others are void."""
    for image, panoptic, filename, record, valid, size in zip(*(t.numpy() for t in batch), strict=True):
        if not valid:
            assert record == -1
            assert (panoptic == INFO.void_id).all()
            continue
        expected_image, expected_panoptic = example(int(record))
        height, width = size
        assert (height, width) == SIZES[record] and filename.decode() == f"image_{record}.png"
        np.testing.assert_array_equal(image[:height, :width], expected_image)
        np.testing.assert_array_equal(panoptic[:height, :width], expected_panoptic)
        for frame, fill in ((image, 0), (panoptic, INFO.void_id)):
            assert (frame[height:] == fill).all() and (frame[:, width:] == fill).all()


def records_of(dataset) -> list[list[int]]:
    return [batch.record.numpy().tolist() for batch in dataset]


def test_batch_of_one_keeps_the_order(index):
    dataset = evaluation_dataset(config(1), INFO, index)
    assert isinstance(dataset.element_spec, EvaluationBatch)
    assert records_of(dataset) == [[i] for i in range(len(SIZES))]
    for batch in dataset:
        assert_holds_its_records(batch)
        assert batch.valid.numpy().all() and batch.image.dtype == tf.uint8 and batch.panoptic.dtype == tf.int32
        assert batch.image.shape[1:3] == tuple(batch.size[0])


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batches_hold_one_size(index, batch_size):
    dataset = evaluation_dataset(config(batch_size), INFO, index)
    for batch in dataset:
        assert len({tuple(size) for size in batch.size.numpy()}) == 1
        assert_holds_its_records(batch)
    groups = records_of(dataset)
    assert sorted(itertools.chain(*groups)) == list(range(len(SIZES)))
    assert groups == records_of(evaluation_dataset(config(batch_size), INFO, index))
    if batch_size == 2:
        assert groups == [[0, 2], [1, 5], [4, 6], [3]]


def test_fixed_size_has_static_shapes_and_fills_up(index):
    dataset = evaluation_dataset(config(4, (33, 49)), INFO, index)
    assert dataset.element_spec.image == tf.TensorSpec([4, 33, 49, 3], tf.uint8)
    assert dataset.element_spec.panoptic == tf.TensorSpec([4, 33, 49], tf.int32)
    assert dataset.element_spec.size == tf.TensorSpec([4, 2], tf.int32)
    assert records_of(dataset) == [[0, 1, 2, 3], [4, 5, 6, -1]]
    for batch in dataset:
        assert_holds_its_records(batch)
        np.testing.assert_array_equal(batch.valid, batch.record >= 0)
    np.testing.assert_array_equal(batch.panoptic[3], INFO.void_id)
    np.testing.assert_array_equal(batch.image[3], 0)


def test_image_beyond_the_fixed_size_is_named(index):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(evaluation_dataset(config(1, (17, 33)), INFO, index))
    message = str(reading_error(caught.value, index))
    assert message.endswith("image_0.png: the image has 20x30 pixels; evaluation.fixed_size is 17x33")


def test_record_that_says_another_size_is_named(tmp_path):
    image, panoptic = example(0)
    record = make_record(encode_png(image), "png", "liar.png", panoptic)
    features = tf.train.Example.FromString(record)
    features.features.feature["image/height"].int64_list.value[0] = 99
    with tf.io.TFRecordWriter(str(tmp_path / "val-00000-of-00001.tfrecord")) as writer:
        writer.write(features.SerializeToString())
    index = open_records(tmp_path, "val")
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(evaluation_dataset(config(2), INFO, index))
    expected = "liar.png: the image has 20x30 pixels; expected what image/height and image/width say"
    assert str(reading_error(caught.value, index)) == f"{tmp_path}: {expected}"


@pytest.mark.parametrize(("pipelines", "replicas"), [(1, 2), (2, 2), (2, 4)])
@pytest.mark.parametrize("fixed_size", [None, (33, 33)])
@pytest.mark.parametrize("batch_per_replica", [1, 2])
def test_division_over_pipelines(index, pipelines, replicas, fixed_size, batch_per_replica):
    """Pipelines hold disjoint records, all in all; each replica of one gets equally many batches."""
    seen, lengths = [], []
    for pipeline in range(pipelines):
        context = tf.distribute.InputContext(pipelines, pipeline, replicas)
        dataset = list(evaluation_dataset(config(batch_per_replica * replicas, fixed_size), INFO, index, context))
        lengths.append(len(dataset))
        for batch in dataset:
            assert_holds_its_records(batch)
            seen += batch.record.numpy()[batch.valid.numpy()].tolist()
    assert sorted(seen) == list(range(len(SIZES)))
    assert all(length % (replicas // pipelines) == 0 for length in lengths)
    if fixed_size:
        assert len(set(lengths)) == 1


def test_batch_that_cannot_be_divided(index):
    with pytest.raises(UserError, match=r"evaluation\.batch_size: expected a multiple of the 2 replicas, got 1"):
        evaluation_dataset(config(1), INFO, index, tf.distribute.InputContext(1, 0, 2))


def test_repeats_equally(index):
    """A dataset made once serves every evaluation of a run."""
    dataset = evaluation_dataset(config(2), INFO, index)
    assert records_of(dataset) == records_of(dataset)


@pytest.mark.parametrize(("batch_size", "fixed_size"), [(1, None), (2, None), (2, (33, 33))])
def test_cached_records_are_read_once(tmp_path, batch_size, fixed_size):
    image, panoptic = example(0)
    shard = tmp_path / "val-00000-of-00001.tfrecord"
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for number in range(3):
            writer.write(make_record(encode_png(image), "png", f"image_{number}.png", panoptic))
    plain = config(batch_size, fixed_size)
    cached = dataclasses.replace(plain, data=DataConfig(cache=True))
    index = open_records(tmp_path, "val")
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    dataset = strategy.distribute_datasets_from_function(
        lambda context: evaluation_dataset(cached, INFO, index, context)
    )
    expected = list(evaluation_dataset(plain, INFO, index))
    first = list(dataset)
    shard.unlink()
    for batches in (first, list(dataset)):
        tf.nest.map_structure(np.testing.assert_array_equal, batches, expected)
