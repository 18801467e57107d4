"""LiteRT (TensorFlow Lite): one file of built-in operations, in float32, float16 or int8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab2_lite.runtimes.program import INPUT, Program
from deeplab2_lite.runtimes.running import Runner

FILE = "model.tflite"
SIGNATURE = "serving_default"


def convert(program: Program, folder: Path, precision: str, calibration_images: Iterable[np.ndarray] = ()) -> None:
    """Writes a program of static shape.

    Args:
        program: What to convert.
        folder: Gets `model.tflite`.
        precision: "float32"; "float16", which halves the file and computes in float32 on CPUs; or "int8".
        calibration_images: Of the program's input shape, uint8; for int8.
    """
    converter = tf.lite.TFLiteConverter.from_concrete_functions([program.concrete()], program.module)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif precision == "int8":

        def samples() -> Iterator[dict[str, np.ndarray]]:
            for images in calibration_images:
                yield {INPUT: images}

        converter.representative_dataset = samples
    (folder / FILE).write_bytes(converter.convert())


def load(folder: Path, threads: int | None = None) -> Runner:
    """Loads what `convert` wrote.

    Args:
        folder: Holds `model.tflite`.
        threads: Of the interpreter; None takes one.

    Returns:
        A function from uint8 images to outputs by name.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / FILE), num_threads=threads)
    signature = interpreter.get_signature_runner(SIGNATURE)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return signature(**{INPUT: images})

    return run
