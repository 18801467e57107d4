"""One folder a model and format: the converted files, and what says what they are."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab2_lite import __version__
from deeplab2_lite.config_loading import save_config
from deeplab2_lite.errors import UserError
from deeplab2_lite.export import CONFIG_ASSET, export_saved_model
from deeplab2_lite.files import atomic_folder
from deeplab2_lite.loading import TrainedModel
from deeplab2_lite.runtimes.program import INPUT, Program, build_program
from deeplab2_lite.runtimes.request import ExportRequest
from deeplab2_lite.runtimes.running import Runner

MANIFEST = "manifest.json"


def export(
    model: TrainedModel, request: ExportRequest, folder: Path, calibration_images: Iterable[np.ndarray] = ()
) -> Path:
    """Converts a model.

    Args:
        model: Network, configuration and label space.
        request: What it is to become, checked.
        folder: Gets the format's files, `manifest.json` (inputs and outputs by name, shape and type),
            `dataset_info.yaml` and `config.yaml`; replaced as a whole if it is an export already. A SavedModel with
            post-processing is that of `export_saved_model`, which has these in its assets.
        calibration_images: Of the request's input shape, uint8; for int8.

    Returns:
        The folder.

    Raises:
        UserError: The folder holds something else, or the converter refuses the model.
    """
    _check_folder(folder)
    if request.format == "saved_model" and request.postprocessing:
        return export_saved_model(model.network, model.config, model.info, folder)
    program = build_program(model, request)
    with atomic_folder(folder) as temporary:
        try:
            details = _convert(program, request, temporary, calibration_images)
        except UserError:
            raise
        except Exception as error:
            # Each converter has exceptions of its own, and their texts have hundreds of lines.
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(f"--format={request.format}: the converter refuses this model ({first[:200]})") from error
        model.info.save(temporary)
        save_config(model.config, temporary / CONFIG_ASSET)
        write_manifest(temporary, _manifest(program, request) | details)
    return folder


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Writes `manifest.json` with the versions that made the export.

    Args:
        folder: Gets it.
        content: The rest of it.
    """
    versions = {"deeplab2_lite": __version__, "tensorflow": tf.__version__}
    (folder / MANIFEST).write_text(json.dumps(content | versions, indent=1) + "\n")


def load_export(folder: Path, format_name: str, threads: int | None = None) -> Runner:
    """Loads an export into its runtime.

    Args:
        folder: That `export` wrote.
        format_name: A key of `FORMATS`.
        threads: Of the runtime; None leaves that to it.

    Returns:
        A function from uint8 images to outputs by name.
    """
    return _module(format_name).load(folder, threads)


def _convert(program: Program, request: ExportRequest, folder: Path, images: Iterable[np.ndarray]) -> dict[str, Any]:
    module = _module(request.format)
    if request.format == "litert":
        module.convert(program, folder, request.precision, images)
        return {}
    return module.convert(program, folder) or {}


def _module(format_name: str) -> Any:
    return importlib.import_module(f"deeplab2_lite.runtimes.to_{format_name}")


def _manifest(program: Program, request: ExportRequest) -> dict[str, Any]:
    outputs = program.concrete().structured_outputs
    return {
        "format": request.format,
        "postprocessing": request.postprocessing,
        "precision": request.precision,
        "inputs": {INPUT: {"shape": list(program.input_shape), "dtype": program.input.dtype.name}},
        "outputs": {name: _describe(tensor) for name, tensor in sorted(outputs.items())},
    }


def _describe(tensor: Any) -> dict[str, Any]:
    return {"shape": tensor.shape.as_list(), "dtype": tensor.dtype.name}


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise UserError(f"--output: {folder} is a file; expected a folder")
    is_export = any((folder / name).is_file() for name in (MANIFEST, "saved_model.pb"))
    if folder.is_dir() and any(folder.iterdir()) and not is_export:
        raise UserError(f"--output: {folder} holds something else than an export; expected a new folder")
