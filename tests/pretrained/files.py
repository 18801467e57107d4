"""Writers of other code bases' files, as far as tests need them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf


def save_slim(path: Path, variables: Mapping[str, np.ndarray]) -> Path:
    """Writes a checkpoint of names, as TensorFlow 1 did, and returns its prefix."""
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=[tf.constant(v) for v in variables.values()],
    )
    return path


def save_objects(path: Path, variables: Mapping[str, np.ndarray]) -> Path:
    """Writes an object-based checkpoint of modules with these paths of attributes, and returns its prefix."""
    root = tf.train.Checkpoint()
    for name, value in variables.items():
        node, parts = root, name.split("/")
        for part in parts[:-1]:
            if not hasattr(node, part):
                setattr(node, part, tf.Module())
            node = getattr(node, part)
        setattr(node, parts[-1], tf.Variable(value))
    return Path(root.save(str(path)))


def save_safetensors(path: Path, variables: Mapping[str, np.ndarray]) -> Path:
    kinds = {"float32": "F32", "float16": "F16", "int64": "I64"}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, value in variables.items():
        offsets = [end, end + value.nbytes]
        header[name] = {"dtype": kinds[value.dtype.name], "shape": list(value.shape), "data_offsets": offsets}
        end += value.nbytes
    text = json.dumps(header).encode()
    contents = [np.ascontiguousarray(value).tobytes() for value in variables.values()]
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *contents]))
    return path
