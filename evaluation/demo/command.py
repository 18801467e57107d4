"""The command that shows a model at work in a browser: `deeplab2-lite demo`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deeplab2_lite.data.conversion.options import add_high_depth_argument
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.demo.answers import Demo, Limits
from deeplab2_lite.evaluation.demo.server import DemoServer
from deeplab2_lite.evaluation.inputs import find_images
from deeplab2_lite.evaluation.model_arguments import add_model_argument, add_view_arguments, overrides_of

# A strip of more would hide the page.
_MOST_SAMPLES = 24
_WARM_UP_SIDE = 65


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    add_model_argument(parser, required=True)
    parser.add_argument("--host", default="127.0.0.1", help="to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument("--samples", metavar="DIR", help=f"images to offer on the page, the first {_MOST_SAMPLES}")
    parser.add_argument(
        "--max_megabytes", type=float, default=20, metavar="N", help="largest file that is taken (default: 20)"
    )
    parser.add_argument(
        "--max_megapixels", type=float, default=16, metavar="N", help="largest image that is taken (default: 16)"
    )
    add_high_depth_argument(parser)
    add_view_arguments(parser)
    parser.epilog = (
        "Images stay in memory and are never written. Whoever can reach the address can use the page: there is no "
        "password, so leave --host as it is unless you trust the network."
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the command, until Ctrl-C.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: No model or sample is there, a limit is none, or the port is taken.
    """
    for flag in ("max_megabytes", "max_megapixels"):
        if not 0 < getattr(arguments, flag) < 1e6:
            raise UserError(f"--{flag}: expected a positive number, got {getattr(arguments, flag):g}")
    samples = find_images(Path(arguments.samples))[:_MOST_SAMPLES] if arguments.samples else []
    from deeplab2_lite.predictor import Predictor

    predictor = Predictor(arguments.model, overrides=overrides_of(arguments))
    limits = Limits(round(arguments.max_megabytes * 1e6), round(arguments.max_megapixels * 1e6))
    name = ", ".join(Path(model).resolve().name for model in arguments.model)
    demo = Demo(_segmenter(predictor), predictor.info, name, limits, samples, arguments.high_depth)
    with DemoServer(demo, arguments.host, arguments.port) as server:
        # The first image compiles the graph, which the first visitor is not to wait for.
        predictor.observe(np.zeros((_WARM_UP_SIDE, _WARM_UP_SIDE, 3), np.uint8))
        print(f"{server.url}  (Ctrl-C stops)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


def _segmenter(predictor: Any) -> Callable[[np.ndarray], Any]:
    import tensorflow as tf

    def segment(image: np.ndarray) -> Any:
        try:
            return predictor.observe(image)
        except tf.errors.ResourceExhaustedError:
            height, width = image.shape[:2]
            raise UserError(
                f"too little memory for {width} x {height} pixels; reduce the image, or start with --tile_size"
            ) from None

    return segment
