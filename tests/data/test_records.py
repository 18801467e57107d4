"""The record schema, shards and offsets, against TensorFlow's own writer and parser."""

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from deeplab2_lite.data import record_format, record_index, records, shards
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError

INFO = DatasetInfo(
    "pets", (ClassInfo("floor", False, (0, 0, 0), 0), ClassInfo("cat", True, (9, 9, 9), 1)), label_divisor=1000
)
IMAGE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
PANOPTIC = np.array([[0, 0, 1001, 1001, 1002, 255000]] * 4, np.int32)


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def example(**features):
    named = {key.replace("__", "/"): value for key, value in features.items()}
    return record_format.serialize_example(named)


def labelled(label, label_format, height=4, width=6):
    return record_format.serialize_example(
        {
            record_format.IMAGE_KEY: encoded(IMAGE),
            record_format.FILENAME_KEY: b"cat.png",
            record_format.HEIGHT_KEY: height,
            record_format.WIDTH_KEY: width,
            record_format.LABEL_KEY: label,
            record_format.LABEL_FORMAT_KEY: label_format,
        }
    )


@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 2**24 - 1)))
def test_panoptic_ids_survive(panoptic):
    png = records.encode_panoptic(panoptic)
    np.testing.assert_array_equal(records.decode_panoptic(png), panoptic)
    np.testing.assert_array_equal(records.decode_panoptic_tensor(tf.constant(png)), panoptic)


def test_panoptic_png_has_the_little_end_first():
    png = records.encode_panoptic(np.array([[1 + 256 * 2 + 65536 * 3]]))
    assert np.asarray(Image.open(io.BytesIO(png))).tolist() == [[[1, 2, 3]]]


def test_labels_that_others_wrote_are_decoded():
    """Whatever filters their rows have: ours all have the same."""
    panoptic = np.random.default_rng(0).integers(0, 2**24, (40, 31))
    panoptic[10:, 5:] = 1001
    channels = record_format.encode_png(
        np.stack([panoptic % 256, panoptic // 256 % 256, panoptic // 65536], -1).astype(np.uint8)
    )
    assert channels != records.encode_panoptic(panoptic)
    for png in (channels, records.encode_panoptic(panoptic)):
        np.testing.assert_array_equal(records.decode_panoptic_tensor(tf.constant(png)), panoptic)
        np.testing.assert_array_equal(records.decode_panoptic(png), panoptic)


@pytest.mark.parametrize("bad", [np.array([[-1]]), np.array([[2**24]]), np.zeros((2, 2)), np.zeros(3, np.int32)])
def test_ids_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        records.encode_panoptic(bad)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20), st.one_of(st.binary(max_size=300), st.integers(0, 2**63 - 1)), max_size=5
    )
)
def test_serialized_example_is_what_tensorflow_reads(features):
    message = tf.train.Example.FromString(record_format.serialize_example(features))
    assert set(message.features.feature) == set(features)
    for key, value in features.items():
        feature = message.features.feature[key]
        values = feature.bytes_list.value if isinstance(value, bytes) else feature.int64_list.value
        assert list(values) == [value]


def test_make_record_has_every_key_of_the_schema():
    record = tf.train.Example.FromString(records.make_record(b"img", "jpeg", "a.jpg", PANOPTIC))
    feature = record.features.feature
    assert {
        k: next(iter(f.bytes_list.value or f.int64_list.value)) for k, f in feature.items() if "class/enc" not in k
    } == {
        "image/encoded": b"img",
        "image/filename": b"a.jpg",
        "image/format": b"jpeg",
        "image/height": 4,
        "image/width": 6,
        "image/channels": 3,
        "image/segmentation/class/format": b"panoptic_png",
    }


@pytest.mark.parametrize("graph", [False, True])
def test_parse_record_gives_image_label_and_name(graph):
    def parse(record):
        return records.parse_record(record, INFO)

    record = records.make_record(encoded(IMAGE), "png", "ä cat.png", PANOPTIC)
    parsed = (tf.function(parse) if graph else parse)(tf.constant(record))
    np.testing.assert_array_equal(parsed.image, IMAGE)
    np.testing.assert_array_equal(parsed.panoptic, PANOPTIC)
    assert parsed.panoptic.dtype == tf.int32 and parsed.image.dtype == tf.uint8
    assert parsed.filename.numpy().decode() == "ä cat.png"


def test_grey_and_jpeg_images_decode_as_pillow_does():
    grey = IMAGE[..., 0]
    parsed = records.parse_record(tf.constant(records.make_record(encoded(grey), "png", "g", PANOPTIC)), INFO)
    np.testing.assert_array_equal(parsed.image, np.repeat(grey[..., None], 3, axis=2))
    jpeg = encoded(IMAGE, "JPEG")
    parsed = records.parse_record(tf.constant(records.make_record(jpeg, "jpeg", "j", PANOPTIC)), INFO)
    np.testing.assert_array_equal(parsed.image, np.asarray(Image.open(io.BytesIO(jpeg))))


def test_labels_of_deeplab2_are_read():
    raw = labelled(PANOPTIC.astype("<i4").tobytes(), b"raw")
    np.testing.assert_array_equal(records.parse_record(tf.constant(raw), INFO).panoptic, PANOPTIC)
    semantic = np.array([[0, 1, 255, 0, 0, 1]] * 4, np.uint8)
    png = labelled(encoded(semantic), b"png")
    expected = semantic.astype(np.int32) * 1000
    np.testing.assert_array_equal(records.parse_record(tf.constant(png), INFO).panoptic, expected)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (labelled(records.encode_panoptic(PANOPTIC[:3]), b"panoptic_png"), "cat.png: the label has 3x6 pixels"),
        (labelled(PANOPTIC.tobytes()[4:], b"raw"), "cat.png: image/segmentation/class/encoded: expected 4 bytes"),
        (labelled(records.encode_panoptic(PANOPTIC), b"tiff"), "cat.png: image/segmentation/class/format: expected"),
        (labelled(b"", b"panoptic_png"), "cat.png: image/segmentation/class/encoded: the record holds no label"),
        (labelled(records.encode_panoptic(PANOPTIC + 2000), b"panoptic_png"), "cat.png: the label holds panoptic id"),
        (labelled((PANOPTIC - 3000).astype("<i4").tobytes(), b"raw"), "cat.png: the label holds panoptic id"),
        (example(image__filename=b"cat.png"), "cat.png: image/encoded: expected a PNG or JPEG"),
    ],
)
@pytest.mark.parametrize("graph", [False, True])
def test_bad_records_are_named(record, message, graph):
    def parse(serialized):
        return records.parse_record(serialized, INFO).panoptic

    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        (tf.function(parse) if graph else parse)(tf.constant(record))


def write_shards(folder, split, counts):
    rng = np.random.default_rng(1)
    written = []
    for index, count in enumerate(counts):
        path = folder / shards.shard_name(split, index, len(counts))
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(count):
                written.append(rng.bytes(int(rng.integers(0, 2000))))
                writer.write(written[-1])
    return written


def test_offsets_are_where_records_begin(tmp_path):
    written = write_shards(tmp_path, "train", [3, 0, 5])
    paths = records.list_shards(tmp_path, "train")
    assert [p.name for p in paths] == [f"train-0000{i}-of-00003.tfrecord" for i in range(3)]
    shard_index, byte_offset, byte_length = records.scan_offsets(paths)
    assert shard_index.dtype == np.int32 and byte_offset.dtype == byte_length.dtype == np.int64
    assert byte_length.tolist() == [len(record) + 16 for record in written]
    assert shard_index.tolist() == [0] * 3 + [2] * 5
    files, places = tf.constant([str(path) for path in paths]), tf.constant(byte_offset)
    # Within a function: tf.data cannot rebuild a TFRecordDatasetV2 with offsets that stands alone.
    dataset = tf.data.Dataset.range(8).flat_map(
        lambda i: tf.data.experimental.from_variant(
            tf.raw_ops.TFRecordDatasetV2(
                filenames=[tf.gather(files, tf.gather(shard_index, i))],
                compression_type="",
                buffer_size=0,
                byte_offsets=[tf.gather(places, i)],
            ),
            tf.TensorSpec([], tf.string),
        ).take(1)
    )
    assert [record.numpy() for record in dataset] == written


def test_cut_off_shards_are_named(tmp_path):
    write_shards(tmp_path, "train", [3])
    path = tmp_path / "train-00000-of-00001.tfrecord"
    whole = path.read_bytes()
    second = int(records.scan_offsets([path]).byte_offset[1])
    for size, record in ((len(whole) - 1, 2), (second + 5, 1), (second - 2, 0)):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"train-00000-of-00001.tfrecord: record {record} .*cut off"):
            records.scan_offsets([path])


def test_files_without_records_are_refused(tmp_path):
    write_shards(tmp_path, "train", [0, 0])
    with pytest.raises(UserError, match="no records in 2"):
        records.scan_offsets(records.list_shards(tmp_path, "train"))
    (tmp_path / "x.tfrecord").write_bytes(b"\x1f\x8b" + bytes(range(100)))
    with pytest.raises(UserError, match=r"x\.tfrecord: record 0 .*no TFRecord file"):
        records.scan_offsets([tmp_path / "x.tfrecord"])
    with pytest.raises(UserError, match="cannot be read"):
        records.scan_offsets([tmp_path / "absent.tfrecord"])


def test_missing_and_mixed_shards_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no shards at all"):
        records.list_shards(tmp_path, "train")
    with pytest.raises(UserError, match="no such folder"):
        records.list_shards(tmp_path / "absent", "train")
    write_shards(tmp_path, "train", [1, 1, 1, 1])
    with pytest.raises(UserError, match=r"no shards of split 'val'.*train"):
        records.list_shards(tmp_path, "val")
    (tmp_path / "train-00002-of-00004.tfrecord").unlink()
    with pytest.raises(UserError, match=r"train-00002-of-00004\.tfrecord missing; expected all 4"):
        records.list_shards(tmp_path, "train")
    write_shards(tmp_path, "train", [1])
    with pytest.raises(UserError, match="two conversions are mixed"):
        records.list_shards(tmp_path, "train")


def test_messages_show_names_as_they_are():
    name = "größe'1\"\\.png"

    @tf.function
    def refuse():
        records.require(tf.constant(False), [name, ": is bad"])

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        refuse()
    assert record_index.refusal(str(caught.value)) == f"{name}: is bad"
