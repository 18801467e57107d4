"""Folders of images and instance masks become records that say the same."""

import argparse

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.converters import instance_masks as masks
from deeplab2_lite.data.records import list_shards, parse_record
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError

RNG = np.random.default_rng(0)


def write_split(folder, names, ids=None):
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        mask = RNG.choice(np.array([0, 3, 900, 40000], np.uint16), (6, 8)) if ids is None else ids
        image = RNG.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def parsed(folder, split):
    info = load_dataset_info(folder)
    dataset = tf.data.TFRecordDataset([str(path) for path in list_shards(folder, split)])
    return {r.filename.numpy().decode(): r for r in (parse_record(record, info) for record in dataset)}


def assert_same(record, image_path, mask_path, divisor):
    np.testing.assert_array_equal(record.image, np.asarray(Image.open(image_path).convert("RGB")))
    ids, panoptic = np.asarray(Image.open(mask_path)).astype(int), record.panoptic.numpy()
    assert set(np.unique(panoptic)) <= {0, *range(divisor + 1, 2 * divisor)}
    assert ((ids == 0) == (panoptic == 0)).all()
    # Ids map one to one, and in their order, to 1..n.
    pairs = sorted(set(zip(ids[ids > 0].tolist(), panoptic[ids > 0].tolist(), strict=True)))
    assert [new for _, new in pairs] == [divisor + 1 + i for i in range(len(pairs))]
    assert len({old for old, _ in pairs}) == len(pairs)


def test_renumber_keeps_order_and_background():
    assert masks.renumber(np.array([[0, 7], [40000, 2]])).tolist() == [[0, 2], [3, 1]]
    assert masks.renumber(np.array([[9, 9]])).tolist() == [[1, 1]]
    assert masks.renumber(np.zeros((2, 2), np.int32)).tolist() == [[0, 0], [0, 0]]


def test_records_equal_the_sources(tmp_path):
    write_split(tmp_path / "in" / "train", ["a", "b"])
    write_split(tmp_path / "in" / "val", ["c"], np.zeros((5, 4), np.uint16))
    convert(masks.plan(tmp_path / "in", name="cells", object_name="cell", label_divisor=50), tmp_path / "out")
    info = load_dataset_info(tmp_path / "out")
    assert (info.name, info.class_names, info.thing_ids, info.label_divisor) == (
        "cells",
        ("background", "cell"),
        (1,),
        50,
    )
    assert dict(info.splits) == {"train": 2, "val": 1}
    records = parsed(tmp_path / "out", "train")
    assert list(records) == ["a.png", "b.png"]
    for name, record in records.items():
        source = tmp_path / "in" / "train"
        assert_same(record, source / "images" / name, source / "masks" / name, 50)
    assert not parsed(tmp_path / "out", "val")["c.png"].panoptic.numpy().any()


def test_images_and_masks_of_other_suffixes_pair_up(tmp_path):
    folder = tmp_path / "in" / "train"
    write_split(folder, ["a.b"])
    Image.open(folder / "images" / "a.b.png").save(folder / "images" / "a.b.TIF")
    (folder / "images" / "a.b.png").unlink()
    (folder / "images" / ".DS_Store").write_bytes(b"x")
    assert masks.find_pairs(folder) == [(folder / "images" / "a.b.TIF", folder / "masks" / "a.b.png")]


def test_lonely_and_double_files_are_named(tmp_path):
    write_split(tmp_path, ["a", "b"])
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(UserError, match=r"images/b\.png: has no mask; expected .*masks/b\.png"):
        masks.find_pairs(tmp_path)
    (tmp_path / "images" / "b.png").unlink()
    (tmp_path / "images" / "a.png").rename(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"masks/a\.png: has no image"):
        masks.find_pairs(tmp_path)
    (tmp_path / "c.png").rename(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"images/a\.png: has the same name as a\.jpg"):
        masks.find_pairs(tmp_path)
    with pytest.raises(UserError, match="images: no such folder"):
        masks.find_pairs(tmp_path / "absent")


def test_more_instances_than_the_divisor_holds_are_refused(tmp_path):
    write_split(tmp_path / "in" / "train", ["many"], np.arange(12, dtype=np.uint16).reshape(3, 4))
    message = r"masks/many\.png: 11 instances of 'object', but label_divisor 11 .*--label_divisor=12"
    with pytest.raises(UserError, match=message):
        convert(masks.plan(tmp_path / "in", splits=["train"], label_divisor=11), tmp_path / "out")
    convert(masks.plan(tmp_path / "in", splits=["train"], label_divisor=12), tmp_path / "out")
    assert parsed(tmp_path / "out", "train")["many.png"].panoptic.numpy().max() == 23


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_files_are_named_and_nothing_is_half_written(tmp_path, processes):
    folder = tmp_path / "in" / "train"
    write_split(folder, ["a", "b", "c"])
    Image.fromarray(np.zeros((6, 7), np.uint16)).save(folder / "masks" / "b.png")
    with pytest.raises(UserError, match=r"masks/b\.png: 6x7 pixels, but its image .*b\.png has 6x8"):
        convert(masks.plan(tmp_path / "in", splits=["train"]), tmp_path / "out", num_processes=processes)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["conversion.json"]


def test_sixteen_bit_images_need_a_word(tmp_path):
    write_split(tmp_path / "in" / "train", ["a"])
    deep = (np.arange(48).reshape(6, 8) * 1000).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "in" / "train" / "images" / "a.png")
    with pytest.raises(UserError, match=r"a\.png: 16 bits"):
        convert(masks.plan(tmp_path / "in", splits=["train"]), tmp_path / "out")
    convert(masks.plan(tmp_path / "in", splits=["train"], high_depth="full_range"), tmp_path / "out", overwrite=True)
    image = parsed(tmp_path / "out", "train")["a.png"].image.numpy()
    np.testing.assert_array_equal(image, np.repeat(np.rint(deep / 257)[..., None], 3, axis=2))


def test_command_line(tmp_path):
    write_split(tmp_path / "in" / "train", ["a"])
    parser = argparse.ArgumentParser()
    masks.add_arguments(parser)
    options = (
        f"--input {tmp_path}/in --output {tmp_path}/out --splits train --name n --object_name cell --num_processes 1"
    )
    masks.run(parser.parse_args(options.split()))
    info = load_dataset_info(tmp_path / "out")
    assert (info.name, info.class_names[1], dict(info.splits)) == ("n", "cell", {"train": 1})


@pytest.mark.real_data
@pytest.mark.parametrize(("split", "count"), [("val", 50), pytest.param("train", 431, marks=pytest.mark.slow)])
def test_real_nuclei_equal_their_sources(real_data, tmp_path, split, count):
    source = real_data / "nuclei" / split
    convert(masks.plan(real_data / "nuclei", splits=[split], object_name="nucleus"), tmp_path)
    records = parsed(tmp_path, split)
    assert len(records) == count
    for name, record in records.items():
        assert_same(record, source / "images" / name, source / "masks" / name, 1000)
