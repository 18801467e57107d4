"""What cannot be had is said in one line, before anything is loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from deeplab2_lite.cli import main
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.errors import UserError
from deeplab2_lite.runtimes.request import FORMATS, ExportRequest, check_model, check_request


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (ExportRequest("litert"), "--input_size: --format=litert is for images of one size"),
        (ExportRequest("stablehlo"), "--input_size: --format=stablehlo is for images of one size"),
        (ExportRequest("onnx", (65, 97), batch_size=0), "--batch_size: expected at least 1, got 0"),
        (ExportRequest("onnx", batch_size=2), "expected --input_size, too"),
        (ExportRequest("saved_model", (65, 97)), "a SavedModel takes images of any size"),
        (ExportRequest("onnx", precision="float16"), "--quantize=float16: --format=onnx keeps float32"),
        (ExportRequest("litert", (65, 97), precision="int8"), "expected --calibration_images FOLDER"),
        (ExportRequest("litert", (65, 97), calibration_images=Path("x")), "no meaning without --quantize=int8"),
        (
            ExportRequest("litert", (65, 97), precision="int8", calibration_images=Path("x")),
            "expected --no-postprocessing",
        ),
    ],
)
def test_refused(request_: ExportRequest, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_request(request_)


@pytest.mark.parametrize("name", ["onnx", "openvino", "litert"])
def test_missing_package_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError) as error:
        check_request(ExportRequest(name, (65, 97)))
    assert FORMATS[name].modules[0] in str(error.value)
    assert str(error.value).endswith(f"pip install 'deeplab2_lite[{name}]'")


@pytest.mark.parametrize(
    ("override", "postprocessing", "said"),
    [
        ("model.tasks=semantic", True, "'semantic' gives no panoptic map; expected --no-postprocessing"),
        ("inference.tile_size=[257,257]", True, "inference.tile_size: --format=onnx has no loop over tiles"),
        ("inference.flip_left_right=true", True, "--format=onnx looks at an image once"),
        ("inference.scales=[0.5,1.0]", False, "--no-postprocessing looks at an image once"),
    ],
)
def test_model_refused(override: str, postprocessing: bool, said: str) -> None:
    config = load_config("shapes/mobilenet_v3_small", override)
    with pytest.raises(UserError, match=said):
        check_model(ExportRequest("onnx", postprocessing=postprocessing), config)


def test_semantic_heads_alone_and_views_in_a_saved_model_are_taken() -> None:
    semantic = load_config("shapes/mobilenet_v3_small", "model.tasks=semantic")
    check_model(ExportRequest("onnx", postprocessing=False), semantic)
    check_model(
        ExportRequest("saved_model"), load_config("shapes/mobilenet_v3_small", "inference.flip_left_right=true")
    )


def test_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--model", str(tmp_path), "--format", "litert"]) == 2
    assert capsys.readouterr().err == (
        "error: --input_size: --format=litert is for images of one size; expected HEIGHTxWIDTH\n"
    )
