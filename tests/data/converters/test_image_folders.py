"""Folders of images for each class, converted."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite.data.classification import parse_classification_record
from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.converters.image_folders import class_dataset_info, plan
from deeplab2_lite.data.record_index import open_records, record_reader
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError


@pytest.fixture
def images(tmp_path):
    """Two classes in training, of which one has no validation image; each image has a grey value of its own."""
    for i, path in enumerate(("train/zebra/1.png", "train/ant/b.png", "train/ant/a.PNG", "val/zebra/2.png")):
        path = tmp_path / "images" / path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (i, i, i)).save(path)
    (tmp_path / "images" / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "images" / "train" / ".hidden").mkdir()
    return tmp_path / "images"


def read(folder, split, info):
    index = open_records(folder, split)
    for i in range(len(index)):
        content = record_reader(index)(tf.constant(i, tf.int64))
        image, label = parse_classification_record(content, info, 1)
        example = tf.train.Example.FromString(content.numpy()).features.feature
        assert (image.shape[0], image.shape[1]) == (7, 9)
        yield (
            example["image/filename"].bytes_list.value[0].decode(),
            example["image/class/text"].bytes_list.value[0].decode(),
            example["image/class/label"].int64_list.value[0],
            int(label),
            int(image[0, 0, 0]),
        )


def test_labels_count_from_1_in_order_of_the_names(images, tmp_path):
    output = convert(plan(images, name="animals"), tmp_path / "records").parent
    info = load_dataset_info(output)
    assert (info.name, info.class_names, info.thing_ids, dict(info.splits)) == (
        *("animals", ("ant", "zebra"), ()),
        {"train": 3, "val": 1},
    )
    assert list(read(output, "train", info)) == [
        *(("a.PNG", "ant", 1, 0, 2), ("b.png", "ant", 1, 0, 1), ("1.png", "zebra", 2, 1, 0))
    ]
    assert list(read(output, "val", info)) == [("2.png", "zebra", 2, 1, 3)]


def test_the_preset_is_what_imagenets_own_folders_give():
    preset = load_dataset_info("imagenet")
    assert preset.num_classes == 1000
    assert list(preset.class_names) == sorted(set(preset.class_names))
    assert preset.class_names[0] == "n01440764" and preset.class_names[-1] == "n15075141"
    ours = class_dataset_info("imagenet", preset.class_names)
    assert ours == load_dataset_info("imagenet")


def test_what_is_wrong_is_named(images, tmp_path):
    def error(**arguments):
        with pytest.raises(UserError) as caught:
            convert(plan(images, **arguments), tmp_path / "records")
        return str(caught.value)

    assert error(splits=["test"]) == f"{images / 'test'}: no such folder; expected {{split}}/{{class}}/ with images"
    (images / "flat").mkdir()
    Image.new("L", (3, 3)).save(images / "flat" / "x.png")
    assert error(splits=["flat"]) == f"{images / 'flat'}: holds no folders; expected one for each class"
    (images / "empty" / "ant").mkdir(parents=True)
    assert error(splits=["empty"]) == "split 'empty': there is nothing to convert"
    (images / "val" / "zebra" / "broken.jpg").write_bytes(np.random.default_rng(0).bytes(100))
    assert error().startswith(f"{images / 'val' / 'zebra' / 'broken.jpg'}: not an image")
