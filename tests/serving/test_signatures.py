"""The signatures of a SavedModel: right maps for images in every form, one line for what is none."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite.serving.encoded_images import read_size
from deeplab2_lite.serving.outputs import panoptic_png, semantic_png

from .conftest import Trained, meta_graph_of
from .encoding import decode, encode, example, ids_of, malformed

SIGNATURES = ("serving_default", "serving_bytes", "serving_examples")
ENCODINGS = (("PNG", {}), ("JPEG", {}), ("BMP", {}), ("GIF", {}), ("WEBP", {}), ("WEBP", {"lossless": True}))


@pytest.fixture(scope="module")
def model(served: Path):
    return tf.saved_model.load(str(served))


@pytest.mark.parametrize(("format_name", "options"), ENCODINGS)
def test_the_size_is_read_from_the_header(format_name: str, options: dict) -> None:
    for height, width in ((300, 1), (70, 515), (1, 2)):
        encoded = encode(np.zeros((height, width, 3), np.uint8), format_name, **options)
        assert read_size(tf.constant(encoded), "image").numpy().tolist() == [height, width]


def test_other_headers() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 515, 4), np.uint8))
    extended, thumbnail = io.BytesIO(), io.BytesIO()
    image.save(extended, "WEBP")
    inner = encode(np.zeros((9, 9, 3), np.uint8), "JPEG")
    image.convert("RGB").save(thumbnail, "JPEG", comment=inner, progressive=True)
    bmp = encode(np.zeros((70, 515, 3), np.uint8), "BMP")
    upside_down = bmp[:22] + (-70).to_bytes(4, "little", signed=True) + bmp[26:]
    for encoded in (extended.getvalue(), thumbnail.getvalue(), upside_down, thumbnail.getvalue() + b"\0" * 50):
        assert read_size(tf.constant(encoded), "image").numpy().tolist() == [70, 515]


def test_every_signature_gives_the_predictors_map(model, trained: Trained, scenes) -> None:
    assert set(model.signatures) == set(SIGNATURES)
    for scene, format_name in zip(scenes, ("PNG", "JPEG", "BMP"), strict=True):
        encoded = encode(scene, format_name)
        pixels = decode(encoded)
        expected = trained.panoptic(pixels)
        assert len(np.unique(expected)) > 5
        answers = (
            model.signatures["serving_default"](images=tf.constant(pixels[None])),
            model.signatures["serving_bytes"](image_bytes=tf.constant([encoded])),
            model.signatures["serving_examples"](examples=tf.constant([example(encoded)])),
        )
        for answer in answers:
            np.testing.assert_array_equal(answer["panoptic_pred"][0], expected)
            np.testing.assert_array_equal(ids_of(answer["panoptic_png_bytes"].numpy()[0]), expected)


def test_a_batch_of_files_in_different_formats(model, trained: Trained, scenes) -> None:
    images = [scenes[0], scenes[0][:, ::-1]]
    files = [encode(images[0]), encode(images[1], "BMP")]
    answer = model.signatures["serving_bytes"](image_bytes=tf.constant(files))
    for found, image in zip(answer["panoptic_pred"].numpy(), images, strict=True):
        np.testing.assert_array_equal(found, trained.panoptic(image))
    semantic = np.asarray(Image.open(io.BytesIO(answer["semantic_png_bytes"].numpy()[1])))
    assert semantic.shape == (65, 97) and semantic.dtype == np.uint8 and semantic.max() < trained.info.num_classes


def test_outputs_are_those_asked_for(served: Path, frozen: Path) -> None:
    names = ("valid", "class_id", "panoptic_id", "center", "center_score", "area", "box", "score")
    maps, table = {"panoptic_pred", "semantic_pred", "instance_pred"}, {f"instance_{name}" for name in names}
    for folder, expected in (
        (served, {"panoptic_pred", "panoptic_png_bytes", "semantic_png_bytes"}),
        (frozen, maps | table),
    ):
        signatures = meta_graph_of(folder).signature_def
        assert [set(signatures[name].outputs) for name in SIGNATURES] == [expected] * len(SIGNATURES)


def test_label_space_travels_as_json(served: Path, trained: Trained) -> None:
    labels = json.loads((served / "assets" / "labels.json").read_text())
    assert (served / "assets" / "dataset_info.yaml").is_file()
    assert labels["void_panoptic_id"] == trained.info.ignore_label * trained.info.label_divisor
    for number, (found, expected) in enumerate(zip(labels["categories"], trained.info.classes, strict=True)):
        values = {"id": number, "name": expected.name, "isthing": int(expected.isthing), "color": list(expected.color)}
        assert found == values


def test_png_files_hold_the_largest_ids() -> None:
    ids = np.array([[[0, 1, 255], [256, 65536, 2**24 - 1]], [[7, 8, 9], [255_000, 1000, 11_004]]], np.int32)
    for file, expected in zip(panoptic_png(tf.constant(ids)).numpy(), ids, strict=True):
        np.testing.assert_array_equal(ids_of(file), expected)
    classes = np.array([[[0, 255, 300, 65_535]]], np.int32)
    (file,) = semantic_png(tf.constant(classes), 65_536).numpy()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), classes[0])


def test_malformed_files_are_refused_in_a_line(model, scenes) -> None:
    good = encode(scenes[0])
    for name, (encoded, message) in malformed(scenes[0]).items():
        for signature, value in (("serving_bytes", encoded), ("serving_examples", example(encoded))):
            # The second of a batch: the message says which.
            files = tf.constant([good if signature == "serving_bytes" else example(good), value])
            with pytest.raises(tf.errors.InvalidArgumentError) as caught:
                model.signatures[signature](files)
            line = next((line for line in str(caught.value).splitlines() if message in line), None)
            assert line is not None, f"{name}: {caught.value}"
            assert "[1]" in line or name == "a PNG damaged within", name


@pytest.mark.parametrize(
    ("signature", "value", "message"),
    [
        ("serving_default", np.zeros((0, 9, 9, 3), np.uint8), "images: an empty batch"),
        ("serving_default", np.zeros((1, 0, 9, 3), np.uint8), r"an image without pixels, \[1, 0, 9, 3\]"),
        ("serving_default", np.zeros((1, 2, 20_000, 3), np.uint8), "images: 2 x 20000 pixels .* sides of 200 at most"),
        ("serving_bytes", np.array([], object), "image_bytes: an empty batch"),
        ("serving_examples", np.array([], object), "image/encoded: an empty batch"),
        ("serving_examples", np.array([b""], object), "image/encoded.* is required but could not be found"),
        ("serving_examples", np.array([b"no record"], object), "Could not parse example input"),
    ],
)
def test_malformed_requests_are_refused(model, signature: str, value: np.ndarray, message: str) -> None:
    value = tf.constant(value, tf.string) if value.dtype == object else tf.constant(value)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.signatures[signature](value)


def test_a_batch_of_different_sizes_is_refused(model, scenes) -> None:
    files = [encode(scene) for scene in (scenes[0], scenes[0], scenes[1])]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have one size; 65 x 97 and 50 x 81 pixels"):
        model.signatures["serving_bytes"](image_bytes=tf.constant(files))
