"""TensorFlow checkpoints as mappings of arrays, of TF-slim by name and of TF 2 by path of attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab2_lite.errors import UserError

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# Slots of an optimizer lie below the variable that they belong to.
_SLOT = "/.OPTIMIZER_SLOT"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


class CheckpointVariables(Mapping[str, np.ndarray]):
    """The variables of a TensorFlow checkpoint, each read when it is asked for.

    Those of an object-based checkpoint go by their path of attributes alone, and without the slots of
    the optimizer.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens a checkpoint.

        Args:
            path: Its prefix ("model.ckpt-60000"), its `.index` file, or a folder, whose newest it is.

        Raises:
            UserError: There is none, or it cannot be read.
        """
        self._path = str(path).removesuffix(".index")
        if not Path(self._path + ".index").is_file() and not Path(self._path).is_dir():
            raise UserError(f"{path}: no checkpoint; expected the name before .index and .data-00000-of-...")
        try:
            self._reader = tf.train.load_checkpoint(self._path)
            names = self._reader.get_variable_to_shape_map()
        except (tf.errors.OpError, ValueError) as error:
            raise UserError(f"{path}: no readable checkpoint ({_one_line(error)})") from None
        self._names = {n.removesuffix(_VALUE): n for n in sorted(names) if _SLOT not in n and n != _GRAPH}

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads the array of this name."""
        try:
            return np.asarray(self._reader.get_tensor(self._names[name]))
        except tf.errors.OpError as error:
            raise UserError(f"{self._path}: '{name}' cannot be read ({_one_line(error)})") from None

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Counts the variables."""
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        """Whether there is a variable of this name; does not read it."""
        return name in self._names


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
