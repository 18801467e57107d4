"""Label spaces: presets, YAML, COCO categories, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import yaml

from deeplab2_lite.dataset_info import (
    DatasetInfo,
    dataset_info_from_categories,
    deeplab2_preset_of,
    deeplab2_presets,
    load_dataset_info,
    load_preset,
)
from deeplab2_lite.errors import UserError
from deeplab2_lite.stored_labels import StoredLabels

CATEGORIES = [
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 2, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
]


@pytest.mark.parametrize(
    ("name", "classes", "things", "limit"),
    [
        ("cityscapes", 19, 8, 2048),
        ("mapillary_vistas", 65, 37, 4096),
        ("mapillary_vistas_v2", 116, 70, 4096),
        ("coco", 133, 80, 4096),
        ("shapes", 9, 4, 64),
    ],
)
def test_presets(name, classes, things, limit):
    info = load_dataset_info(name)
    assert (info.name, info.num_classes, len(info.thing_ids), info.stuff_area_limit) == (name, classes, things, limit)
    assert (info.ignore_label, info.label_divisor, info.void_id) == (255, 1000, 255000)
    assert set(info.thing_ids) | set(info.stuff_ids) == set(range(classes))
    assert len(set(info.class_names)) == classes
    assert len({c.original_id for c in info.classes}) == classes


@pytest.mark.parametrize(
    ("name", "classes", "things", "stored"),
    [
        ("ade20k", 150, 100, StoredLabels(1000, 0, tuple(range(1, 151)))),
        ("cityscapes", 19, 8, StoredLabels(1000, 255, tuple(range(19)))),
        ("coco", 133, 80, StoredLabels(256, 0, tuple(range(1, 134)))),
        ("kitti_step", 19, 2, StoredLabels(1000, 255, tuple(range(19)))),
        ("motchallenge_step", 7, 1, StoredLabels(1000, 255, tuple(range(7)))),
    ],
)
def test_presets_of_deeplab2(name, classes, things, stored):
    info = load_dataset_info(f"deeplab2_{name}")
    assert (info.name, info.num_classes, len(info.thing_ids), info.stored) == (name, classes, things, stored)
    assert (info.ignore_label, info.label_divisor) == (255, 1000)
    assert len(set(info.class_names)) == classes
    assert info.stores_other_ids == (stored.ignore_label == 0)
    assert f"deeplab2_{name}" in deeplab2_presets()


def test_presets_of_deeplab2_have_the_classes_of_ours():
    for name in ("coco", "cityscapes"):
        theirs, ours = load_dataset_info(f"deeplab2_{name}"), load_dataset_info(name)
        assert dataclasses.replace(theirs, stored=None) == ours
    street = load_dataset_info("cityscapes").class_names
    kitti = load_dataset_info("deeplab2_kitti_step")
    assert kitti.class_names == street
    assert [kitti.class_names[i] for i in kitti.thing_ids] == ["person", "car"]
    walk = load_dataset_info("deeplab2_motchallenge_step")
    assert walk.class_names == ("sidewalk", "building", "vegetation", "sky", "person", "rider", "bicycle")
    assert walk.thing_ids == (4,)
    rooms = load_dataset_info("deeplab2_ade20k")
    assert [rooms.class_names[i] for i in (0, 2, 12, 20, 149)] == ["wall", "sky", "person", "car", "flag"]
    assert [rooms.classes[i].isthing for i in (0, 2, 12, 20, 149)] == [False, False, True, True, True]


def test_preset_of_deeplab2_is_named_where_ids_would_be_misread():
    assert deeplab2_preset_of(load_dataset_info("coco")) == "deeplab2_coco"
    assert deeplab2_preset_of(load_dataset_info("cityscapes")) is None
    assert deeplab2_preset_of(load_dataset_info("shapes")) is None


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


@pytest.mark.parametrize("class_ids", [(5, 6), (9, 2)])
def test_stored_labels_survive(tmp_path, class_ids):
    info = dataset_info_from_categories("pets", CATEGORIES)
    info = dataclasses.replace(info, stored=StoredLabels(256, 0, class_ids))
    assert load_dataset_info(info.save(tmp_path)) == info
    assert info.stores_other_ids


def test_stored_labels_default_to_the_label_space(tmp_path):
    path = tmp_path / "space.yaml"
    content = {"classes": "cityscapes", "label_divisor": 500, "stored": {}}
    path.write_text(yaml.safe_dump(content))
    info = load_dataset_info(path)
    assert info.classes == load_dataset_info("cityscapes").classes and info.name == "space"
    assert info.stored == StoredLabels(500, 255, tuple(range(19))) and not info.stores_other_ids
    path.write_text(yaml.safe_dump(content | {"stored": {"first_class": 1}}))
    assert load_dataset_info(path).stored == StoredLabels(500, 255, tuple(range(1, 20)))


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
        ({"classes": "cityscape"}, "classes: 'cityscape' is no preset; did you mean 'cityscapes'"),
        ({"classes": "coco", "stored": 256}, "stored: expected a mapping of label_divisor, ignore_label, first_class"),
        ({"classes": "coco", "stored": {"divisor": 256}}, "stored: unknown key 'divisor'; did you mean"),
        ({"classes": "coco", "stored": {"label_divisor": "256"}}, "stored: label_divisor: expected an integer"),
        ({"classes": "coco", "stored": {"label_divisor": 0}}, "stored: label_divisor: expected a positive integer"),
        ({"classes": "coco", "stored": {"ignore_label": 0}}, "stored: expected a different id .*, got 0 twice"),
        ({"classes": "coco", "stored": {"ignore_label": -1}}, "stored: expected ids of 0 or more, got -1"),
        ({"classes": "coco", "stored": {"class_ids": [1, 2]}}, "class_ids: expected one id for each of 133 classes"),
        ({"classes": "coco", "stored": {"class_ids": "1"}}, "stored: class_ids: expected a list of integers"),
        ({"classes": "coco", "stored": {"class_ids": [1], "first_class": 1}}, "either first_class or class_ids, got"),
        ({"classes": "coco", "stored": {"label_divisor": 65537}}, "gives ids above 16777215"),
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
    with pytest.raises(UserError, match=r"no dataset_info\.yaml in this folder.*DeepLab2.*deeplab2_coco"):
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


def test_a_folder_with_the_name_of_a_preset_does_not_hide_it(tmp_path, monkeypatch):
    preset = load_dataset_info("coco")
    (tmp_path / "coco").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_dataset_info("coco") == preset
    # One that holds records does; what the library means by a name is another question.
    load_dataset_info("shapes").save(tmp_path / "coco")
    assert load_dataset_info("coco").name == "shapes"
    assert load_preset("coco") == preset
