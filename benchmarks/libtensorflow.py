"""Compiles a C program against the libtensorflow that the installed TensorFlow is made of."""

from __future__ import annotations

import subprocess
from pathlib import Path

import tensorflow as tf

LIBRARIES = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")


def compile_program(source: Path, target: Path) -> Path:
    """Runs gcc, and returns the program."""
    folder = Path(tf.sysconfig.get_lib())
    link = [f"-L{folder}", *(f"-l:{name}" for name in LIBRARIES), f"-Wl,-rpath,{folder}"]
    words = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Werror", str(source), "-o", str(target)]
    subprocess.run([*words, f"-I{tf.sysconfig.get_include()}", *link], check=True)
    return target
