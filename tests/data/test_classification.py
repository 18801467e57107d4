"""Crops of a classifier and the pipelines that make them."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deeplab2_lite.config import (
    AugmentationConfig,
    ClassificationConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    TrainConfig,
)
from deeplab2_lite.data.augment import augment_for_classification, central_crop
from deeplab2_lite.data.classification import (
    classification_evaluation_dataset,
    classification_training_dataset,
    parse_classification_record,
)
from deeplab2_lite.data.converters.image_folders import class_dataset_info
from deeplab2_lite.data.record_format import encode_png, serialize_example
from deeplab2_lite.data.record_index import open_records, reading_error
from deeplab2_lite.data.shards import list_shards
from deeplab2_lite.errors import UserError

INFO = class_dataset_info("letters", ["a", "b", "c"])
RECORDS = 7


def record(number: int, **changes: bytes | int) -> bytes:
    image = np.full((20 + number, 30, 3), 10 * number, np.uint8)
    features = {
        "image/encoded": encode_png(image),
        "image/filename": f"{number}.png".encode(),
        "image/class/label": 1 + number % 3,
        **changes,
    }
    return serialize_example({key: value for key, value in features.items() if value != b""})


def write(folder, names_of_shards, contents):
    for name, part in zip(names_of_shards, np.array_split(np.arange(len(contents)), len(names_of_shards)), strict=True):
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for i in part:
                writer.write(contents[i])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write(folder, ["train-00000-of-00002", "train-00001-of-00002"], [record(i) for i in range(RECORDS)])
    return open_records(folder, "train")


def experiment(batch_size: int = 3, **classification) -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(crop_size=(17, 33)),
        classification=ClassificationConfig(**classification),
        train=TrainConfig(batch_size=batch_size, seed=5),
        evaluation=EvaluationConfig(batch_size=batch_size),
    )


def take(dataset, count):
    return [tf.nest.map_structure(lambda t: t.numpy(), batch) for batch in dataset.take(count)]


def test_every_epoch_has_every_image_with_its_label(index):
    batches = take(classification_training_dataset(experiment(7), INFO, index), 2)
    for batch in batches:
        assert sorted(batch.record) == list(range(RECORDS))
        np.testing.assert_array_equal(batch.label, batch.record % 3)
        # Each image has one grey value.
        expected = np.broadcast_to(10.0 * batch.record[:, None, None, None], (7, 17, 33, 3))
        np.testing.assert_allclose(batch.image, expected, atol=1e-4)
        assert batch.valid.all()
    assert list(batches[0].record) != list(batches[1].record)


def test_going_on_and_replicas_give_the_same_images(index):
    config = experiment(4)
    whole = take(classification_training_dataset(config, INFO, index), 4)
    later = take(classification_training_dataset(config, INFO, index, start_step=2), 2)
    tf.nest.map_structure(np.testing.assert_array_equal, later, whole[2:])
    context = tf.distribute.InputContext(num_input_pipelines=1, input_pipeline_id=0, num_replicas_in_sync=2)
    halves = take(classification_training_dataset(config, INFO, index, 0, context), 2)
    np.testing.assert_array_equal(np.concatenate([half.record for half in halves]), whole[0].record)


@pytest.mark.parametrize("replicas", [1, 2])
def test_evaluation_sees_every_image_once_and_fills_up(index, replicas):
    context = tf.distribute.InputContext(num_input_pipelines=1, input_pipeline_id=0, num_replicas_in_sync=replicas)
    batches = take(classification_evaluation_dataset(experiment(4), INFO, index, context), 100)
    assert [len(batch.record) for batch in batches] == [4 // replicas] * (2 * replicas)
    records = np.concatenate([batch.record for batch in batches])
    np.testing.assert_array_equal(records, [*range(RECORDS), -1])
    np.testing.assert_array_equal(np.concatenate([batch.valid for batch in batches]), records >= 0)
    np.testing.assert_array_equal(np.concatenate([batch.label for batch in batches])[:7], records[:7] % 3)


@pytest.mark.parametrize(
    ("changes", "first_label", "message"),
    [
        (
            {"image/class/label": 0},
            1,
            "4.png: image/class/label: got 0, expected 1..3 (classification.first_label, 3 c",
        ),
        (
            {"image/class/label": 4},
            1,
            "4.png: image/class/label: got 4, expected 1..3 (classification.first_label, 3 c",
        ),
        (
            {"image/class/label": 3},
            0,
            "4.png: image/class/label: got 3, expected 0..2 (classification.first_label, 3 c",
        ),
        ({"image/class/label": b""}, 1, "4.png: image/class/label: expected one label"),
        ({"image/encoded": b""}, 1, "4.png: image/encoded: expected a PNG or JPEG image"),
        ({"image/encoded": b"\xff\xd8\xff\xe0 cut"}, 1, "val-00000-of-00001 record 4 (4.png): cannot be decoded ("),
    ],
)
def test_faulty_records_end_in_a_line(tmp_path, changes, first_label, message):
    contents = [record(i, **({"image/class/label": 1} | (changes if i == 4 else {}))) for i in range(6)]
    write(tmp_path, ["val-00000-of-00001"], contents)
    index = open_records(tmp_path, "val")
    dataset = classification_evaluation_dataset(experiment(1, first_label=first_label), INFO, index)
    step = tf.function(lambda iterator: next(iterator))
    with pytest.raises(tf.errors.OpError) as caught:
        iterator = iter(dataset)
        for _ in range(6):
            step(iterator)
    error = reading_error(caught.value, index)
    assert isinstance(error, UserError)
    assert str(error).startswith(f"{tmp_path}: ") and message in str(error)


def test_jpegs_and_grey_images_are_read():
    buffer = io.BytesIO()
    Image.new("L", (30, 20), 77).save(buffer, "JPEG")
    image, label = parse_classification_record(record(0, **{"image/encoded": buffer.getvalue()}), INFO, 1)
    assert image.shape == (20, 30, 3)
    np.testing.assert_array_equal(image, 77)
    assert label == 0


def test_shards_are_named_as_in_either_ecosystem(tmp_path):
    names = [f"train-{i:05d}-of-01024" for i in range(1024)]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in list_shards(tmp_path, "train")] == names
    (tmp_path / "train-00000-of-00001.tfrecord").touch()
    message = "shards of two conversions are mixed: train-.-of-00001.tfrecord and train-.-of-01024$"
    with pytest.raises(UserError, match=message):
        list_shards(tmp_path, "train")
    (tmp_path / names[3]).unlink()
    (tmp_path / "train-00000-of-00001.tfrecord").unlink()
    with pytest.raises(UserError, match=f"{names[3]} missing; expected all 1024"):
        list_shards(tmp_path, "train")


# ---- crops

HEIGHT, WIDTH = 60, 100
RAMP = np.stack(np.broadcast_arrays(np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None, :], 0), -1).astype(np.uint8)
PLAIN = DataConfig(crop_size=(21, 21), augmentation=AugmentationConfig(flip_left_right=False))


@tf.function
def training_crop(seed, min_area, ratio):
    settings = ClassificationConfig(min_area=float(min_area), max_aspect_ratio=float(ratio))
    return augment_for_classification(tf.constant(RAMP), seed, PLAIN, settings)


def window(crop):
    """Height and width of the window that a crop of the ramp shows: values 3..17 are free of its borders."""
    return 21 * (crop[17, 10, 0] - crop[3, 10, 0]) / 14, 21 * (crop[10, 17, 1] - crop[10, 3, 1]) / 14


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_training_crops_have_the_area_and_shape_asked_for(seed, position):
    draws = tf.constant([seed, position], tf.int64)
    crop = training_crop(draws, 0.3, 1.5).numpy()
    assert crop.shape == (21, 21, 3)
    height, width = window(crop)
    # Windows are of whole pixels.
    assert 0.27 < height * width / (HEIGHT * WIDTH) <= 1.001
    assert 1 / 1.5 - 0.06 < width / height < 1.5 + 0.06
    assert crop[..., 0].max() <= HEIGHT - 1 and crop[..., 1].max() <= WIDTH - 1
    np.testing.assert_array_equal(training_crop(draws, 0.3, 1.5), crop)


def test_training_crops_cover_the_image_and_all_sizes():
    crops = [training_crop(tf.constant([0, i], tf.int64), 0.08, 4 / 3).numpy() for i in range(300)]
    areas = [np.prod(window(crop)) / (HEIGHT * WIDTH) for crop in crops]
    # A window of a shape of at most 4/3 covers 0.8 of this image at most.
    assert min(areas) < 0.12 and max(areas) > 0.7
    assert min(crop[..., 1].min() for crop in crops) < 3 and max(crop[..., 1].max() for crop in crops) > WIDTH - 4
    assert min(crop[..., 0].min() for crop in crops) < 3 and max(crop[..., 0].max() for crop in crops) > HEIGHT - 4


def test_the_extremes_of_area_and_shape_are_allowed():
    settings = ClassificationConfig(min_area=1.0, max_aspect_ratio=1.0)
    for size in ((40, 40), (3, 90), (1, 1)):
        image = tf.random.stateless_uniform([*size, 3], [0, 0], 0, 256, tf.int32)
        crop = augment_for_classification(tf.cast(image, tf.uint8), tf.constant([0, 0], tf.int64), PLAIN, settings)
        assert crop.shape == (21, 21, 3)
        expected = tf.image.resize(tf.cast(image, tf.float32), (21, 21), antialias=True)
        np.testing.assert_allclose(crop, expected, atol=1e-3)


def test_flips_are_drawn():
    data = dataclasses.replace(PLAIN, augmentation=AugmentationConfig())
    settings = ClassificationConfig()
    rising = []
    for i in range(40):
        draws = tf.constant([0, i], tf.int64)
        crop = augment_for_classification(tf.constant(RAMP), draws, data, settings).numpy()
        plain = training_crop(draws, settings.min_area, settings.max_aspect_ratio).numpy()
        rising.append(crop[10, 20, 1] > crop[10, 0, 1])
        np.testing.assert_allclose(crop if rising[-1] else crop[:, ::-1], plain, atol=1e-3)
    assert 8 < sum(rising) < 32


@pytest.mark.parametrize(
    ("size", "crop_size", "fraction", "box"),
    [
        # 256 on the shorter side and 224 of it is 0.875 of the shorter side.
        ((64, 96), (28, 28), 0.875, (4, 20, 56, 56)),
        ((96, 64), (28, 28), 0.875, (20, 4, 56, 56)),
        ((64, 96), (32, 48), 1.0, (0, 0, 64, 96)),
        ((50, 96), (25, 12), 1.0, (0, 36, 50, 24)),
        ((1, 1), (5, 5), 0.5, (0, 0, 1, 1)),
    ],
)
def test_the_central_crop_is_that_window_resized(size, crop_size, fraction, box):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    top, left, height, width = box
    part = Image.fromarray(image[top : top + height, left : left + width])
    expected = np.asarray(part.resize(crop_size[::-1], Image.Resampling.BILINEAR), np.float32)
    crop = central_crop(tf.constant(image), crop_size, fraction).numpy()
    # Pillow rounds, after each direction.
    np.testing.assert_allclose(crop, expected, atol=1.01)
