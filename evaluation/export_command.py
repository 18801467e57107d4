"""The command that converts a trained model for other runtimes, and shows that it is the same there: `export`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from deeplab2_lite.complexity.command import parse_size
from deeplab2_lite.config import Size
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.data.images import read_rgb
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.inputs import find_images
from deeplab2_lite.files import writing_to
from deeplab2_lite.runtimes.request import FORMATS, PRECISIONS, ExportRequest, check_model, check_request

if TYPE_CHECKING:
    from deeplab2_lite.loading import TrainedModel

# More of them change the scales of int8 little, and each runs through the network in float.
_MOST_CALIBRATION_IMAGES = 100
_CONFIG = "config.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    formats = "; ".join(f"{name}: {chosen.text}" for name, chosen in FORMATS.items())
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder of training")
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), help=formats)
    parser.add_argument("--output", metavar="DIR", help="folder of the files; default MODEL/export/FORMAT")
    parser.add_argument(
        "--input_size", metavar="HxW", help="fixed size of the images; litert and stablehlo need one, others take any"
    )
    parser.add_argument("--batch_size", type=int, metavar="N", help="images at once, with --input_size; default 1")
    parser.add_argument(
        "--postprocessing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="give the panoptic map and the table of instances (default), or the network's heads alone",
    )
    parser.add_argument("--quantize", choices=PRECISIONS[1:], help="litert: weights in float16, or all in int8")
    parser.add_argument(
        "--calibration_images",
        metavar="DIR",
        help=f"for int8: images such as the model will see; the first {_MOST_CALIBRATION_IMAGES} count",
    )
    parser.add_argument(
        "--check", metavar="PATH", help="an image or folder to compare with TensorFlow on; default a drawn image"
    )
    parser.add_argument("--params_override", default="", metavar="A.B=C,...", help="settings that win over the model's")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: What is asked for cannot be had, a file is at fault, or the converted model says something else
            than TensorFlow.
    """
    request = _request(arguments)
    check_request(request)
    model_dir = Path(arguments.model)
    if (model_dir / _CONFIG).is_file():
        check_model(request, load_config(model_dir / _CONFIG, arguments.params_override))
    checked = find_images(Path(arguments.check)) if arguments.check else []
    calibrating = (
        find_images(request.calibration_images)[:_MOST_CALIBRATION_IMAGES] if request.calibration_images else []
    )
    # TensorFlow takes seconds to import; what is wrong above is said before.
    from deeplab2_lite.loading import load_model_dir
    from deeplab2_lite.runtimes.exporting import export

    model = load_model_dir(model_dir, overrides=arguments.params_override)
    folder = Path(arguments.output) if arguments.output else model_dir / "export" / request.format
    with writing_to(folder):
        export(model, request, folder, _batches(calibrating, request))
    print(folder, flush=True)
    _check(model, request, folder, checked)


def _request(arguments: argparse.Namespace) -> ExportRequest:
    return ExportRequest(
        format=arguments.format,
        input_size=parse_size(arguments.input_size) if arguments.input_size else None,
        batch_size=arguments.batch_size,
        postprocessing=arguments.postprocessing,
        precision=arguments.quantize or "float32",
        calibration_images=Path(arguments.calibration_images) if arguments.calibration_images else None,
    )


def _check(model: TrainedModel, request: ExportRequest, folder: Path, paths: list[Path]) -> None:
    """Compares image by image, and prints a line for each."""
    from deeplab2_lite.runtimes.comparing import LEAST_EQUAL, compare
    from deeplab2_lite.runtimes.exporting import load_export
    from deeplab2_lite.runtimes.program import reference_function

    run_export = load_export(folder, request.format)
    reference = reference_function(model, request.postprocessing)
    worst = None
    images = ((path.name, read_rgb(path)) for path in paths) if paths else [_drawn(request, model)]
    for name, image in images:
        image = resized(image, request.input_size)
        found = compare(name, image, run_export, reference, model, request.batch_size or 1)
        print(found, flush=True)
        if found.equal_pixels is not None and (worst is None or found.equal_pixels < worst.equal_pixels):
            worst = found
    if request.precision == "float32" and worst is not None and worst.equal_pixels < LEAST_EQUAL:
        raise UserError(
            f"{folder}: on {worst.name} {worst.equal_pixels:.5f} of the pixels are as in TensorFlow; expected "
            f"{LEAST_EQUAL} of float32"
        )


def _drawn(request: ExportRequest, model: TrainedModel) -> tuple[str, np.ndarray]:
    from deeplab2_lite.data.shapes import MIN_SIDE, generate_scene

    height, width = (max(side, MIN_SIDE) for side in request.input_size or model.config.data.crop_size)
    return "drawn image", generate_scene(0, "export", 0, height, width)[0]


def _batches(paths: list[Path], request: ExportRequest) -> Iterator[np.ndarray]:
    for path in paths:
        image = resized(read_rgb(path), request.input_size)
        yield np.ascontiguousarray(np.broadcast_to(image, (request.batch_size or 1, *image.shape)))


def resized(image: np.ndarray, size: Size | None) -> np.ndarray:
    """Brings an image to the size that a converted model takes.

    Args:
        image: uint8 [height, width, 3].
        size: Height and width; None keeps its own.

    Returns:
        uint8 [height, width, 3], of that size.
    """
    if size is None or image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
