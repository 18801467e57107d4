"""Each runtime gives TensorFlow's maps and heads, on images that it was not traced with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from deeplab2_lite.errors import UserError
from deeplab2_lite.loading import TrainedModel
from deeplab2_lite.runtimes.comparing import compare
from deeplab2_lite.runtimes.exporting import export, load_export
from deeplab2_lite.runtimes.program import reference_function
from deeplab2_lite.runtimes.request import FORMATS, ExportRequest

MODULES = {"onnx": ("tf2onnx", "onnxruntime"), "openvino": ("openvino",), "litert": ("ai_edge_litert",)}
SIZE = (65, 97)


def _request(name: str, **values) -> ExportRequest:
    for module in MODULES.get(name, ()):
        pytest.importorskip(module)
    return ExportRequest(name, SIZE if FORMATS[name].is_static else None, **values)


@pytest.mark.parametrize("name", ["saved_model", "onnx", "openvino", "litert", "stablehlo"])
def test_panoptic_maps_are_those_of_tensorflow(name, model: TrainedModel, scenes, tmp_path: Path) -> None:
    request = _request(name)
    folder = export(model, request, tmp_path / name)
    run = load_export(folder, name)
    reference = reference_function(model, postprocessing=True)
    # Not of the padded size; where the size is free, another one, too.
    images = scenes if request.input_size else [scenes[0], scenes[1][:50, :81], scenes[2][:, :64]]
    for image in images:
        expected = {key: value.numpy() for key, value in reference(image[None]).items()}
        found = run(image[None])
        assert sorted(found) == sorted(expected)
        assert expected["instance_valid"].sum() > 5 and len(np.unique(expected["semantic_pred"])) > 1
        for key, value in expected.items():
            assert found[key].shape == value.shape, key
            if key.endswith("_pred"):
                assert np.mean(found[key] == value) >= 0.999, key
        same = expected["instance_area"] == found["instance_area"]
        assert same.mean() > 0.9
        np.testing.assert_allclose(found["instance_score"][same], expected["instance_score"][same], atol=1e-3)
        np.testing.assert_array_equal(found["instance_box"][same], expected["instance_box"][same])


@pytest.fixture(scope="module")
def litert_heads(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    request = _request("litert", postprocessing=False)
    return export(model, request, tmp_path_factory.mktemp("heads") / "litert")


@pytest.mark.parametrize(
    "name", ["stablehlo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("saved_model", "onnx", "openvino"))]
)
def test_heads_alone(name, model: TrainedModel, scenes, tmp_path: Path) -> None:
    _check_heads(export(model, _request(name, postprocessing=False), tmp_path / name), name, model, scenes[0])


def test_heads_alone_in_litert(litert_heads: Path, model: TrainedModel, scenes) -> None:
    _check_heads(litert_heads, "litert", model, scenes[0])


def _check_heads(folder: Path, name: str, model: TrainedModel, scene: np.ndarray) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["outputs"]) == ["center_heatmap", "center_offset", "semantic_logits"]
    assert manifest["inputs"]["images"]["dtype"] == "uint8"
    assert yaml.safe_load((folder / "dataset_info.yaml").read_text())["name"] == model.info.name
    reference = reference_function(model, postprocessing=False)
    found = compare("scene", scene, load_export(folder, name), reference, model, 1)
    assert sorted(found.differences) == sorted(manifest["outputs"])
    assert max(found.differences.values()) < 1e-4
    assert found.equal_pixels >= 0.999


def test_onnx_of_fixed_size(model: TrainedModel, scenes, tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx")
    # 97 of stride 4 is 25: a factor that is no short fraction.
    run = load_export(export(model, ExportRequest("onnx", SIZE, batch_size=2), tmp_path / "onnx"), "onnx")
    found, images = run(np.stack(scenes[:2])), np.stack(scenes[:2])
    expected = reference_function(model, postprocessing=True)(images)
    assert np.mean(found["panoptic_pred"] == expected["panoptic_pred"].numpy()) >= 0.999
    manifest = json.loads((tmp_path / "onnx" / "manifest.json").read_text())
    assert manifest["inputs"]["images"]["shape"] == [2, *SIZE, 3]
    with pytest.raises(Exception, match="invalid dimensions"):
        run(images[:1])


def test_litert_where_no_pixel_has_two_candidates(scenes, tmp_path: Path, model: TrainedModel) -> None:
    pytest.importorskip("ai_edge_litert")
    # No centre at all: nothing is left to compare, and loops run over nothing.
    quiet = dataclasses.replace(model.config.postprocessing, center_threshold=1e9)
    model = model._replace(config=dataclasses.replace(model.config, postprocessing=quiet))
    found = load_export(export(model, _request("litert"), tmp_path / "litert"), "litert")(scenes[0][None])
    expected = reference_function(model, postprocessing=True)(scenes[0][None])
    np.testing.assert_array_equal(found["instance_pred"], 0)
    assert np.mean(found["panoptic_pred"] == expected["panoptic_pred"].numpy()) >= 0.999


@pytest.mark.slow
def test_batch_of_fixed_size(model: TrainedModel, scenes, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    folder = export(model, ExportRequest("litert", SIZE, batch_size=2), tmp_path / "litert")
    found = load_export(folder, "litert")(np.stack(scenes[:2]))
    expected = reference_function(model, postprocessing=True)(np.stack(scenes[:2]))
    assert np.mean(found["panoptic_pred"] == expected["panoptic_pred"].numpy()) >= 0.999


@pytest.mark.parametrize(
    ("precision", "size_ratio", "most"), [("float16", 0.65, 0.02), ("int8", 0.5, 0.5)], ids=["float16", "int8"]
)
def test_quantized_heads(precision, size_ratio, most, litert_heads, model: TrainedModel, scenes, tmp_path) -> None:
    images = tmp_path if precision == "int8" else None
    request = ExportRequest("litert", SIZE, None, False, precision, images)
    folder = export(model, request, tmp_path / precision, (scene[None] for scene in scenes))
    assert _kernels_of(precision, folder / "model.tflite") >= 4
    assert _kernels_of(precision, litert_heads / "model.tflite") == 0
    if model.network.count_params() > 100_000:
        sizes = [(path / "model.tflite").stat().st_size for path in (folder, litert_heads)]
        assert sizes[0] < size_ratio * sizes[1]
    reference = reference_function(model, postprocessing=False)
    differences = compare("scene", scenes[0], load_export(folder, "litert"), reference, model, 1).differences
    assert 1e-6 < max(differences.values()) < most


def _kernels_of(dtype: str, path: Path) -> int:
    from ai_edge_litert.interpreter import Interpreter

    tensors = Interpreter(str(path)).get_tensor_details()
    # Activations of one image have a first side of 1.
    return sum(len(t["shape"]) == 4 and t["shape"][0] > 1 and t["dtype"] == np.dtype(dtype) for t in tensors)


def test_a_folder_of_something_else_is_left_alone(model: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="holds something else than an export"):
        export(model, ExportRequest("stablehlo", SIZE), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"
