"""Warm-up records: requests that the exported signatures answer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tensorflow as tf

from deeplab2_lite.cli import main
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.errors import UserError
from deeplab2_lite.serving.warmup import write_warmup_requests

from .conftest import SMALL, Trained


def test_records_run_on_the_signatures(served_model, tmp_path: Path) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    file = write_warmup_requests(tmp_path, [(65, 97)], "shapes")
    assert file == tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    assert file.stat().st_size < 10_000
    seen = []
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        answer = served_model.predict(log.predict_log.request)
        shape = tf.make_ndarray(answer.outputs["panoptic_pred"]).shape
        seen.append((log.predict_log.request.model_spec.signature_name, shape))
    signatures = ("serving_default", "serving_bytes", "serving_examples")
    assert seen == [(name, (1, 65, 97)) for name in signatures]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("export.warmup_sizes=[[300,90]]", r"export.warmup_sizes: \[300, 90\] is larger than export.max_side 200"),
        ("export.warmup_sizes=[[0,90]]", r"export.warmup_sizes: expected positive integers, got \[0, 90\]"),
        ("export.max_side=0", "export.max_side: expected a positive integer or null, got 0"),
        ("export.outputs=[]", "export.outputs: expected different names, at least one"),
        ("export.outputs=[instances,instances]", "export.outputs: expected different names"),
        ("export.outputs=[panoptic_png]", "export.outputs.0.: 'panoptic_png' is no valid value; did you mean"),
    ],
)
def test_settings_are_checked(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("shapes/mobilenet_v3_small", f"{SMALL},{setting}")


def test_a_classifier_is_not_exported() -> None:
    with pytest.raises(UserError, match=r"export: has no meaning for model\.tasks classification"):
        load_config("imagenet/resnet50_beta", "export.frozen=true")


def test_a_missing_package_is_said_at_once(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What is None there cannot be imported.
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    text = "export.warmup_sizes: needs tensorflow-serving-api, which is not installed"
    with pytest.raises(UserError, match=text):
        trained.export(tmp_path / "model", warmup_sizes=((65, 97),))
    assert list(tmp_path.iterdir()) == []
    words = ["train", "--model_dir", str(tmp_path / "run"), "--params_override", "export.warmup_sizes=[[65,97]]"]
    assert main(words) == 2
    assert text in capsys.readouterr().err and not (tmp_path / "run").exists()
