"""Which label space an experiment has: the one that is named, that of its folder, or that of the shapes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, load_dataset_info
from deeplab2_lite.errors import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("datasets/*.yaml")), ids=lambda path: path.stem)
def test_every_packaged_label_space_loads(path):
    assert load_dataset_info(path.stem) == load_dataset_info(path)
    # Records of DeepLab2 store other ids; in all else these are the data sets of that name.
    assert load_dataset_info(path).name == path.stem.removeprefix("deeplab2_")


def own_info(folder: Path) -> DatasetInfo:
    folder.mkdir()
    info = DatasetInfo("own", (ClassInfo("cell", True, (1, 2, 3), 7),), splits={"train": 4})
    info.save(folder)
    return info


def test_dataset_info_wins_then_the_folder_then_shapes(tmp_path):
    own = own_info(tmp_path / "records")
    folder = f"data.dir={json.dumps(str(tmp_path / 'records'))}"
    assert resolve_dataset_info(load_config((), folder)) == own
    (tmp_path / "other").mkdir()
    other = dataclasses.replace(own, name="other", stuff_area_limit=9).save(tmp_path / "other")
    overridden = load_config((), f"{folder},data.dataset_info={json.dumps(str(other))}")
    assert resolve_dataset_info(overridden).name == "other"
    # The ids of the records would be those of other classes.
    with pytest.raises(UserError, match=r"data\.dataset_info: cityscapes has num_classes 19, .* has 1; expected the"):
        resolve_dataset_info(load_config((), f"{folder},data.dataset_info=cityscapes"))
    # It need not even be there when the label space is named.
    assert resolve_dataset_info(load_config((), "data.dir=/nowhere,data.dataset_info=coco")).name == "coco"
    assert resolve_dataset_info(load_config((), "data.shapes={}")).name == "shapes"
    assert resolve_dataset_info(load_config((), "data.shapes={},data.dataset_info=coco")).name == "coco"
    path = tmp_path / "records" / "dataset_info.yaml"
    assert resolve_dataset_info(load_config((), f"data.dataset_info={json.dumps(str(path))}")) == own


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("", "data.dir: not set; expected a folder of TFRecords with its dataset_info.yaml"),
        ("data.dir=/no/where", "data.dir: no folder /no/where; expected one written by 'deeplab2-lite convert'"),
        (
            "data.dataset_info=cityscape",
            "dataset_info 'cityscape': neither a preset, a file nor a folder; did you mean 'cityscapes'?",
        ),
    ],
)
def test_label_spaces_that_are_not_there(override, message):
    with pytest.raises(UserError) as caught:
        resolve_dataset_info(load_config((), override))
    assert str(caught.value) == message


def test_a_folder_without_label_space_is_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        resolve_dataset_info(load_config((), f"data.dir={json.dumps(str(tmp_path))}"))
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}: no dataset_info.yaml in this folder; expected a folder written by 'deeplab2-lite convert'"
    )
    assert "data.dataset_info: deeplab2_ade20k, deeplab2_cityscapes, deeplab2_coco" in message
