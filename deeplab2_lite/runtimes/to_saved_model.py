"""A SavedModel of a program: that of the heads alone, and what other converters read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab2_lite.runtimes.program import INPUT, Program
from deeplab2_lite.runtimes.running import Runner

SIGNATURE = "serving_default"


def convert(program: Program, folder: Path) -> None:
    """Writes a program as a SavedModel of one signature.

    Args:
        program: What to save.
        folder: Gets `saved_model.pb` and `variables/`.
    """
    tf.saved_model.save(program.module, str(folder), signatures={SIGNATURE: program.function})


def load(folder: Path, threads: int | None = None) -> Runner:
    """Loads what `convert` wrote.

    Args:
        folder: The SavedModel.
        threads: As TensorFlow was set up; expected None.

    Returns:
        A function from uint8 images to outputs by name; a map that is answered as PNG file is decoded, under the
        name of the map.
    """
    loaded = tf.saved_model.load(str(folder))

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = loaded.signatures[SIGNATURE](**{INPUT: tf.constant(images)})
        return dict(_decoded(name, tensor) for name, tensor in outputs.items())

    return run


def _decoded(name: str, output: tf.Tensor) -> tuple[str, np.ndarray]:
    if output.dtype != tf.string:
        return name, output.numpy()
    maps = np.stack([np.asarray(Image.open(io.BytesIO(file)), np.int32) for file in output.numpy()])
    return name.replace("_png_bytes", "_pred"), maps @ [1, 256, 65536] if maps.ndim == 4 else maps
