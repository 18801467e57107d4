"""Reading an `ExperimentConfig` from YAML files and overrides, strictly typed."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from deeplab2_lite.config import DataConfig, ExperimentConfig
from deeplab2_lite.config_validation import validate
from deeplab2_lite.dataset_info import FILE_NAME, DatasetInfo, load_dataset_info, load_preset
from deeplab2_lite.errors import UserError, nearest_name
from deeplab2_lite.files import packaged_configs, write_text_atomically
from deeplab2_lite.yaml_files import parse_yaml, read_yaml

# TensorFlow's widest integers.
_INTEGER_LIMIT = 2**63
# A quoted text where a value begins (elsewhere a quote is an apostrophe), or one character.
_OVERRIDE_TOKEN = re.compile(r"""(?<=[=,:\[{])\s*(?:'(?:[^']|'')*'|"(?:[^"\\]|\\.)*")|.""", re.DOTALL)


def load_config(source: str | Path | Iterable[str | Path] = (), overrides: str = "") -> ExperimentConfig:
    """Loads and validates an experiment.

    Args:
        source: A YAML file or the name of a packaged one ("cityscapes/mobilenet_v3_large"), or several
            of them, of which a later one wins key by key.
        overrides: Settings such as "train.batch_size=8,data.crop_size=[513,1025]" that win over all.

    Returns:
        The configuration.

    Raises:
        UserError: A key is unknown, a value has the wrong type, or values contradict each other.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    merged: dict[str, Any] = {}
    for item in sources:
        path = find_config(item)
        # Checked file by file, so that a message can name the file.
        content = _read_yaml(path)
        config_from_dict(content, where=f"{path}: ")
        merged = _merge(merged, content)
    merged = _merge(merged, parse_overrides(overrides))
    return config_from_dict(merged, check=True)


def find_config(source: str | Path) -> Path:
    """Returns the path of a YAML file, or of a packaged experiment by its name without suffix."""
    path = Path(source)
    if path.is_file():
        return path
    experiments = packaged_experiments()
    name = str(source).removesuffix(".yaml").removeprefix("configs/")
    if name in experiments:
        return experiments[name]
    raise UserError(f"config '{source}': neither a file nor a packaged experiment{nearest_name(name, experiments)}")


def packaged_experiments() -> dict[str, Path]:
    """Returns the YAML files that travel with the package, by name ("shapes/mobilenet_v3_small")."""
    root = packaged_configs()
    paths = sorted(p for p in root.glob("*/*.yaml") if p.parent.name != "datasets")
    return {f"{p.parent.name}/{p.stem}": p for p in paths}


def parse_overrides(text: str) -> dict[str, Any]:
    """Parses "a.b=c,d.e=[1,2]" into nested mappings; values are YAML.

    Args:
        text: Settings separated by commas; commas inside brackets, braces and quotes belong to values.

    Returns:
        Nested mappings.

    Raises:
        UserError: An item is no "key=value", or its value no YAML.
    """
    result: dict[str, Any] = {}
    for item in _split_outside_brackets(text):
        key, separator, value = item.partition("=")
        key = key.strip()
        if not separator or not key:
            raise UserError(f"override {item.strip()!r}: expected key=value, such as train.batch_size=8")
        try:
            parsed = parse_yaml(value)
        except UserError as error:
            raise UserError(f"{key}: the value {value!r} is {error}") from None
        for part in reversed(key.split(".")):
            parsed = {part: parsed}
        result = _merge(result, parsed)
    return result


def config_from_dict(content: Mapping[str, Any], where: str = "", check: bool = False) -> ExperimentConfig:
    """Builds the configuration from nested mappings.

    Args:
        content: As read from YAML. Missing keys take their defaults.
        where: Put before messages, such as a file name.
        check: Also refuse values that contradict each other.

    Returns:
        The configuration.

    Raises:
        UserError: As `load_config`.
    """
    config = _build(ExperimentConfig, content, "", where)
    if check:
        validate(config)
    return config


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration as plain data that YAML and JSON hold."""
    return _plain(dataclasses.asdict(config))


def save_config(config: ExperimentConfig, path: str | Path) -> Path:
    """Writes the resolved configuration as YAML, whole or not at all, and returns the path."""
    return write_text_atomically(path, yaml.safe_dump(config_to_dict(config), sort_keys=False))


def resolve_dataset_info(config: ExperimentConfig) -> DatasetInfo:
    """Returns the label space that an experiment is about.

    Args:
        config: `data.dataset_info` wins; otherwise the `dataset_info.yaml` in `data.dir` says it; the
            generated data set is "shapes".

    Returns:
        The label space.

    Raises:
        UserError: Nothing says it, or it is not there.
    """
    data = config.data
    if data.dataset_info is not None:
        info = load_dataset_info(data.dataset_info)
        _check_against_records(info, data)
        return info
    if data.dir is not None:
        if not Path(data.dir).is_dir():
            raise UserError(f"data.dir: no folder {data.dir}; expected one written by 'deeplab2-lite convert'")
        return load_dataset_info(data.dir)
    if data.shapes is not None:
        return load_preset("shapes")
    raise UserError(f"data.dir: not set; expected a folder of TFRecords with its {FILE_NAME}")


def _read_yaml(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of settings, got {type(content).__name__}")
    return content


def _check_against_records(info: DatasetInfo, data: DataConfig) -> None:
    """Refuses ids that mean something else in the records, unless `stored` says how these are numbered."""
    if data.dir is None or info.stored is not None or not (Path(data.dir) / FILE_NAME).is_file():
        return
    theirs = load_dataset_info(data.dir)
    for key in ("num_classes", "ignore_label", "label_divisor"):
        ours, found = getattr(info, key), getattr(theirs, key)
        if ours != found:
            raise UserError(
                f"data.dataset_info: {data.dataset_info} has {key} {ours}, {Path(data.dir) / FILE_NAME} has {found}; "
                "expected the label space of the records"
            )


def _merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _split_outside_brackets(text: str) -> list[str]:
    items, depth = [""], 0
    for token in _OVERRIDE_TOKEN.findall(text):
        depth += (token in "[{") - (token in "]}")
        if token == "," and depth == 0:
            items.append("")
        else:
            items[-1] += token
    return [item for item in items if item.strip()]


def _build(cls: type, content: Any, path: str, where: str) -> Any:
    if not isinstance(content, Mapping):
        raise UserError(f"{where}{path or 'the configuration'}: expected a mapping of settings, got {content!r}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in content.items():
        full = f"{path}.{key}" if path else str(key)
        if key not in hints:
            prefix = f"{path}." if path else ""
            raise UserError(f"{where}{full}: unknown key{nearest_name(str(key), hints, prefix)}")
        values[key] = _convert(hints[key], value, full, where)
    return cls(**values)


def _convert(kind: Any, value: Any, path: str, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        choices = [a for a in arguments if a is not type(None)]
        if len(choices) == 1:
            return _convert(choices[0], value, path, where)
        # YAML 1.1 reads "1e-7" (no dot) as text, also where text is allowed.
        if isinstance(value, str) and float in choices and (number := _as_float(value)) is not None:
            return number
        if type(value) in choices:
            return value
    elif dataclasses.is_dataclass(kind):
        return _build(kind, value, path, where)
    elif origin is Literal:
        if any(value == a and type(value) is type(a) for a in arguments):
            return value
        names = all(isinstance(a, str) for a in (value, *arguments))
        hint = nearest_name(value, arguments) if names else f"; valid: {list(arguments)}"
        raise UserError(f"{where}{path}: {value!r} is no valid value{hint}")
    elif origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            return tuple(_convert(arguments[0], v, f"{path}[{i}]", where) for i, v in enumerate(value))
        if len(value) == len(arguments):
            pairs = zip(arguments, value, strict=True)
            return tuple(_convert(a, v, f"{path}[{i}]", where) for i, (a, v) in enumerate(pairs))
    elif origin is dict and isinstance(value, Mapping):
        return {str(k): _convert(arguments[1], v, f"{path}.{k}", where) for k, v in value.items()}
    elif kind is float and (number := _as_float(value)) is not None:
        return number
    elif kind is int and type(value) is int and not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        raise UserError(f"{where}{path}: expected an integer of 64 bits, got {value!r}")
    elif type(value) is kind:
        return value
    raise UserError(f"{where}{path}: expected {_describe(kind)}, got {value!r}")


def _as_float(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float | str):
        # YAML 1.1 reads "1e-3" (no dot) as text.
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    return None


def _describe(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(a) for a in arguments)
    if origin is tuple:
        inner = _describe(arguments[0])
        return f"a list of {inner}" if arguments[-1] is Ellipsis else f"a list of {len(arguments)} values ({inner})"
    if origin is dict:
        return "a mapping"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value
