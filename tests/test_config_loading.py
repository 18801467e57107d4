"""Reading experiments: types, unknown keys, files over files, overrides, and what is written reads back."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.config import BackboneConfig, ExperimentConfig, ShapesConfig
from deeplab2_lite.config_loading import (
    config_from_dict,
    config_to_dict,
    find_config,
    load_config,
    packaged_experiments,
    parse_overrides,
    resolve_dataset_info,
    save_config,
)
from deeplab2_lite.errors import UserError

EXPERIMENTS = sorted(packaged_experiments())
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def error_of(source=(), overrides=""):
    with pytest.raises(UserError) as caught:
        load_config(source, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nested(config, path):
    for part in path.split("."):
        config = getattr(config, part)
    return config


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---- types


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.batch_size=8", 8),
        ("train.optimizer.learning_rate=0.5", 0.5),
        ("train.optimizer.learning_rate=2", 2.0),
        ("train.optimizer.learning_rate=1e-3", 1e-3),
        ("train.optimizer.learning_rate=1.0e-3", 1e-3),
        ("train.optimizer.learning_rate='3E-4'", 3e-4),
        ("data.cache=true", True),
        ("data.cache=no", False),
        ("name=night run", "night run"),
        ("name='8'", "8"),
        ("data.dir=null", None),
        ("data.dir=/records", "/records"),
        ("train.eval_interval=", None),
        ("data.longest_side=641", 641),
        ("train.optimizer.clip_global_norm=1", 1.0),
        ("data.crop_size=[513, 1025]", (513, 1025)),
        ("model.aspp.atrous_rates=[6,12,18,24]", (6, 12, 18, 24)),
        ("model.backbone.multi_grid=[1,2,4]", (1, 2, 4)),
        ("runtime.devices=['GPU:0','GPU:1']", ("GPU:0", "GPU:1")),
        ("model.backbone.output_stride=32", 32),
        ("model.tasks=semantic", "semantic"),
        ("train.optimizer.options={beta_1: 0.5, amsgrad: true, name: it, sync_period: 6}", None),
    ],
)
def test_values_have_their_fields_types(override, expected):
    key = override.partition("=")[0]
    value = nested(load_config((), override), key)
    if key == "train.optimizer.options":
        assert value == {"beta_1": 0.5, "amsgrad": True, "name": "it", "sync_period": 6}
        assert [type(v) for v in value.values()] == [float, bool, str, int]
    else:
        assert value == expected and type(value) is type(expected)


def test_options_without_a_dot_are_numbers_too():
    options = load_config((), "train.optimizer.options={epsilon: 1e-7}").train.optimizer.options
    assert options == {"epsilon": 1e-7} and type(options["epsilon"]) is float


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=true", "train.batch_size: expected an integer, got True"),
        ("train.batch_size=8.0", "train.batch_size: expected an integer, got 8.0"),
        ("train.batch_size='8'", "train.batch_size: expected an integer, got '8'"),
        ("train.batch_size=null", "train.batch_size: expected an integer, got None"),
        (f"train.steps={2**63}", f"train.steps: expected an integer of 64 bits, got {2**63}"),
        ("train.optimizer.learning_rate=true", "train.optimizer.learning_rate: expected a number, got True"),
        ("train.optimizer.learning_rate=fast", "train.optimizer.learning_rate: expected a number, got 'fast'"),
        (
            f"train.optimizer.learning_rate={'9' * 400}",
            f"train.optimizer.learning_rate: expected a number, got {'9' * 400}",
        ),
        ("train.eval_interval=1.5", "train.eval_interval: expected an integer, got 1.5"),
        ("data.cache=1", "data.cache: expected true or false, got 1"),
        ("name=8", "name: expected text, got 8"),
        ("name=null", "name: expected text, got None"),
        ("data.crop_size=513", "data.crop_size: expected a list of 2 values (an integer), got 513"),
        ("data.crop_size=[513]", "data.crop_size: expected a list of 2 values (an integer), got [513]"),
        ("data.crop_size=[513,x]", "data.crop_size[1]: expected an integer, got 'x'"),
        ("model.aspp.atrous_rates=6", "model.aspp.atrous_rates: expected a list of an integer, got 6"),
        ("runtime.devices=[CPU:0,1]", "runtime.devices[1]: expected text, got 1"),
        ("model.backbone.output_stride=12", "model.backbone.output_stride: 12 is no valid value; valid: [8, 16, 32]"),
        (
            "model.backbone.output_stride='16'",
            "model.backbone.output_stride: '16' is no valid value; valid: [8, 16, 32]",
        ),
        (
            "model.backbone.name=resnet50_bta",
            "model.backbone.name: 'resnet50_bta' is no valid value; did you mean 'resnet50_beta'?",
        ),
        # YAML 1.1 reads "off" as false.
        (
            "model.tasks=off",
            "model.tasks: False is no valid value; valid: ['panoptic', 'semantic', 'instance', 'classification']",
        ),
        ("train=8", "train: expected a mapping of settings, got 8"),
        ("train=", "train: expected a mapping of settings, got None"),
        ("train.optimizer.options=8", "train.optimizer.options: expected a mapping, got 8"),
        (
            "train.optimizer.options.beta_1=[1]",
            "train.optimizer.options.beta_1: expected an integer or a number or true or false or text, got [1]",
        ),
    ],
)
def test_other_types_are_refused_by_path(override, message):
    assert error_of((), override) == message


# ---- unknown keys and files


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_siz=8", "train.batch_siz: unknown key; did you mean 'train.batch_size'?"),
        ("trian.batch_size=8", "trian: unknown key; did you mean 'train'?"),
        (
            "model.decoder.zzz=8",
            "model.decoder.zzz: unknown key; valid: convolutions_per_stage, kernel_size, skip_strides",
        ),
        ("train..steps=8", "train.: unknown key; valid: accumulation_steps, batch_size, best_metric, "),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(override, message):
    assert error_of((), override).startswith(message)


def test_errors_in_a_file_name_the_file(tmp_path):
    path = write(tmp_path / "mine.yaml", "train:\n  optimizer: {learning_rte: 1}\n")
    expected = f"{path}: train.optimizer.learning_rte: unknown key; did you mean 'train.optimizer.learning_rate'?"
    assert error_of(path) == expected
    path = write(tmp_path / "types.yaml", "evaluation: {pictures: many}")
    assert error_of([EXPERIMENTS[0], path]) == f"{path}: evaluation.pictures: expected an integer, got 'many'"
    path = write(tmp_path / "key.yaml", "3: 4")
    assert error_of(path).startswith(f"{path}: 3: unknown key; valid: classification, data, description,")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2]", "expected a mapping of settings, got list"),
        (b"train", "expected a mapping of settings, got str"),
        (b"train: [", "not valid YAML (while parsing"),
        (b"name: \xff", "not valid YAML ('utf-8' codec"),
        (b"name: \x00", "not valid YAML (unacceptable character"),
        (b"name: !!python/object:os.x {}", "not valid YAML (could not determine a constructor"),
        (b"name: 2024-13-45", "not valid YAML (month must be in 1..12"),
    ],
)
def test_files_that_are_no_settings(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    assert error_of(path).startswith(f"{path}: {message}")


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "secret.yaml", "")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert error_of(path) == f"{path}: cannot be read (Permission denied)"


def test_an_empty_file_changes_nothing(tmp_path):
    assert load_config(write(tmp_path / "empty.yaml", "# nothing\n")) == load_config() == ExperimentConfig()


def test_later_files_win_key_by_key_and_overrides_over_all(tmp_path):
    first = write(
        tmp_path / "first.yaml",
        "name: first\ntrain: {batch_size: 4, steps: 10, optimizer: {options: {beta_1: 0.5, beta_2: 0.9}}}\n"
        "data: {crop_size: [33, 33], longest_side: 641}",
    )
    second = write(
        tmp_path / "second.yaml",
        "name: second\ntrain: {steps: 20, optimizer: {options: {beta_1: 0.7}}}\n"
        "data: {crop_size: [65, 17], longest_side: null}",
    )
    config = load_config([str(first), second], "train.optimizer.options.beta_2=0.8,train.seed=3")
    assert (config.name, config.train.batch_size, config.train.steps, config.train.seed) == ("second", 4, 20, 3)
    assert config.train.optimizer.options == {"beta_1": 0.7, "beta_2": 0.8}
    assert (config.data.crop_size, config.data.longest_side) == ((65, 17), None)
    assert load_config([second, first]).train.steps == 10
    assert load_config([first, second], "name=third,name=fourth").name == "fourth"
    # An iterator is read once.
    assert load_config(iter([first, second])) == load_config([first, second])


def test_a_section_can_be_switched_off():
    assert load_config("shapes/mobilenet_v3_small").data.shapes == ShapesConfig()
    assert load_config("shapes/mobilenet_v3_small", "data.shapes=null").data.shapes is None


def test_only_the_whole_is_validated(tmp_path):
    # One file alone contradicts itself; what comes on top mends it.
    path = write(tmp_path / "part.yaml", "model: {backbone: {output_stride: 32}}\ndata: {crop_size: [1041, 2065]}")
    assert "data.crop_size: height 1041" in error_of(path)
    assert load_config(path, "data.crop_size=[1025,2049]").data.crop_size == (1025, 2049)


# ---- overrides


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (" , ", {}),
        ("a=1", {"a": 1}),
        (" a.b = 1 ,\n a.c=2,", {"a": {"b": 1, "c": 2}}),
        ("a=[1,2],b={c: [3,4], d: 5},e=6", {"a": [1, 2], "b": {"c": [3, 4], "d": 5}, "e": 6}),
        ("a='x,y',b=\"]{,\",c=z", {"a": "x,y", "b": "]{,", "c": "z"}),
        ("a=['x]',\"y,\"],b=1", {"a": ["x]", "y,"], "b": 1}),
        ("a={k: 'x,}'},b=1", {"a": {"k": "x,}"}, "b": 1}),
        ("a=it's,b=1", {"a": "it's", "b": 1}),
        ('a=5" wide,b=1', {"a": '5" wide', "b": 1}),
        ("a='it''s, or not',b=1", {"a": "it's, or not", "b": 1}),
        ('a="say \\"a,b\\"",b=1', {"a": 'say "a,b"', "b": 1}),
        ('a="back\\\\",b=1', {"a": "back\\", "b": 1}),
        ("a='back\\',b=1", {"a": "back\\", "b": 1}),
        ("a=b=c", {"a": "b=c"}),
        ("a=1,a=2", {"a": 2}),
        ("a.b=1,a=2", {"a": 2}),
        ("a=(x,b=1", {"a": "(x", "b": 1}),
    ],
)
def test_parsing_of_overrides(text, expected):
    assert parse_overrides(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.steps", "override 'train.steps': expected key=value, such as train.batch_size=8"),
        ("a=1, b\nc", "override 'b\\nc': expected key=value, such as train.batch_size=8"),
        ("=3", "override '=3': expected key=value, such as train.batch_size=8"),
        ("a=[1,b=2", "a: the value '[1,b=2' is not valid YAML"),
        ("a=],b=2", "a: the value '],b=2' is not valid YAML"),
        ("a='x,b=2", 'a: the value "\'x" is not valid YAML'),
        ("a=2024-13-45", "a: the value '2024-13-45' is not valid YAML"),
    ],
)
def test_overrides_that_are_refused(text, message):
    with pytest.raises(UserError) as caught:
        parse_overrides(text)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


AWKWARD = st.text("ab1 é漢😀,;:#='\"[]{}\\&*!|>%@`-~\n\t", max_size=12)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.one_of(AWKWARD, st.integers(-5, 5), st.none(), st.lists(AWKWARD))),
)
def test_json_values_come_through_overrides(values):
    text = ",".join(f"x.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    assert parse_overrides(text) == ({"x": values} if values else {})


# ---- packaged files


def test_packaged_experiments_are_all_files_but_the_label_spaces():
    files = {f"{p.parent.name}/{p.stem}": p for p in CONFIGS.glob("*/*.yaml") if p.parent.name != "datasets"}
    assert packaged_experiments() == files
    assert "shapes/mobilenet_v3_small" in files


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_packaged_experiment_loads_and_reads_back(name, tmp_path):
    config = load_config(name)
    assert config.name == name
    assert config.description
    assert load_config(save_config(config, tmp_path / "config.yaml")) == config
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
    if config.data.dataset_info is not None or config.data.shapes is not None:
        assert resolve_dataset_info(config).name == (config.data.dataset_info or "shapes")


def test_names_work_from_any_folder_and_files_win(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = packaged_experiments()["shapes/mobilenet_v3_small"]
    for name in ("shapes/mobilenet_v3_small", "shapes/mobilenet_v3_small.yaml"):
        assert find_config(name) == find_config(f"configs/{name}") == expected
    (tmp_path / "shapes").mkdir()
    mine = write(tmp_path / "shapes" / "mobilenet_v3_small", "name: mine")
    assert load_config("shapes/mobilenet_v3_small").name == "mine"
    assert find_config(mine) == mine


def test_unknown_experiments_name_the_nearest(tmp_path):
    message = "config 'shapes/mobilenet_v3_smal': neither a file nor a packaged experiment; "
    assert error_of("shapes/mobilenet_v3_smal") == f"{message}did you mean 'shapes/mobilenet_v3_small'?"
    assert error_of(tmp_path).startswith(f"config '{tmp_path}': neither a file nor a packaged experiment; ")
    # Label spaces are no experiments.
    assert error_of("datasets/coco").startswith("config 'datasets/coco': neither a file nor")


# ---- writing


def drawn(kind):
    """Draws plain data, as YAML would give it, for a field's type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(drawn(argument) for argument in arguments))
    if dataclasses.is_dataclass(kind):
        return st.fixed_dictionaries({}, optional={k: drawn(v) for k, v in typing.get_type_hints(kind).items()})
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(drawn(arguments[0]), max_size=4)
    if origin is tuple:
        return st.tuples(*map(drawn, arguments)).map(list)
    if origin is dict:
        return st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), drawn(arguments[1]), max_size=3)
    return {
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        # Text that reads as a number is one among the optimizer's options.
        str: st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda s: not is_number(s)),
        type(None): st.none(),
    }[kind]


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def assert_holds(config, content):
    for key, value in content.items():
        held = getattr(config, key)
        if dataclasses.is_dataclass(held):
            assert_holds(held, value)
        else:
            assert held == with_tuples(value)


def with_tuples(value):
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


@given(content=drawn(ExperimentConfig))
def test_whatever_is_drawn_is_held_and_reads_back(content, tmp_path_factory):
    config = config_from_dict(content)
    assert_holds(config, content)
    path = tmp_path_factory.getbasetemp() / "drawn.yaml"
    assert save_config(config, path) == path
    again = config_from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert again == config
    assert config_to_dict(again) == config_to_dict(config)


VALID = st.fixed_dictionaries(
    {},
    optional={
        "name": AWKWARD,
        "description": AWKWARD,
        "data.dir": st.none() | AWKWARD,
        "data.crop_size": st.tuples(st.integers(1, 99), st.integers(1, 99)).map(lambda s: [16 * v + 1 for v in s]),
        "data.longest_side": st.none() | st.integers(1, 9999),
        "data.cache": st.booleans(),
        "model.aspp.atrous_rates": st.none() | st.lists(st.integers(1, 50), min_size=1, max_size=5),
        "train.batch_size": st.integers(1, 512),
        "train.optimizer.learning_rate": st.floats(1e-12, 1e6),
        "train.optimizer.options.epsilon": st.floats(1e-12, 1),
        "losses.hardest_fraction": st.floats(1e-6, 1),
        "evaluation.pictures": st.integers(-1, 99),
        "runtime.devices": st.none() | st.lists(AWKWARD, min_size=1, max_size=3),
    },
)


@given(values=VALID)
def test_overrides_read_back(values, tmp_path_factory):
    text = ",".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    config = load_config((), text)
    for key, value in values.items():
        if key == "train.optimizer.options.epsilon":
            assert config.train.optimizer.options == {"epsilon": value}
        else:
            assert nested(config, key) == (tuple(value) if isinstance(value, list) else value)
    path = tmp_path_factory.getbasetemp() / "overridden.yaml"
    assert load_config(save_config(config, path)) == config
    # The files' settings are all there, so that nothing depends on a default that changes later.
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == config_to_dict(config)


def test_a_saved_config_is_complete_and_nested_classes_are_built():
    assert set(config_to_dict(ExperimentConfig())) == {field.name for field in dataclasses.fields(ExperimentConfig)}
    config = config_from_dict({"model": {"backbone": {"name": "resnet50"}}})
    assert config.model.backbone == BackboneConfig(name="resnet50")
