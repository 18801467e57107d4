"""What a model is to become, and what cannot be had: all that is said before TensorFlow is imported."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deeplab2_lite.config import ExperimentConfig, Size
from deeplab2_lite.errors import UserError
from deeplab2_lite.serving.requirements import check_packages


class Format(NamedTuple):
    """What a format asks for.

    Attributes:
        text: What it is, in a few words.
        modules: That converting and checking import, beside the library's own dependencies.
        extra: Of this package, that installs them; "" where there is nothing to install.
        is_static: Whether its files are for images of one size.
    """

    text: str
    modules: tuple[str, ...]
    extra: str
    is_static: bool


FORMATS = {
    "saved_model": Format("TensorFlow, TF Serving, libtensorflow", (), "", False),
    "onnx": Format("ONNX Runtime and whatever reads ONNX", ("tf2onnx", "onnx", "onnxruntime"), "onnx", False),
    "openvino": Format("OpenVINO, for Intel CPUs", ("openvino",), "openvino", False),
    "litert": Format("LiteRT (TensorFlow Lite), for phones and boards", ("ai_edge_litert",), "litert", True),
    "stablehlo": Format("JAX, and every compiler of the XLA family", (), "", True),
}
PRECISIONS = ("float32", "float16", "int8")


@dataclass(frozen=True)
class ExportRequest:
    """What a model is to become.

    Attributes:
        format: A key of `FORMATS`.
        input_size: Height and width of the images; None takes any, where the format can.
        batch_size: Images at once; None takes any, where the size is not fixed either, else 1.
        postprocessing: Whether it gives the panoptic map, or the network's heads alone.
        precision: Of the weights, one of `PRECISIONS`; with int8 of the activations, too.
        calibration_images: A folder of images, or one, whose activations int8 is fitted to.
    """

    format: str
    input_size: Size | None = None
    batch_size: int | None = None
    postprocessing: bool = True
    precision: str = "float32"
    calibration_images: Path | None = None

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None, int]:
        """Shape of the images; None is any."""
        batch = self.batch_size or (1 if self.input_size else None)
        return (batch, *(self.input_size or (None, None)), 3)


def check_request(request: ExportRequest) -> None:
    """Refuses what no model can become.

    Args:
        request: What is asked for.

    Raises:
        UserError: A flag has no meaning for the format, one is missing, or a package is not installed.
    """
    name, chosen = request.format, FORMATS[request.format]
    if chosen.is_static and request.input_size is None:
        raise UserError(f"--input_size: --format={name} is for images of one size; expected HEIGHTxWIDTH")
    if request.batch_size is not None and request.batch_size < 1:
        raise UserError(f"--batch_size: expected at least 1, got {request.batch_size}")
    if name == "saved_model" and (request.input_size or request.batch_size):
        raise UserError("--input_size, --batch_size: a SavedModel takes images of any size; expected neither")
    if request.batch_size is not None and request.input_size is None:
        raise UserError("--batch_size: is fixed together with the size alone; expected --input_size, too")
    _check_precision(request)
    missing = [module for module in chosen.modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f"--format={name}: needs {', '.join(missing)}, which is not installed; "
            f"pip install 'deeplab2_lite[{chosen.extra}]'"
        )


def check_model(request: ExportRequest, config: ExperimentConfig) -> None:
    """Refuses what this model cannot become.

    Args:
        request: What is asked for.
        config: Of the model.

    Raises:
        UserError: It has not the heads, looks at an image in a way that the format has no graph for, or asks for
            warm-up requests that nothing is there to write.
    """
    tasks = config.model.tasks
    if tasks == "classification":
        raise UserError("model.tasks: a classifier has no heads to export; expected panoptic, semantic or instance")
    if request.postprocessing and tasks != "panoptic":
        raise UserError(f"model.tasks: '{tasks}' gives no panoptic map; expected --no-postprocessing: its heads alone")
    if request.format == "saved_model" and request.postprocessing:
        check_packages(config.export)
        return
    what = f"--format={request.format}" if request.postprocessing else "--no-postprocessing"
    inference = config.inference
    if inference.tile_size is not None:
        raise UserError(
            f"inference.tile_size: {what} has no loop over tiles; expected null (--params_override), and the caller to "
            "cut images"
        )
    if inference.flip_left_right or tuple(inference.scales) != (1.0,):
        raise UserError(
            f"inference.scales, inference.flip_left_right: {what} looks at an image once; expected [1.0] and false "
            "(--params_override)"
        )


def _check_precision(request: ExportRequest) -> None:
    precision, images = request.precision, request.calibration_images
    if precision != "float32" and request.format != "litert":
        raise UserError(f"--quantize={precision}: --format={request.format} keeps float32; expected --format=litert")
    if precision == "int8" and images is None:
        raise UserError("--quantize=int8: fits its scales to real images; expected --calibration_images FOLDER")
    if precision != "int8" and images is not None:
        raise UserError("--calibration_images: have no meaning without --quantize=int8")
    if precision == "int8" and request.postprocessing:
        raise UserError(
            "--quantize=int8: 256 levels of a heatmap have no peaks, and of an offset no aim; expected "
            "--no-postprocessing, and the merge in float from the heads"
        )
