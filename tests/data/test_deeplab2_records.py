"""Records laid out as DeepLab2's converters write them, through the public pipeline."""

import collections
import dataclasses
import io
import itertools
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite.config import AugmentationConfig, DataConfig, EvaluationConfig, ExperimentConfig, TrainConfig
from deeplab2_lite.config_loading import resolve_dataset_info
from deeplab2_lite.data.pipeline import evaluation_dataset, training_dataset
from deeplab2_lite.data.record_format import encode_png
from deeplab2_lite.data.record_index import open_records, reading_error
from deeplab2_lite.data.records import encode_panoptic, list_shards, make_record, parse_record
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.trainer import train

COCO, CITYSCAPES = load_dataset_info("deeplab2_coco"), load_dataset_info("deeplab2_cityscapes")
STUFF = 81


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def raw(label):
    return label.astype("<i4").tobytes()


def serialized(image, image_format, filename, size, label=None, label_format=None, **others):
    """An example with the keys of DeepLab2's `create_tfexample`; those of None are left out."""
    values = {
        "image/encoded": image,
        "image/filename": filename,
        "image/format": image_format,
        "image/height": size[0],
        "image/width": size[1],
        "image/channels": 3,
        "image/segmentation/class/encoded": label,
        "image/segmentation/class/format": label_format,
        **{key.replace("__", "/"): value for key, value in others.items()},
    }
    features = {}
    for key, value in values.items():
        if isinstance(value, int):
            features[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        elif value is not None:
            value = value.encode() if isinstance(value, str) else value
            features[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_split(folder, split, records, shards):
    """Shards as its converters divide records: equally many each, and none in the last."""
    each = -(-len(records) // shards)
    for shard in range(shards):
        with tf.io.TFRecordWriter(str(folder / f"{split}-{shard:05d}-of-{shards:05d}.tfrecord")) as writer:
            for record in records[shard * each : (shard + 1) * each]:
                writer.write(record)


def drawn_coco(number):
    """An image of noise, its stored label and its label in the ids of preset coco."""
    generator = np.random.default_rng(number)
    size = (40 + number, 50 - number)
    classes = generator.integers(0, 134, 30)
    instances = np.where((classes >= 1) & (classes <= 80), generator.integers(0, 256, 30), 0)
    segment = generator.integers(0, 30, (5, 5)).repeat(10, 0).repeat(10, 1)[: size[0], : size[1]]
    segment = np.pad(segment, [(0, size[0] - segment.shape[0]), (0, 0)], mode="edge")
    internal = np.where(classes == 0, 255000, (classes - 1) * 1000 + instances)
    image = generator.integers(0, 256, (*size, 3)).astype(np.uint8)
    return image, (classes * 256 + instances)[segment].astype(np.int32), internal[segment].astype(np.int32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same data set as DeepLab2 writes it, and as this library does."""
    theirs, ours = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours")
    for split, numbers in (("train", range(4)), ("val", range(4, 7))):
        drawn = [drawn_coco(number) for number in numbers]
        names = [f"{number:012d}" for number in numbers]
        write_split(
            theirs,
            split,
            [
                serialized(encode_png(image), "png", name, stored.shape, raw(stored), "raw")
                for name, (image, stored, _) in zip(names, drawn, strict=True)
            ],
            shards=10,
        )
        write_split(
            ours,
            split,
            [
                make_record(encode_png(image), "png", f"{name}.png", panoptic)
                for name, (image, _, panoptic) in zip(names, drawn, strict=True)
            ],
            shards=1,
        )
    return theirs, ours


def config(folder, dataset_info=None):
    data = DataConfig(
        dir=str(folder),
        dataset_info=dataset_info,
        crop_size=(33, 33),
        augmentation=AugmentationConfig(min_scale=0.8, max_scale=1.25, scale_step=0.0),
    )
    return ExperimentConfig(
        data=data, train=TrainConfig(batch_size=2, seed=5), evaluation=EvaluationConfig(batch_size=1)
    )


def test_training_sees_what_it_sees_of_our_own_records(folders):
    theirs, ours = (
        list(itertools.islice(training_dataset(c, resolve_dataset_info(c), open_records(folder, "train")), 4))
        for folder, c in zip(folders, (config(folders[0], "deeplab2_coco"), config(folders[1], "coco")), strict=True)
    )
    for one, other in zip(theirs, ours, strict=True):
        for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_evaluation_sees_every_label_and_name(folders):
    chosen = config(folders[0], "deeplab2_coco")
    index = open_records(folders[0], "val")
    batches = list(evaluation_dataset(chosen, resolve_dataset_info(chosen), index))
    assert [batch.filename.numpy()[0] for batch in batches] == [f"{number:012d}".encode() for number in (4, 5, 6)]
    for number, batch in zip((4, 5, 6), batches, strict=True):
        image, _, panoptic = drawn_coco(number)
        np.testing.assert_array_equal(batch.image[0], image)
        np.testing.assert_array_equal(batch.panoptic[0], panoptic)


def test_shards_are_found_and_may_be_empty(folders):
    shards = list_shards(folders[0], "train")
    assert [shard.name for shard in shards] == [f"train-{i:05d}-of-00010.tfrecord" for i in range(10)]
    index = open_records(folders[0], "train")
    assert index.shard_index.tolist() == [0, 1, 2, 3]


def test_folder_without_dataset_info_suggests_the_presets(folders):
    with pytest.raises(UserError) as caught:
        resolve_dataset_info(config(folders[0]))
    message = str(caught.value)
    assert message.startswith(f"{folders[0]}: no dataset_info.yaml in this folder") and "\n" not in message
    assert "data.dataset_info" in message and "deeplab2_coco" in message and "deeplab2_cityscapes" in message


IMAGE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
# Crowd, two persons, a bicycle of the highest number, stuff with and without a number, void.
STORED = np.array([[256, 257, 258, 2 * 256 + 255, STUFF * 256, 0]] * 3 + [[STUFF * 256 + 3] * 6], np.int32)
INTERNAL = np.array([[0, 1, 2, 1255, 80000, 255000]] * 3 + [[80000] * 6], np.int32)
GREY = IMAGE[..., 0]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("label", "label_format", "expected"),
    [
        (raw(STORED), "raw", INTERNAL),
        (encode_panoptic(STORED), "panoptic_png", INTERNAL),
        (encoded((STORED // 256).astype(np.uint8)), "png", INTERNAL // 1000 * 1000),
    ],
)
def test_every_format_is_renumbered(label, label_format, expected, graph):
    def parse(record):
        return parse_record(record, COCO).panoptic

    record = serialized(encoded(IMAGE), "png", "a", STORED.shape, label, label_format)
    np.testing.assert_array_equal((tf.function(parse) if graph else parse)(tf.constant(record)), expected)


def test_grey_images_and_names_and_formats_that_are_missing():
    for image in (encoded(GREY), encoded(GREY, "JPEG")):
        record = serialized(image, None, "000000000139", STORED.shape, raw(STORED), "raw")
        parsed = parse_record(tf.constant(record), COCO)
        pixels = np.asarray(Image.open(io.BytesIO(image)))
        np.testing.assert_array_equal(parsed.image, np.repeat(pixels[..., np.newaxis], 3, axis=2))
        np.testing.assert_array_equal(parsed.panoptic, INTERNAL)
        assert parsed.filename.numpy() == b"000000000139"


def test_video_records_are_read_as_images():
    """Track numbers have gaps; what belongs to the frame before is left alone."""
    label = np.array([[11007, 13042, 13000, 10000, 255000, 0]] * 4, np.int32)
    others = {
        "video__sequence_id": "0002",
        "video__frame_id": "000017",
        "prev_image__encoded": encoded(IMAGE[::-1]),
        "prev_image__segmentation__class__encoded": raw(label[::-1] * 0),
        "image__depth__encoded": raw(label),
        "image__depth__format": "raw",
    }
    record = serialized(encoded(IMAGE), "png", "000017.png", label.shape, raw(label), "raw", **others)
    parsed = parse_record(tf.constant(record), load_dataset_info("deeplab2_kitti_step"))
    np.testing.assert_array_equal(parsed.panoptic, label)
    np.testing.assert_array_equal(parsed.image, IMAGE)


def test_no_operation_is_added_where_ids_are_stored_as_they_are():
    def operations(info):
        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def parse(record):
            return parse_record(record, info)

        return [node.op for node in parse.get_concrete_function().graph.as_graph_def().node]

    assert not CITYSCAPES.stores_other_ids and COCO.stores_other_ids
    assert operations(CITYSCAPES) == operations(load_dataset_info("cityscapes"))


def with_unknown(value):
    changed = STORED.copy()
    changed[0, 0] = value
    return raw(changed)


SMALL_DIVISOR = dataclasses.replace(COCO, label_divisor=200)
CITYSCAPES_LABEL = np.array([[7000, 13001, 255000, 0, 11002, 1000]] * 4, np.int32)


@pytest.mark.parametrize(
    ("info", "label", "label_format", "message"),
    [
        (COCO, with_unknown(134 * 256), "raw", "a: the label holds id 34304, at stored label_divisor 256 class 134"),
        (COCO, with_unknown(-7), "raw", "a: the label holds id -7,"),
        (COCO, with_unknown(5), "raw", "a: the label holds id 5, at stored label_divisor 256 class 0 instance 5: void"),
        (
            SMALL_DIVISOR,
            raw(STORED),
            "raw",
            "a: the label holds id 767, .* instance 255: numbered beyond 199, the most",
        ),
        (COCO, raw(STORED)[:-1], "raw", "a: image/segmentation/class/encoded: expected 4 bytes for each of 4x6 pixels"),
        (COCO, raw(STORED) * 2, "raw", "a: image/segmentation/class/encoded: expected 4 bytes for each of 4x6 pixels"),
        (COCO, None, None, "a: image/segmentation/class/encoded: the record holds no label$"),
        (COCO, raw(CITYSCAPES_LABEL), "raw", "a: the label holds id 255000, at stored label_divisor 256 class 996"),
        (CITYSCAPES, raw(STORED), "raw", "a: the label holds panoptic id 20739, .* at label_divisor 1000"),
        (load_dataset_info("deeplab2_ade20k"), raw(STORED), "raw", "a: the label holds id 767, .*class 0 .*: void"),
        (
            load_dataset_info("coco"),
            raw(STORED),
            "raw",
            "a: image/.*/format: raw, .*; expected data.dataset_info=deeplab2_coco$",
        ),
        (COCO, encoded(IMAGE), "png", "a: image/segmentation/class/encoded: expected a grey PNG of 8 bits"),
        (COCO, encoded(GREY.astype(np.uint16)), "png", "a: .*: expected a grey PNG of 8 bits"),
        (COCO, encoded(GREY, "JPEG"), "png", "a: .*: expected a grey PNG of 8 bits"),
        (COCO, b"\x89PNG", "png", "a: .*: expected a grey PNG of 8 bits"),
        (COCO, encoded(GREY), "panoptic_png", "a: .*: expected an RGB PNG of 8 bits a channel"),
    ],
)
def test_faulty_labels_and_wrong_spaces_end_in_one_line(tmp_path, info, label, label_format, message):
    record = serialized(encoded(IMAGE), "png", "a", (4, 6), label, label_format)
    write_split(tmp_path, "val", [record], shards=1)
    index = open_records(tmp_path, "val")
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(evaluation_dataset(config(tmp_path), info, index))
    line = str(reading_error(caught.value, index))
    assert "\n" not in line
    assert line.startswith(f"{tmp_path}: ")
    assert re.match(message, line.removeprefix(f"{tmp_path}: ")), line


def test_records_without_a_name_are_told_so():
    record = serialized(encoded(IMAGE), "png", None, (4, 6), with_unknown(-1), "raw")
    with pytest.raises(tf.errors.InvalidArgumentError, match="a record without image/filename: the label holds id -1"):
        parse_record(tf.constant(record), COCO)


def coco_label(folder, annotation, categories, treat_crowd_as_ignore):
    """A label as `build_coco_panoptic` of DeepLab2 stores it, and in the ids of preset coco."""
    with Image.open(folder / annotation["file_name"]) as png:
        segment_ids = np.asarray(png).astype(np.int32) @ [1, 256, 65536]
    contiguous = {category["id"]: rank for rank, category in enumerate(categories, start=1)}
    by_id = {category["id"]: category for category in categories}
    class_names = load_dataset_info("coco").class_names
    stored, internal = np.zeros_like(segment_ids), np.full_like(segment_ids, 255000)
    counts = collections.Counter()
    for segment in annotation["segments_info"]:
        mask, category = segment_ids == segment["id"], by_id[segment["category_id"]]
        if segment["iscrowd"] and treat_crowd_as_ignore:
            continue
        counts[category["id"]] += 1
        instance = counts[category["id"]] if category["isthing"] and not segment["iscrowd"] else 0
        stored[mask] = contiguous[category["id"]] * 256 + instance
        internal[mask] = class_names.index(category["name"]) * 1000 + instance
    return stored, internal


@pytest.mark.real_data
@pytest.mark.parametrize("treat_crowd_as_ignore", [True, False])
def test_real_coco_labels(real_data, treat_crowd_as_ignore):
    content = json.loads((real_data / "coco/annotations/panoptic_val2017.json").read_text())
    # Crowds are rare: those with one, and some others.
    crowded = [a for a in content["annotations"] if any(s["iscrowd"] for s in a["segments_info"])]
    assert crowded
    for annotation in [*crowded[:2], *content["annotations"][:2]]:
        stem = annotation["file_name"].removesuffix(".png")
        image = (real_data / f"coco/val2017/{stem}.jpg").read_bytes()
        folder = real_data / "coco/annotations/panoptic_val2017"
        stored, internal = coco_label(folder, annotation, content["categories"], treat_crowd_as_ignore)
        record = serialized(image, "jpeg", stem, stored.shape, raw(stored), "raw")
        np.testing.assert_array_equal(parse_record(tf.constant(record), COCO).panoptic, internal)


@pytest.mark.real_data
def test_real_cityscapes_labels(real_data):
    """Segments as the official panoptic images have them, numbered as DeepLab2 does; semantic labels too."""
    name = "train/aachen/aachen_000000_000019"
    image = (real_data / f"cityscapes/leftImg8bit/{name}_leftImg8bit.png").read_bytes()
    with Image.open(real_data / f"cityscapes/gtFine/{name}_gtFine_instanceIds.png") as png:
        ids = np.asarray(png).astype(np.int32)
    classes = load_dataset_info("cityscapes").classes
    stored, crowd_kept = np.full_like(ids, 255000), np.full_like(ids, 255000)
    semantic = np.full(ids.shape, 255, np.uint8)
    counts = collections.Counter()
    for segment_id in np.unique(ids).tolist():
        label_id, mask = segment_id // 1000 or segment_id, ids == segment_id
        for train_id, c in enumerate(classes):
            if c.original_id == label_id:
                counts[train_id] += c.isthing and segment_id >= 1000
                panoptic_id = train_id * 1000 + (counts[train_id] if segment_id >= 1000 else 0)
                semantic[mask], crowd_kept[mask] = train_id, panoptic_id
                stored[mask] = 255000 if c.isthing and segment_id < 1000 else panoptic_id
    assert len(np.unique(stored)) > 10
    for label in (stored, crowd_kept):
        record = serialized(image, "png", name, ids.shape, raw(label), "raw")
        np.testing.assert_array_equal(parse_record(tf.constant(record), CITYSCAPES).panoptic, label)
    record = serialized(image, "png", name, ids.shape, encode_png(semantic), "png")
    np.testing.assert_array_equal(parse_record(tf.constant(record), CITYSCAPES).panoptic, semantic * np.int32(1000))


@pytest.mark.slow
def test_a_network_trains_and_is_evaluated_on_such_a_folder(folders, tmp_path):
    overrides = [
        *(f"data.dir={folders[0]}", "data.dataset_info=deeplab2_coco", "data.shapes=null", "data.crop_size=[33,33]"),
        *("train.steps=2", "train.steps_per_loop=1", "train.batch_size=2", "train.image_interval=null"),
        *("train.optimizer.warmup_steps=0", "evaluation.pictures=0"),
    ]
    arguments = ["--experiment=shapes/mobilenet_v3_small", f"--model_dir={tmp_path}"]
    assert train.main([*arguments, "--params_override", ",".join(overrides)]) == 0
    assert load_dataset_info(tmp_path) == COCO
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["dataset"], metrics["step"], metrics["num_images"]) == ("coco", 2, 3)
