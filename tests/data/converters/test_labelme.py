"""Images labelled with labelme become records that show its shapes."""

import base64
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.converters import labelme
from deeplab2_lite.data.records import list_shards, parse_record
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError


def rectangle(label, left, top, right, bottom, group=None):
    return {"label": label, "points": [[left, top], [right, bottom]], "group_id": group, "shape_type": "rectangle"}


SHAPES = [
    rectangle("road", 0, 4, 7, 5),
    rectangle("car", 0, 3, 1, 4, group=1),
    rectangle("car", 3, 3, 4, 4),
    rectangle("tree", 2, 1, 2, 4, group=1),  # of no other label
    rectangle("car", 6, 3, 7, 4, group=1),
    rectangle("_background_", 7, 3, 7, 3),
    rectangle("__ignore__", 0, 5, 1, 5),
    rectangle("tree", 5, 0, 5, 0),
    rectangle("car", 5, 0, 5, 0),
]
# r: road, 1, 2, 3: cars, the first one in two parts, t: the tree in front of it all, v: void, -: background.
PICTURE = ["-----3--", "--t-----", "--t-----", "11t22-1-", "11t22r11", "vvrrrrrr"]


def write_image(path, height=6, width=8, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def write_labels(path, shapes=SHAPES, height=6, width=8, **values):
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.png", "imageData": None}
    path.write_text(json.dumps(content | {"imageHeight": height, "imageWidth": width} | values))


def write_both(folder, stem="a", **values):
    folder.mkdir(parents=True, exist_ok=True)
    write_labels(folder / f"{stem}.json", **values)
    return write_image(folder / f"{stem}.png")


def parsed(folder, split="train"):
    info = load_dataset_info(folder)
    dataset = tf.data.TFRecordDataset([str(path) for path in list_shards(folder, split)])
    return {r.filename.numpy().decode(): r for r in (parse_record(record, info) for record in dataset)}


def picture(ids):
    return [[ids[letter] for letter in row] for row in PICTURE]


def convert_folder(folder, **options):
    convert(labelme.plan(folder, **options), folder / "out", overwrite=True)
    return parsed(folder / "out")


def test_the_command_converts_one_folder(tmp_path):
    pixels = {f"{stem}.png": write_both(tmp_path / "in", stem) for stem in "abcd"}
    words = f"convert labelme --input {tmp_path}/in --output {tmp_path}/out --num_processes 1 --stuff road sky"
    assert cli.main([*words.split(), "--background", "nothing", "--name", "street"]) == 0
    info = load_dataset_info(tmp_path / "out")
    assert (info.name, info.class_names) == ("street", ("car", "tree", "road", "sky", "nothing"))
    assert (info.thing_ids, dict(info.splits)) == ((0, 1), {"train": 3, "val": 1})
    records = parsed(tmp_path / "out") | parsed(tmp_path / "out", "val")
    assert sorted(records) == sorted(pixels)
    # The second tree lies beneath the third car, and is none.
    expected = picture({"1": 1, "2": 2, "3": 3, "t": 1001, "r": 2000, "-": 4000, "v": 255000})
    for name, record in records.items():
        np.testing.assert_array_equal(record.panoptic, expected)
        np.testing.assert_array_equal(record.image, pixels[name])


def test_the_command_converts_splits(tmp_path):
    write_both(tmp_path / "train", "a")
    write_both(tmp_path / "val", "b", shapes=[rectangle("lamp", 0, 0, 0, 0)])
    words = f"convert labelme --input {tmp_path} --output {tmp_path}/out --num_processes 1 --label_divisor 7"
    assert cli.main(words.split()) == 0
    info = load_dataset_info(tmp_path / "out")
    # Without a word, all labels of all splits are things, in the order of their names; the rest is void.
    assert (info.name, info.class_names) == ("labelme", ("car", "lamp", "road", "tree"))
    assert info.thing_ids == (0, 1, 2, 3)
    expected = picture({"1": 1, "2": 2, "3": 3, "t": 22, "r": 15, "-": 1785, "v": 1785})
    np.testing.assert_array_equal(parsed(tmp_path / "out")["a.png"].panoptic, expected)
    panoptic = parsed(tmp_path / "out", "val")["b.png"].panoptic.numpy()
    assert panoptic[0, 0] == 8 and (panoptic.ravel()[1:] == 1785).all()


def test_a_given_label_space_names_labels(tmp_path):
    write_both(tmp_path)
    space = tmp_path / "space.yaml"
    space.write_text(
        "name: town\nlabel_divisor: 10\nclasses:\n- {name: _background_, isthing: false}\n"
        "- {name: road, isthing: false}\n- {name: car, isthing: true}\n- {name: tree, isthing: false}\n"
    )
    [record] = convert_folder(tmp_path, dataset_info=space).values()
    expected = np.array(picture({"1": 21, "2": 22, "3": 23, "t": 30, "r": 10, "-": 2550, "v": 2550}))
    expected[3, 7] = 0
    np.testing.assert_array_equal(record.panoptic, expected)
    [record] = convert_folder(tmp_path, dataset_info=space, background="_background_").values()
    expected[expected == 2550] = 0
    expected[5, :2] = 2550
    np.testing.assert_array_equal(record.panoptic, expected)


def test_things_may_be_listed_and_labels_left_out(tmp_path):
    write_both(tmp_path)
    [record] = convert_folder(tmp_path, things=["car"], void=["__ignore__", "road", "tree"]).values()
    expected = picture({"1": 1, "2": 2, "3": 3, "t": 255000, "r": 255000, "-": 255000, "v": 255000})
    np.testing.assert_array_equal(record.panoptic, expected)


def test_embedded_and_turned_images(tmp_path):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    write_labels(tmp_path / "a.json", imageData=data, imagePath="C:\\photos\\far.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "b.png", exif=exif)
    write_labels(tmp_path / "b.json")
    records = convert_folder(tmp_path, stuff=["road"], val_fraction=0)
    assert sorted(records) == ["b.png", "far.png"]
    for record in records.values():
        np.testing.assert_array_equal(record.image, pixels)
        assert record.panoptic.numpy()[3].tolist() == [1, 1, 1001, 2, 2, 255000, 1, 255000]


def test_lines_are_drawn_when_their_width_is_said(tmp_path):
    line = {"label": "wire", "points": [[0, 3], [7, 3]], "shape_type": "line"}
    write_both(tmp_path, shapes=[line])
    with pytest.raises(UserError, match=r"a\.json: shapes\[0\] \('wire'\): a line has no area; .*--line_width=N"):
        labelme.plan(tmp_path)
    with pytest.raises(UserError, match="--line_width: expected 1 or more, got 0"):
        labelme.plan(tmp_path, line_width=0)
    [record] = convert_folder(tmp_path, line_width=1).values()
    np.testing.assert_array_equal(record.panoptic, np.where(np.arange(6)[:, None] == 3, 1, 255000).repeat(8, axis=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"things": ["car"]}, r"a\.json: label 'road' is none of the label space"),
        ({"things": ["cars"], "stuff": ["road", "tree"]}, r"label 'car' is none .*; did you mean 'cars'\?"),
        ({"dataset_info": "coco", "stuff": ["road"]}, "--dataset_info: says which labels are things and stuff"),
        ({"background": "car", "things": ["car", "tree", "road"]}, "--background=car: is a thing"),
        ({"stuff": ["road"], "void": ["road"]}, "--void=road: is a class of 'labelme'"),
        ({"stuff": ["road", "road"]}, "class 'road' is given twice"),
        (
            {"label_divisor": 2, "stuff": ["tree", "road"]},
            r"a\.json: 3 instances of 'car', but label_divisor 2 holds 1",
        ),
    ],
)
def test_labels_and_options_that_do_not_fit_are_named(tmp_path, options, message):
    write_both(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        convert_folder(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit_are_named(tmp_path):
    write_both(tmp_path, height=7)
    with pytest.raises(UserError, match=r"a\.json: imageHeight and imageWidth are 7 and 8, but the image has 6x8"):
        convert_folder(tmp_path)
    write_labels(tmp_path / "a.json", shapes=[])
    with pytest.raises(UserError, match="no shape in any file; expected labels, --things or --stuff"):
        convert_folder(tmp_path)
    [record] = convert_folder(tmp_path, things=["car"]).values()
    assert (record.panoptic.numpy() == 255000).all()
    write_labels(tmp_path / "b.json", imagePath="a.png")
    # One of them is for training, the other for validation: an image in both would be worse still.
    with pytest.raises(UserError, match=r"is of the same image as .*\.json; expected one file for .*a\.png"):
        convert_folder(tmp_path)
    write_labels(tmp_path / "b.json", imageData="AAAA")
    with pytest.raises(UserError, match=r"b\.json: not an image"):
        convert_folder(tmp_path)
    write_labels(tmp_path / "b.json", imageData="%")
    with pytest.raises(UserError, match=r"b\.json: imageData: not valid base64"):
        convert_folder(tmp_path)


def test_a_changed_label_is_converted_anew(tmp_path):
    write_both(tmp_path)
    convert(labelme.plan(tmp_path), tmp_path / "out")
    write_labels(tmp_path / "a.json", shapes=[*SHAPES, rectangle("road", 0, 0, 7, 5)])
    convert(labelme.plan(tmp_path), tmp_path / "out")
    assert (parsed(tmp_path / "out")["a.png"].panoptic.numpy() == 1001).all()
