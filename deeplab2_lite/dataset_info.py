"""Reading label spaces: from YAML files, from categories in COCO's format, and the presets in `configs/datasets/`."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deeplab2_lite.errors import UserError, nearest_name
from deeplab2_lite.files import packaged_configs, read_json
from deeplab2_lite.label_space import (
    FILE_NAME,
    MAX_PANOPTIC_ID,
    ClassInfo,
    DatasetInfo,
    distinct_colors,
    label_space_difference,
)
from deeplab2_lite.stored_labels import stored_labels_from_dict
from deeplab2_lite.yaml_files import read_yaml

__all__ = [
    "FILE_NAME",
    "MAX_PANOPTIC_ID",
    "ClassInfo",
    "DatasetInfo",
    "dataset_info_from_categories",
    "deeplab2_preset_of",
    "deeplab2_presets",
    "distinct_colors",
    "label_space_difference",
    "load_dataset_info",
    "load_preset",
]

_DEEPLAB2_PREFIX = "deeplab2_"


def load_dataset_info(source: str | Path) -> DatasetInfo:
    """Loads a label space.

    Args:
        source: A `dataset_info.yaml`, a folder that holds one, a COCO-panoptic JSON (its `categories`), or the
            name of a preset: "cityscapes", "coco", "mapillary_vistas", "mapillary_vistas_v2", "shapes", "imagenet",
            or that of records which DeepLab2 wrote, such as "deeplab2_coco".

    Returns:
        The label space.

    Raises:
        UserError: Nothing is there, or it is no label space.
    """
    path = Path(source)
    if path.is_dir() and (path / FILE_NAME).is_file():
        path = path / FILE_NAME
    if path.is_file():
        if path.suffix == ".json":
            return dataset_info_from_categories(path.stem, _read_categories(path), path)
        return _from_yaml(path)
    presets = _preset_paths()
    if str(source) in presets:
        return _from_yaml(presets[str(source)])
    if path.is_dir():
        raise UserError(
            f"{path}: no {FILE_NAME} in this folder; expected a folder written by 'deeplab2-lite convert', or for "
            f"records that DeepLab2 wrote its preset as data.dataset_info: {', '.join(deeplab2_presets())}"
        )
    raise UserError(
        f"dataset_info '{source}': neither a preset, a file nor a folder{nearest_name(str(source), presets)}"
    )


def load_preset(name: str) -> DatasetInfo:
    """Loads the label space that the library knows by a name, whatever lies in the current folder.

    Args:
        name: Of the preset, such as "coco".

    Returns:
        The label space.
    """
    return _from_yaml(_preset_paths()[name])


def deeplab2_presets() -> tuple[str, ...]:
    """Returns the names of the presets for records that DeepLab2 wrote, whose folders hold no `dataset_info.yaml`."""
    return tuple(name for name in _preset_paths() if name.startswith(_DEEPLAB2_PREFIX))


def deeplab2_preset_of(info: DatasetInfo) -> str | None:
    """Returns the preset for DeepLab2's records of a data set where these are numbered otherwise, else None.

    Args:
        info: A label space that says nothing of how its records are numbered.
    """
    name = _DEEPLAB2_PREFIX + info.name
    return name if name in deeplab2_presets() and load_dataset_info(name).stores_other_ids else None


def dataset_info_from_categories(
    name: str, categories: list[Mapping[str, Any]], source: str | Path | None = None
) -> DatasetInfo:
    """Builds a label space from COCO-panoptic categories, contiguous in the order of their ids.

    Args:
        name: Name of the data set.
        categories: Mappings with `id`, `name`, `isthing`, and optionally `color` and `supercategory`; of a path
            such as Mapillary's "object--vehicle--car" the first part is the class's category.
        source: The file that they stand in, for messages; None is the name.

    Returns:
        The label space, with COCO's stuff area limit of 4096 pixels (paper section 4).

    Raises:
        UserError: A category lacks a key or has a value of another type, or two have the same id.
    """
    where = source or name
    for category in categories:
        if not isinstance(category, Mapping):
            raise UserError(f"{where}: category {category!r}: expected an object with 'id', 'name' and 'isthing'")
        for key in ("id", "name", "isthing"):
            if key not in category:
                raise UserError(f"{where}: category {dict(category)}: no key '{key}'")
        if type(category["id"]) is not int:
            raise UserError(f"{where}: category {dict(category)}: id: expected an integer")
    categories = sorted(categories, key=lambda c: c["id"])
    fallback = distinct_colors(len(categories))
    classes = []
    for position, category in enumerate(categories):
        color = _color_of(f"{where}: category '{category['name']}'", category.get("color", fallback[position]))
        group = str(category["supercategory"]).split("--")[0] if category.get("supercategory") else None
        classes.append(ClassInfo(str(category["name"]), bool(category["isthing"]), color, int(category["id"]), group))
    ids = [c.original_id for c in classes]
    if len(set(ids)) != len(ids):
        raise UserError(f"{where}: two categories have the same id")
    ignore_label = 255 if len(classes) <= 255 else len(classes)
    return DatasetInfo(name, tuple(classes), ignore_label=ignore_label, stuff_area_limit=4096)


def _read_categories(path: Path) -> list[Mapping[str, Any]]:
    content = read_json(path)
    categories = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(categories, list) or not all(isinstance(c, dict) for c in categories):
        raise UserError(f"{path}: expected a list 'categories' of objects, as in COCO-panoptic annotations")
    return categories


def _color_of(where: str, value: Any) -> tuple[int, int, int]:
    is_color = isinstance(value, list | tuple) and len(value) == 3
    if not is_color or not all(type(v) is int and 0 <= v <= 255 for v in value):
        raise UserError(f"{where}: color: expected three integers in 0..255, got {value!r}")
    return tuple(value)


@functools.cache
def _preset_paths() -> dict[str, Path]:
    return {path.stem: path for path in sorted((packaged_configs() / "datasets").glob("*.yaml"))}


def _from_yaml(path: Path) -> DatasetInfo:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping with 'name' and 'classes'")
    valid = ("name", "ignore_label", "label_divisor", "stuff_area_limit", "splits", "stored", "classes")
    for key in content:
        if key not in valid:
            raise UserError(f"{path}: unknown key '{key}'{nearest_name(str(key), valid)}")
    classes = _read_classes(path, content.get("classes"))
    integers = {k: content[k] for k in ("ignore_label", "label_divisor", "stuff_area_limit") if k in content}
    for key, value in integers.items():
        if type(value) is not int:
            raise UserError(f"{path}: {key}: expected an integer, got {value!r}")
    splits = content.get("splits") or {}
    if not isinstance(splits, dict) or not all(type(count) is int for count in splits.values()):
        raise UserError(f"{path}: splits: expected a mapping from split to number of records, got {splits!r}")
    info = DatasetInfo(str(content.get("name", path.stem)), classes, splits=splits, **integers)
    if content.get("stored") is None:
        return info
    stored = stored_labels_from_dict(
        f"{path}: stored", content["stored"], info.num_classes, info.label_divisor, info.ignore_label
    )
    return replace(info, stored=stored)


def _read_classes(path: Path, rows: Any) -> tuple[ClassInfo, ...]:
    if isinstance(rows, str):
        presets = {name: preset for name, preset in _preset_paths().items() if preset != path}
        if rows not in presets:
            raise UserError(f"{path}: classes: '{rows}' is no preset{nearest_name(rows, presets)}")
        return _from_yaml(presets[rows]).classes
    if not isinstance(rows, list) or not rows:
        raise UserError(
            f"{path}: classes: expected a list of classes with 'name' and 'isthing', or the name of a preset"
        )
    fallback = distinct_colors(len(rows))
    return tuple(_class_from_row(path, i, row, fallback[i]) for i, row in enumerate(rows))


def _class_from_row(path: Path, index: int, row: Any, fallback: tuple[int, int, int]) -> ClassInfo:
    where = f"{path}: classes[{index}]"
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a mapping with 'name' and 'isthing', got {row!r}")
    valid = ("name", "isthing", "color", "original_id", "category", "average_area")
    for key in row:
        if key not in valid:
            raise UserError(f"{where}: unknown key '{key}'{nearest_name(str(key), valid)}")
    if not isinstance(row.get("name"), str):
        raise UserError(f"{where}: name: expected text, got {row.get('name')!r}")
    if not isinstance(row.get("isthing"), bool):
        raise UserError(f"{where}: isthing: expected true or false, got {row.get('isthing')!r}")
    color = _color_of(where, row.get("color", fallback))
    original_id = row.get("original_id", index)
    if type(original_id) is not int:
        raise UserError(f"{where}: original_id: expected an integer, got {original_id!r}")
    category = row.get("category")
    if category is not None and not isinstance(category, str):
        raise UserError(f"{where}: category: expected text, got {category!r}")
    area = row.get("average_area")
    if area is not None and (isinstance(area, bool) or not isinstance(area, int | float) or not 0 < area < math.inf):
        raise UserError(f"{where}: average_area: expected a number of pixels above 0, got {area!r}")
    area = None if area is None else float(area)
    return ClassInfo(row["name"], row["isthing"], tuple(color), original_id, category, area)
