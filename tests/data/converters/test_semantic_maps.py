"""Images with maps of class ids become records of stuff, crowds, or connected regions."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.converters import semantic_maps as maps
from deeplab2_lite.data.records import list_shards, parse_record
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError

SPACE = """name: street
label_divisor: 20
classes:
- {name: road, isthing: false, original_id: 7}
- {name: car, isthing: true, original_id: 26}
- {name: sky, isthing: false, original_id: 23}
- {name: plate, isthing: true, original_id: -1}
"""
VALUES = np.array([[7, 26, 23, 26], [26, 7, 23, 26], [255, 7, 7, 26]], np.uint8)


def write_split(folder, split="train", names=("a",), values=VALUES):
    for part in ("images", "labels"):
        (folder / split / part).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        image = rng.integers(0, 256, (*values.shape, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / split / "images" / f"{name}.jpg")
        Image.fromarray(values).save(folder / split / "labels" / f"{name}.png")


def parsed(folder, split="train"):
    info = load_dataset_info(folder)
    dataset = tf.data.TFRecordDataset([str(path) for path in list_shards(folder, split)])
    return [parse_record(record, info) for record in dataset]


def convert_train(folder, **options):
    conversion = maps.plan(maps.folder_layout(folder, ["train"]), **options)
    convert(conversion, folder / "out", overwrite=True)
    return parsed(folder / "out")[0].panoptic.numpy()


def test_the_command_converts_stuff_by_name(tmp_path):
    values = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
    write_split(tmp_path, "train", ["a", "b"], values)
    write_split(tmp_path, "val", ["c"], values)
    words = f"convert semantic_maps --input {tmp_path} --output {tmp_path}/out --num_processes 1 --name land "
    assert cli.main([*words.split(), "--classes", "soil", "water", "forest"]) == 0
    info = load_dataset_info(tmp_path / "out")
    assert (info.name, info.class_names, info.thing_ids) == ("land", ("soil", "water", "forest"), ())
    assert dict(info.splits) == {"train": 2, "val": 1}
    records = [*parsed(tmp_path / "out"), *parsed(tmp_path / "out", "val")]
    assert [record.filename.numpy() for record in records] == [b"a.jpg", b"b.jpg", b"c.jpg"]
    for record in records:
        assert record.panoptic.numpy().tolist() == [[0, 1000, info.void_id], [2000, 2000, 0]]
    shown = np.asarray(Image.open(tmp_path / "train" / "images" / "b.jpg"))
    np.testing.assert_array_equal(records[1].image, shown)


def test_the_command_takes_any_layout_and_tells_regions_apart(tmp_path):
    write_split(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    folders = f"{tmp_path}/train/images {tmp_path}/train/labels"
    words = f"convert semantic_maps --split test {folders} --output {tmp_path}/out --num_processes 1"
    words += f" --dataset_info {tmp_path}/space.yaml --instances connected_components"
    assert cli.main(words.split()) == 0
    [record] = parsed(tmp_path / "out", "test")
    assert record.panoptic.numpy().tolist() == [[0, 21, 40, 22], [21, 0, 40, 22], [5100, 0, 0, 22]]


def test_things_are_crowds_unless_asked(tmp_path):
    write_split(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    panoptic = convert_train(tmp_path, dataset_info=tmp_path / "space.yaml")
    assert panoptic.tolist() == [[0, 20, 40, 20], [20, 0, 40, 20], [5100, 0, 0, 20]]
    panoptic = convert_train(tmp_path, dataset_info=tmp_path / "space.yaml", label_divisor=100)
    assert panoptic.tolist() == [[0, 100, 200, 100], [100, 0, 200, 100], [25500, 0, 0, 100]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, "palette"])
def test_maps_of_all_depths(tmp_path, dtype):
    values = np.array([[3, 1], [0, 2]], np.uint8 if dtype == "palette" else dtype)
    write_split(tmp_path, values=values)
    if dtype == "palette":
        image = Image.fromarray(values, "P")
        image.putpalette([9, 9, 9, 200, 0, 0, 9, 9, 9, 0, 0, 200])
        image.save(tmp_path / "train" / "labels" / "a.png")
    assert convert_train(tmp_path, classes=["a", "b", "c", "d"]).tolist() == [[3000, 1000], [0, 2000]]


def test_void_values(tmp_path):
    write_split(tmp_path, values=np.array([[0, 1, 5]], np.uint8))
    assert convert_train(tmp_path, classes=["a", "b"], void=[5]).tolist() == [[0, 1000, 255000]]
    # What is given takes the place of 255, and so does a class.
    write_split(tmp_path, values=np.array([[0, 1, 255]], np.uint8))
    with pytest.raises(UserError, match=r"a\.png: holds the value 255 \(1 pixels\), which is neither .* void \(5\)"):
        convert_train(tmp_path, classes=["a", "b"], void=[5])
    names = [f"class {i}" for i in range(256)]
    assert convert_train(tmp_path, classes=names).tolist() == [[0, 1000, 255000]]
    assert load_dataset_info(tmp_path / "out").ignore_label == 256


def test_what_has_no_meaning_is_named(tmp_path):
    write_split(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    with pytest.raises(
        UserError, match=r"a\.png: holds the value 26 \(5 pixels\), .* 'semantic_maps' nor void \(255\)"
    ):
        convert_train(tmp_path, classes=[f"class {i}" for i in range(24)])
    with pytest.raises(UserError, match="--void: 26 is the class 'car'"):
        convert_train(tmp_path, dataset_info=tmp_path / "space.yaml", void=[26])
    with pytest.raises(UserError, match="--void: -1 is the class 'plate'"):
        convert_train(tmp_path, dataset_info=tmp_path / "space.yaml", void=[-1])
    with pytest.raises(UserError, match="--void: -2 is negative"):
        convert_train(tmp_path, dataset_info=tmp_path / "space.yaml", void=[-2])
    with pytest.raises(UserError, match="either --dataset_info or --classes"):
        convert_train(tmp_path)
    with pytest.raises(UserError, match="class 'a' is given twice"):
        convert_train(tmp_path, classes=["a", "b", "a"])
    (tmp_path / "space.yaml").write_text(SPACE.replace("original_id: 23", "original_id: 7"))
    with pytest.raises(UserError, match="'street': two classes have the original_id 7"):
        convert_train(tmp_path, dataset_info=tmp_path / "space.yaml")


def test_what_does_not_fit_is_named(tmp_path):
    write_split(tmp_path, values=np.eye(5, dtype=np.uint8)[::2])
    (tmp_path / "space.yaml").write_text(
        "name: dots\nlabel_divisor: 3\nclasses:\n- {name: ground, isthing: false}\n- {name: dot, isthing: true}\n"
    )
    with pytest.raises(UserError, match=r"a\.png: 3 instances of 'dot', but label_divisor 3 holds 2"):
        convert_train(tmp_path, dataset_info=tmp_path / "space.yaml", instances="connected_components")
    label = tmp_path / "train" / "labels" / "a.png"
    Image.new("L", (4, 3)).save(label)
    with pytest.raises(UserError, match=r"a\.png: 3x4 pixels, but its image .*a\.jpg has 3x5"):
        convert_train(tmp_path, classes=["a", "b"])
    Image.new("RGB", (5, 3)).save(label)
    with pytest.raises(UserError, match=r"a\.png: expected one channel"):
        convert_train(tmp_path, classes=["a", "b"])
    label.rename(tmp_path / "train" / "labels" / "b.png")
    with pytest.raises(UserError, match=r"a\.jpg: has no label; expected .*labels/a\.png"):
        convert_train(tmp_path, classes=["a", "b"])
    with pytest.raises(UserError, match=r"val/images: no such folder; expected \{split\}/images and \{split\}/labels"):
        maps.plan(maps.folder_layout(tmp_path, ["val"]), classes=["a"])


@pytest.mark.real_data
def test_real_cityscapes_label_ids(real_data, tmp_path):
    cityscapes = real_data / "cityscapes"
    label = sorted((cityscapes / "gtFine" / "train" / "aachen").glob("*_labelIds.png"))[0]
    name = label.name.replace("gtFine_labelIds", "leftImg8bit")
    image = cityscapes / "leftImg8bit" / "train" / "aachen" / name
    for part, path in (("images", image), ("labels", label)):
        (tmp_path / "train" / part).mkdir(parents=True)
        (tmp_path / "train" / part / "aachen.png").symlink_to(path)
    info = load_dataset_info("cityscapes")
    values = np.asarray(Image.open(label)).astype(int)
    classes = {c.original_id: i for i, c in enumerate(info.classes)}
    void = sorted(set(range(34)) - set(classes))
    panoptic = convert_train(tmp_path, dataset_info="cityscapes", void=void)
    expected = np.vectorize(lambda value: classes.get(value, 255))(values) * 1000
    np.testing.assert_array_equal(panoptic, expected)
