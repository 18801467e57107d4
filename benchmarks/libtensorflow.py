"""The C program of tests/serving, on the libtensorflow that the installed TensorFlow is made of."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import tensorflow as tf

SOURCE = Path(__file__).parents[1] / "tests" / "serving" / "predict.c"
LIBRARIES = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")


def compile_program(target: Path) -> Path:
    """Runs gcc, and returns the program."""
    folder = Path(tf.sysconfig.get_lib())
    link = [f"-L{folder}", *(f"-l:{name}" for name in LIBRARIES), f"-Wl,-rpath,{folder}"]
    words = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Werror", str(SOURCE), "-o", str(target)]
    subprocess.run([*words, f"-I{tf.sysconfig.get_include()}", *link], check=True)
    return target


def run_program(
    program: Path, saved_model: Path, image: np.ndarray, runs: int, folder: Path
) -> tuple[float, np.ndarray]:
    """Segments an image in a process without Python.

    Args:
        program: Of `compile_program`.
        saved_model: Its folder.
        image: uint8 [height, width, 3].
        runs: How many, after one that does not count.
        folder: For files that are passed on.

    Returns:
        Median milliseconds, and the panoptic map, int32 [height, width].
    """
    pixels, ids = folder / "image.rgb", folder / "map"
    pixels.write_bytes(np.ascontiguousarray(image).tobytes())
    words = [program, saved_model, "pixels", pixels, ids, *image.shape[:2], runs]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    height, width, *values = np.fromfile(ids, np.int32)
    return float(done.stdout.split()[0]), np.reshape(values, (height, width))
