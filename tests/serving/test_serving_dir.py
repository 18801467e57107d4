"""The command: a model folder becomes the next version below a folder that TF Serving polls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.checkpoints import CheckpointStore, named_weights
from deeplab2_lite.cli import main
from deeplab2_lite.config_loading import save_config
from deeplab2_lite.loading import CHECKPOINTS, CONFIG_FILE
from deeplab2_lite.runtimes import comparing

from .conftest import Trained
from .encoding import ids_of

WORDS = ["export", "--format", "saved_model"]


@pytest.fixture(scope="module")
def model_dir(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "nuclei"
    store = CheckpointStore(folder / CHECKPOINTS)
    store.save(1, named_weights(trained.network), {}, {})
    store.close()
    trained.info.save(folder)
    save_config(trained.config, folder / CONFIG_FILE)
    return folder


@pytest.fixture(autouse=True)
def small_network(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    # The configuration's own network takes many times as long.
    monkeypatch.setattr("deeplab2_lite.loading.build_model", lambda config, num_classes: trained.network)


def _export(model_dir: Path, base: Path, *more: str) -> int:
    return main([*WORDS, "--model", str(model_dir), "--serving_dir", str(base), *more])


def test_each_export_is_a_version(
    model_dir: Path, trained: Trained, scenes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorflow_serving")
    (tmp_path / "nuclei" / "4").mkdir(parents=True)
    override = "export.outputs=[panoptic_png_bytes],export.frozen=true,export.warmup_sizes=[[65,97]]"
    assert _export(model_dir, tmp_path, "--params_override", override) == 0
    check, version = capsys.readouterr().out.splitlines()
    assert version == str(tmp_path / "nuclei" / "5")
    assert check == "drawn image: 1.00000 of the panoptic map equal"
    assert sorted(path.name for path in (tmp_path / "nuclei").iterdir()) == ["4", "5"]
    assert (Path(version) / "assets.extra" / "tf_serving_warmup_requests").is_file()
    serve = tf.saved_model.load(version).signatures["serving_default"]
    answer = serve(images=tf.constant(scenes[0][None]))
    assert list(answer) == ["panoptic_png_bytes"]
    assert np.mean(ids_of(answer["panoptic_png_bytes"].numpy()[0]) == trained.panoptic(scenes[0])) >= 0.999


def test_a_model_that_differs_is_never_served(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "_equal", lambda first, second: 0.5)
    # Of what is answered, something is compared.
    override = "export.outputs=[semantic_png_bytes]"
    assert _export(model_dir, tmp_path, "--model_name", "other", "--params_override", override) == 2
    output, error = capsys.readouterr()
    assert "drawn image: 0.50000 of semantic_pred equal" in output
    assert "0.50000 of the pixels are as in TensorFlow; expected 0.999" in error
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model_name", "x"], "--model_name: has no meaning without --serving_dir"),
        (["--serving_dir", "b", "--model_name", "../x"], "--model_name: expected letters, digits"),
        (["--serving_dir", "b", "--output", "c"], "--output: contradicts --serving_dir; expected one of both"),
        (["--serving_dir", "b", "--no-postprocessing"], "--serving_dir: TF Serving takes SavedModels; expected"),
    ],
)
def test_contradictions(words: list[str], message: str, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--model", str(model_dir), *words]) == 2
    assert message in capsys.readouterr().err
