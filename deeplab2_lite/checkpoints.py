"""Training checkpoints through Orbax: asynchronous, atomic, with the configuration inside.

A checkpoint is a folder named by its step that holds the model's weights by structural path
("backbone/stem/conv/kernel"), the optimizer's state, and the configuration and label space as JSON.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.errors import UserError


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        step: Training step after which it was written.
        weights: Arrays by structural path.
        optimizer: Arrays by name; empty if it was written without.
        metadata: Configuration ("config") and label space ("dataset_info") as plain data.
    """

    step: int
    weights: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]


class CheckpointStore:
    """The checkpoints of one run, in `directory`, of which the last `max_to_keep` stay."""

    def __init__(self, directory: str | Path, max_to_keep: int | None = None) -> None:
        """Opens the folder; it is made when the first checkpoint is written.

        Args:
            directory: The folder.
            max_to_keep: Older checkpoints are removed; null keeps all, and is what readers use.
        """
        self.directory = Path(directory).resolve()
        self._max_to_keep = max_to_keep
        self._manager: Any = None
        self._last_saved: int | None = None

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, ascending; reads the folder anew."""
        if not self.directory.is_dir():
            return []
        # Orbax renames a folder to its step when it is complete.
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit() and p.is_dir())

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        steps = self.steps()
        return steps[-1] if steps else None

    def save(
        self,
        step: int,
        weights: Mapping[str, tf.Variable],
        optimizer: Mapping[str, tf.Variable],
        metadata: Mapping[str, Any],
    ) -> None:
        """Writes a checkpoint in the background; values are copied before this returns.

        Args:
            step: Its step. A step that is there already is left as it is.
            weights: Model variables by structural path.
            optimizer: Optimizer variables by name.
            metadata: Plain data.
        """
        # A step that is still being written has no folder of its name yet.
        if step == self._last_saved or step in self.steps():
            return
        self._last_saved = step
        orbax = _orbax()
        state = {"weights": _values(weights), "optimizer": _values(optimizer)}
        items = {"state": orbax.args.StandardSave(state), "metadata": orbax.args.JsonSave(dict(metadata))}
        self._open().save(step, args=orbax.args.Composite(**items), force=True)

    def wait(self) -> None:
        """Blocks until the checkpoint that is being written is complete."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of Orbax's threads."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()
            self._manager = None

    def load(self, step: int | None = None) -> Checkpoint:
        """Reads a checkpoint.

        Args:
            step: Which; None is the newest.

        Returns:
            Its content.

        Raises:
            UserError: There is none, or it cannot be read.
        """
        self.wait()
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.directory}: no checkpoint here; expected folders named by step")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise UserError(f"{self.directory}: no checkpoint of step {step}; there are {steps}")
        orbax = _orbax()
        folder = self.directory / str(step)
        try:
            with _late_reads_ignored(), orbax.StandardCheckpointer() as checkpointer:
                state = checkpointer.restore(folder / "state")
            with orbax.Checkpointer(orbax.JsonCheckpointHandler()) as checkpointer:
                metadata = checkpointer.restore(folder / "metadata")
            return Checkpoint(step, state["weights"], state.get("optimizer") or {}, metadata)
        except (ValueError, KeyError, OSError) as error:
            raise UserError(f"{folder}: damaged checkpoint ({' '.join(str(error).split())[:200]})") from None

    def _open(self) -> Any:
        if self._manager is None:
            orbax = _orbax()
            options = orbax.CheckpointManagerOptions(
                max_to_keep=self._max_to_keep, create=True, enable_async_checkpointing=True
            )
            self._manager = orbax.CheckpointManager(self.directory, options=options)
        return self._manager


def named_weights(model: Any) -> dict[str, tf.Variable]:
    """Returns a model's variables by structural path, such as "backbone/stem/conv/kernel".

    Args:
        model: A keras.Model whose layers all have explicit names, as `build_model` gives.

    Returns:
        Variables, trainable or not, in the model's order.
    """
    return _by_name(model.variables)


def named_optimizer_state(variables: Sequence[tf.Variable]) -> dict[str, tf.Variable]:
    """Returns an optimizer's variables by name; slots bear the names of their weights."""
    return _by_name(variables)


def assign(targets: Mapping[str, tf.Variable], values: Mapping[str, np.ndarray], what: str) -> None:
    """Puts values into variables of the same names and shapes; checks all before it changes one.

    Args:
        targets: Variables by name.
        values: Arrays by name.
        what: What they are, with their source, for messages ("weights of runs/a/checkpoints").

    Raises:
        UserError: A name is missing or too many, or a shape differs.
    """
    for name in targets:
        if name not in values:
            raise UserError(f"{what}: no value for '{name}'; the checkpoint is of another architecture")
        expected, found = tuple(targets[name].shape), tuple(np.shape(values[name]))
        if expected != found:
            raise UserError(
                f"{what}: '{name}' has shape {list(found)}, expected {list(expected)}; "
                "another architecture or number of classes"
            )
    surplus = [name for name in values if name not in targets]
    if surplus:
        raise UserError(f"{what}: '{surplus[0]}' is not in the model; the checkpoint is of another architecture")
    for name, variable in targets.items():
        variable.assign(tf.cast(values[name], variable.dtype))


def _by_name(variables: Sequence[tf.Variable]) -> dict[str, tf.Variable]:
    named: dict[str, tf.Variable] = {}
    for variable in variables:
        name = variable.name.removesuffix(":0")
        if name in named:
            raise ValueError(f"two variables are named '{name}'; layers need distinct explicit names")
        named[name] = variable
    return named


def _values(variables: Mapping[str, tf.Variable]) -> dict[str, np.ndarray]:
    # A copy: the array of a variable's value may be overwritten by the next step while it is written out.
    return {name: np.array(tf.convert_to_tensor(variable)) for name, variable in variables.items()}


@contextlib.contextmanager
def _late_reads_ignored() -> Iterator[None]:
    # Where one array cannot be read, Orbax closes its event loop while others are still being read, and each
    # of those prints a stack trace of its own: some of them after the error has come out here, so that the
    # hook goes back to what it was after a success alone.
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = before


def _orbax() -> ModuleType:
    # Orbax imports JAX, which would take a GPU or TPU that TensorFlow trains on. TensorFlow may have
    # imported JAX by itself before this runs, hence the second setting.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    jax.config.update("jax_platforms", "cpu")
    from absl import logging

    # Orbax logs every array that it writes at level INFO and its own threads at WARNING.
    logging.set_verbosity(logging.ERROR)
    import orbax.checkpoint

    return orbax.checkpoint
