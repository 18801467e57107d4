"""From another code base's file to a run that starts from it, by the commands alone; and what they refuse."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tf_keras as keras

from deeplab2_lite import cli
from deeplab2_lite.checkpoints import CheckpointStore, named_weights
from deeplab2_lite.config_loading import config_to_dict, load_config
from deeplab2_lite.errors import UserError
from deeplab2_lite.model import build_model
from deeplab2_lite.pretrained import (
    SOURCES,
    import_weights,
    keras_applications,
    read_starting_weights,
    read_weights,
    start_from,
    write_weights,
)
from deeplab2_lite.pretrained_command import _SOURCES
from deeplab2_lite.trainer.experiment import Experiment

from .files import save_slim

SMALL = (
    "model.tasks=semantic,model.backbone.halve_last_block=false,data.shapes.train_images=2,data.shapes.val_images=1,"
    "data.shapes.height=33,data.shapes.width=33,data.crop_size=[33,33],train.batch_size=1,"
    "model.semantic={aspp_channels: 8, decoder_channels: 8, head_channels: 8}"
)
EXPERIMENT = "shapes/mobilenet_v3_small"


@pytest.fixture(scope="module")
def config():
    return load_config(EXPERIMENT, SMALL)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file of keras.applications, and its values by name."""
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(33, 33, 3), classes=3)
    random = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    path = tmp_path_factory.mktemp("keras") / "weights.h5"
    model.save_weights(path)
    return path, {v.name.removesuffix(":0"): v.numpy() for v in model.variables}


@pytest.fixture(scope="module")
def imported(source, config, tmp_path_factory):
    """What the command makes of it."""
    path = tmp_path_factory.mktemp("imported") / "start.npz"
    words = ["import-weights", "--source=keras_applications", f"--weights={source[0]}", f"--output={path}"]
    assert cli.main([*words, f"--experiment={EXPERIMENT}", f"--params_override={SMALL}"]) == 0
    return path


@pytest.fixture(scope="module")
def network(config):
    return build_model(config, 5)


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def values_of(network):
    return {name: variable.numpy() for name, variable in named_weights(network).items()}


# ---- the command


def test_the_command_writes_and_tells(imported, source, capsys):
    start = read_starting_weights(imported)
    stem = source[1]["Conv/kernel"]
    np.testing.assert_array_equal(start.weights["backbone/layer1/conv/kernel"], stem)
    assert all(name.startswith("backbone/") for name in start.weights)
    assert start.model["backbone"]["name"] == "mobilenet_v3_small"
    words = ["import-weights", "--source=keras_applications", f"--weights={source[0]}", f"--output={imported}"]
    assert cli.main([*words, f"--experiment={EXPERIMENT}", f"--params_override={SMALL}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["backbone", str(len(start.weights)), "0"]
    assert "Logits/kernel" in next(line for line in lines if line.startswith("left over in the source (4)"))
    assert lines[-1] == str(imported)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source=onnx"], "error: --source: 'onnx' is no source of weights; valid: deeplab2, "),
        (["--source=tf_sli"], "error: --source: 'tf_sli' is no source of weights; did you mean 'tf_slim'?"),
        (
            ["--source=pytorch"],
            "error: model.backbone.name: 'mobilenet_v3_small' has no weights in source 'pytorch'; it has hrnet_w48, ",
        ),
        (["--weights=/none.h5"], "error: /none.h5: no HDF5 file ("),
        (["--source=tf_slim", "--weights=/none"], "error: /none: no checkpoint; expected the name before .index"),
        (["--output=/none/start.npz"], "error: --output: no folder /none"),
        (["--output=start.h5"], "error: --output: start.h5 has another suffix than .npz"),
        (
            [f"--params_override={SMALL},model.backbone.halve_last_block=true"],
            "halve_last_block=false keeps the width",
        ),
    ],
)
def test_mistakes_end_in_one_line(words, message, source, tmp_path, capsys):
    defaults = ["--source=keras_applications", f"--weights={source[0]}", f"--output={tmp_path / 'start.npz'}"]
    defaults += [f"--experiment={EXPERIMENT}", f"--params_override={SMALL}"]
    assert cli.main(["import-weights", *defaults, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert list(tmp_path.iterdir()) == []


def test_help_comes_without_tensorflow():
    script = "import sys; from deeplab2_lite import cli\ntry: cli.main(['import-weights', '--help'])\nfinally: "
    script += "assert not {'tensorflow', 'tf_keras'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    for expected in ("--source", *_SOURCES, "--fresh_logits"):
        assert expected in done.stdout


def test_the_command_knows_all_sources():
    assert set(_SOURCES) == set(SOURCES)


# ---- files of keras.applications


def test_files_of_whole_models_are_read_too(source, tmp_path):
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(33, 33, 3), classes=3)
    model.load_weights(source[0])
    model.save(tmp_path / "model.h5")
    assert_same(keras_applications.read_variables(tmp_path / "model.h5", "mobilenet_v3_small"), source[1])


def test_published_weights_come_through_keras(source, monkeypatch):
    model = keras.applications.MobileNetV3Small

    def downloaded(weights, include_top):
        assert weights == "imagenet" and not include_top
        return model(weights=None, include_top=False, input_shape=(33, 33, 3))

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", downloaded)
    found = keras_applications.read_variables("imagenet", "mobilenet_v3_small")
    assert set(found) == {name for name in source[1] if not name.startswith(("Logits", "Conv_2"))}

    def refused(weights, include_top):
        raise Exception("URL fetch failure\non https://...")

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", refused)
    message = message_of(lambda: keras_applications.read_variables("imagenet", "mobilenet_v3_small"))
    assert message == "imagenet: no weights of MobileNetV3Small (URL fetch failure on https://...)"


def test_other_hdf5_files_are_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = np.zeros(3)
    message = message_of(lambda: keras_applications.read_variables(tmp_path / "other.h5", "resnet50"))
    assert (
        message == f"{tmp_path / 'other.h5'}: no Keras weights by layer name; save them with model.save_weights('x.h5')"
    )


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


# ---- importing in Python


def test_importing_leaves_the_rest_as_it_is(network, config, source, imported):
    before = values_of(network)
    report = import_weights(network, config, "keras_applications", source[0])
    after = values_of(network)
    assert set(report.loaded) == {name for name in before if name.startswith("backbone/")}
    assert set(report.skipped) == set(before) - set(report.loaded)
    for name in report.skipped:
        np.testing.assert_array_equal(after[name], before[name])
    # What the command wrote for the backbone alone is the same.
    assert_same({name: after[name] for name in report.loaded}, read_starting_weights(imported).weights)


def test_what_is_refused_changes_nothing(network, config, source, tmp_path):
    before = values_of(network)
    shutil.copy(source[0], tmp_path / "weights.h5")
    with h5py.File(tmp_path / "weights.h5", "a") as file:
        del file["Conv_1/Conv_1/kernel:0"]
    message = message_of(lambda: import_weights(network, config, "keras_applications", tmp_path / "weights.h5"))
    assert message.endswith("no 'Conv_1/kernel', which 'backbone/layer13/conv/kernel' needs; "
                            "the weights are of another network")  # fmt: skip
    assert_same(values_of(network), before)


def test_a_damaged_checkpoint_is_named(config, tmp_path):
    path = save_slim(tmp_path / "model.ckpt", {"a": np.zeros(3, np.float32)})
    index = path.with_name("model.ckpt.index")
    index.write_bytes(index.read_bytes()[:20])
    message = message_of(lambda: read_weights(config, "tf_slim", path))
    assert message.startswith(f"{path}: no readable checkpoint (")


# ---- starting from weights


def make(network, config, tmp_path, change=None):
    weights = {name: value + 1 for name, value in values_of(network).items()}
    weights |= change or {}
    return read_starting_weights(write_weights(tmp_path / "start.npz", weights, config))


def test_weights_go_where_they_belong(network, config, tmp_path):
    start = make(network, config, tmp_path)
    report = start_from(network, config, start)
    assert report.skipped == report.left_over == () and len(report.loaded) == len(start.weights)
    assert_same(values_of(network), start.weights)


def test_what_is_missing_or_surplus_beside_the_backbone_is_told(network, config, tmp_path):
    start = make(network, config, tmp_path, {"classifier/conv/kernel": np.zeros((1, 1, 2, 3))})
    decoder = {name for name in start.weights if "/decoder/" in name}
    start = start._replace(weights={n: v for n, v in start.weights.items() if n not in decoder})
    before = values_of(network)
    report = start_from(network, config, start)
    assert set(report.skipped) == decoder and report.left_over == ("classifier/conv/kernel",)
    for name, value in values_of(network).items():
        np.testing.assert_array_equal(value, before[name] if name in decoder else start.weights[name])


def test_logits_of_other_classes(network, config, tmp_path):
    kernel, bias = "semantic/head/logits/conv/kernel", "semantic/head/logits/conv/bias"
    start = make(network, config, tmp_path, {kernel: np.zeros((1, 1, 8, 19)), bias: np.zeros(19)})
    before = values_of(network)
    message = message_of(lambda: start_from(network, config, start))
    assert message == (
        f"{tmp_path / 'start.npz'}: '{kernel}' has shape [1, 1, 8, 19], expected [1, 1, 8, 5]; "
        "train.init_fresh_logits=true leaves it as it is"
    )
    assert_same(values_of(network), before)
    report = start_from(network, config, start, fresh_logits=True)
    assert report.skipped == (kernel, bias)
    np.testing.assert_array_equal(values_of(network)[kernel], before[kernel])


def test_half_a_backbone_is_refused(network, config, tmp_path):
    start = make(network, config, tmp_path)
    name = "backbone/layer5/project/bn/beta"
    start = start._replace(weights={n: v for n, v in start.weights.items() if n != name})
    message = message_of(lambda: start_from(network, config, start))
    assert message == f"{start.origin}: no value for '{name}'; the weights are of another backbone"


@pytest.mark.parametrize(("section", "key", "value"), [("batch_norm", "epsilon", 1e-5), ("backbone", "name", "other")])
def test_what_would_give_other_features_is_refused(network, config, tmp_path, section, key, value):
    start = make(network, config, tmp_path)
    model = json.loads(json.dumps(start.model))
    model[section][key] = value
    if section == "backbone":
        # ResNets alone have several forms with the same variables.
        start_from(network, config, start._replace(model=model))
        config = dataclasses.replace(config, model=load_config((), "model.backbone.name=resnet50").model)
    expected = config_to_dict(config)["model"][section][key]
    message = message_of(lambda: start_from(network, config, start._replace(model=model)))
    assert message == f"{start.origin}: made for model.{section}.{key}={value}, but model.{section}.{key} is {expected}"


def test_files_that_cannot_be_started_from(tmp_path):
    assert message_of(lambda: read_starting_weights(tmp_path)).startswith(f"{tmp_path}: expected a model folder, or a ")
    path = tmp_path / "start.npz"
    assert message_of(lambda: read_starting_weights(path)) == f"{path}: cannot be read (No such file or directory)"
    for write in (lambda: path.write_bytes(b"no"), lambda: path.write_bytes(b""), lambda: np.savez(path, a=np.ones(2))):
        write()
        message = message_of(lambda: read_starting_weights(path))
        assert message == f"{path}: no file of 'deeplab2-lite import-weights', or a damaged one"


# ---- a run that starts from them


def test_a_run_starts_from_them_and_goes_on_from_its_own(imported, tmp_path, capsys):
    config = load_config(EXPERIMENT, f"{SMALL},train.init_checkpoint={imported}")
    start = read_starting_weights(imported)
    first = Experiment(config, tmp_path / "run", training=True)
    assert first.step == 0
    weights = values_of(first.network)
    for name, value in start.weights.items():
        np.testing.assert_array_equal(weights[name], value)
    told = capsys.readouterr().err
    assert f"starting from {imported}" in told and "semantic/aspp" in told
    for variable in first.network.variables:
        variable.assign(variable + 1)
    first.state.global_step.assign(1)
    first.save()
    first.store.close()
    assert CheckpointStore(tmp_path / "run" / "checkpoints").steps() == [1]
    # The file is not even looked for any more.
    gone = load_config(EXPERIMENT, f"{SMALL},train.init_checkpoint=/gone.npz")
    again = Experiment(gone, tmp_path / "run", training=True)
    assert again.step == 1
    assert_same(values_of(again.network), {name: value + 1 for name, value in weights.items()})
    # Another run starts from this one's folder, all of it.
    report = start_from(first.network, config, read_starting_weights(tmp_path / "run"))
    assert report.skipped == report.left_over == () and len(report.loaded) == len(weights)


def test_fresh_logits_need_something_to_start_from():
    message = message_of(lambda: load_config((), "train.init_fresh_logits=true"))
    assert message == "train.init_fresh_logits: has no meaning without train.init_checkpoint"
