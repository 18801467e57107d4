"""Label spaces: presets, YAML, COCO categories, and what is refused."""

import json

import numpy as np
import pytest
import yaml

from deeplab2_lite.dataset_info import DatasetInfo, dataset_info_from_categories, load_dataset_info
from deeplab2_lite.errors import UserError

CATEGORIES = [
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 2, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
]


@pytest.mark.parametrize(
    ("name", "classes", "things", "limit"),
    [("cityscapes", 19, 8, 2048), ("mapillary_vistas", 65, 37, 4096), ("coco", 133, 80, 4096), ("shapes", 9, 4, 64)],
)
def test_presets(name, classes, things, limit):
    info = load_dataset_info(name)
    assert (info.name, info.num_classes, len(info.thing_ids), info.stuff_area_limit) == (name, classes, things, limit)
    assert (info.ignore_label, info.label_divisor, info.void_id) == (255, 1000, 255000)
    assert set(info.thing_ids) | set(info.stuff_ids) == set(range(classes))
    assert len(set(info.class_names)) == classes
    assert len({c.original_id for c in info.classes}) == classes


def test_cityscapes_is_the_official_table():
    info = load_dataset_info("cityscapes")
    assert [c.name for c in info.classes if c.isthing] == [
        *("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    ]
    assert [c.original_id for c in info.classes] == [
        *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    ]
    assert dict(zip(info.class_names, info.colors.tolist(), strict=True))["car"] == [0, 0, 142]


@pytest.mark.real_data
def test_presets_match_the_sources(real_data):
    labels = json.loads((real_data / "mapillary_vistas/config_v1.1.json").read_text())["labels"]
    vistas = load_dataset_info("mapillary_vistas")
    for index, label in enumerate(labels[:65]):
        expected = (label["readable"], label["instances"], tuple(label["color"]), index)
        c = vistas.classes[index]
        assert (c.name, c.isthing, c.color, c.original_id) == expected
    coco = load_dataset_info(real_data / "coco/annotations/panoptic_val2017.json")
    assert coco.classes == load_dataset_info("coco").classes


def test_save_and_load_by_folder_and_file(tmp_path):
    info = dataset_info_from_categories("pets", CATEGORIES)
    path = info.save(tmp_path)
    assert load_dataset_info(tmp_path) == load_dataset_info(path) == info


def test_categories_become_contiguous_by_id(tmp_path):
    path = tmp_path / "pets.json"
    path.write_text(json.dumps({"categories": CATEGORIES}))
    info = load_dataset_info(path)
    assert info.class_names == ("cat", "sky")
    assert info.thing_ids == (0,) and info.stuff_ids == (1,)
    assert [c.original_id for c in info.classes] == [2, 7]
    assert info.classes[0].color == (1, 2, 3)
    np.testing.assert_array_equal(info.colors[0], [1, 2, 3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": [{"name": "a", "isthing": 1}]}, r"classes\[0\]: isthing: expected true or false, got 1"),
        ({"classes": [{"isthing": True}]}, r"classes\[0\]: name: expected text"),
        ({"classes": []}, "classes: expected a list"),
        ({"classes": [{"name": "a", "isthing": True, "colour": [0, 0, 0]}]}, "did you mean 'color'"),
        ({"classes": [{"name": "a", "isthing": True, "color": [0, 0, 256]}]}, "color: expected three integers"),
        ({"labels": []}, "unknown key 'labels'"),
        ({"classes": [{"name": "a", "isthing": True}], "ignore_label": 0}, "ignore_label: expected an id"),
        ({"classes": [{"name": "a", "isthing": True}], "label_divisor": 0}, "label_divisor: expected a positive"),
        ({"classes": [{"name": "a", "isthing": True}], "label_divisor": 65537}, "above 16777215"),
        ({"classes": [{"name": "a", "isthing": True}], "label_divisor": "x"}, "label_divisor: expected an integer"),
    ],
)
def test_bad_yaml_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message) as caught:
        load_dataset_info(path)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean 'cityscapes'"):
        load_dataset_info("cityscape")
    with pytest.raises(UserError, match=r"no dataset_info\.yaml in this folder"):
        load_dataset_info(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_dataset_info(tmp_path / "bad.json")


def test_categories_with_the_same_id_are_refused():
    with pytest.raises(UserError, match="two categories have the same id"):
        dataset_info_from_categories("pets", [CATEGORIES[0], CATEGORIES[0]])
    with pytest.raises(UserError, match="no key 'isthing'"):
        dataset_info_from_categories("pets", [{"id": 1, "name": "cat"}])


def test_max_instances_leaves_zero_for_none():
    info = DatasetInfo("pets", dataset_info_from_categories("pets", CATEGORIES).classes, label_divisor=10)
    assert info.max_instances == 9
