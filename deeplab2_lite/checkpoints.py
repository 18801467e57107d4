"""Training checkpoints through Orbax: asynchronous, atomic, checked, with the configuration inside.

A checkpoint is a folder named by its step that holds the model's weights by structural path
("backbone/stem/conv/kernel"), the optimizer's state, moving averages of the weights where there are some, and the
configuration and label space as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite import checkpoint_folder
from deeplab2_lite.checkpoint_format import (
    DamagedCheckpointError,
    State,
    read_checkpoint,
    system_reason,
    write_checkpoint,
)
from deeplab2_lite.errors import UserError


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        step: Training step after which it was written.
        weights: Arrays by structural path.
        optimizer: Arrays by name; empty if it was written without.
        metadata: Configuration ("config") and label space ("dataset_info") as plain data.
        averages: Moving averages of weights by structural path; empty if it was written without.
    """

    step: int
    weights: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]
    averages: Mapping[str, np.ndarray]


class _Damage(NamedTuple):
    folder: tuple[int, int]
    reason: str


class CheckpointStore:
    """The checkpoints of one run, in `directory`: the last `max_to_keep`, and those of the steps in `keep`.

    Attributes:
        directory: The folder.
        keep: Steps whose checkpoints stay though they are not among the last; can be set at any time.
        blocked_seconds: How long `save` has blocked its callers so far, in all.
    """

    def __init__(self, directory: str | Path, max_to_keep: int | None = None, writes: bool = True) -> None:
        """Opens the folder; it is made when the first checkpoint is written.

        Args:
            directory: The folder.
            max_to_keep: Older checkpoints are removed; null keeps all, and is what readers use.
            writes: Whether `save` writes. Of several workers that train together one does; the others call
                `save` as well, since all must take part in reading variables.
        """
        self.directory = Path(directory).resolve()
        self.keep: set[int] = set()
        self.blocked_seconds = 0.0
        self._max_to_keep = max_to_keep
        self._writes = writes
        self._damaged: dict[int, _Damage] = {}
        # One thread, so that a checkpoint and the removal of older ones follow each other.
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._is_open = False

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, ascending; reads the folder anew."""
        return checkpoint_folder.find_steps(self.directory)

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint that `load` has not found damaged, or None."""
        steps = [step for step in self.steps() if not self._is_known_as_damaged(step)]
        return steps[-1] if steps else None

    def save(
        self,
        step: int,
        weights: Mapping[str, tf.Variable],
        optimizer: Mapping[str, tf.Variable],
        metadata: Mapping[str, Any],
        averages: Mapping[str, tf.Variable] | None = None,
    ) -> None:
        """Writes a checkpoint in the background; what variables hold now is what it gets.

        Waits for the one before, if that is still being written, so that none is left out.

        Args:
            step: Its step. A step that is there already is left as it is.
            weights: Model variables by structural path.
            optimizer: Optimizer variables by name.
            metadata: Plain data. The key "checksums" is taken.
            averages: Moving averages of the weights by structural path.

        Raises:
            UserError: The one before could not be written. This one is not written then.
        """
        start = time.perf_counter()
        try:
            self.wait()
            parts = {"weights": weights, "optimizer": optimizer, "averages": averages or {}}
            state = {part: _values(variables) for part, variables in parts.items()}
            if self._writes:
                self._set_damaged_aside()
                if step not in self.steps():
                    # As text, since the caller may change what it gave.
                    self._start_writing(step, state, json.dumps(metadata))
        finally:
            self.blocked_seconds += time.perf_counter() - start

    def wait(self) -> None:
        """Blocks until the checkpoint that is being written is complete, and older ones are gone.

        Raises:
            UserError: It could not be written.
        """
        if self._writing is not None:
            # An interrupt may come out of this; the checkpoint goes on being written then, and can be waited for.
            wait([self._writing])
            writing, self._writing = self._writing, None
            writing.result()

    def raise_failure(self) -> None:
        """Looks, without waiting, whether the last checkpoint could be written.

        Raises:
            UserError: It could not.
        """
        if self._writing is not None and self._writing.done():
            self.wait()

    def close(self) -> None:
        """Waits, and lets go of the thread.

        Raises:
            UserError: The checkpoint that was being written could not be.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown()
        self._is_open = False
        self.wait()

    def load(self, step: int | None = None) -> Checkpoint:
        """Reads a checkpoint.

        Args:
            step: Which; None is the newest that can be read. Those that cannot are named on standard error,
                and make room for others of their steps at the next `save`.

        Returns:
            Its content.

        Raises:
            UserError: There is none, or it cannot be read; or one that was being written could not be.
        """
        self.wait()
        if step is None:
            return self._load_newest()
        self._require(step)
        try:
            return self._read(step)
        except DamagedCheckpointError as error:
            # Or it has been removed in the meantime.
            self._require(step)
            raise UserError(f"{self.directory / str(step)}: damaged checkpoint ({error})") from None

    def _require(self, step: int) -> None:
        steps = self.steps()
        if not steps:
            raise self._nothing_to_load(steps)
        if step not in steps:
            raise UserError(f"{self.directory}: no checkpoint of step {step}; there are {steps}")

    def _load_newest(self) -> Checkpoint:
        found: list[int] = []
        while True:
            steps = self.steps()
            undamaged = [step for step in steps if not self._is_known_as_damaged(step)]
            if not undamaged:
                raise self._nothing_to_load(steps)
            step = undamaged[-1]
            folder = self._identity(step)
            try:
                checkpoint = self._read(step)
                break
            except DamagedCheckpointError as error:
                # Otherwise the process that trains has removed it, or written it anew, in the meantime.
                if folder is not None and folder == self._identity(step):
                    self._damaged[step] = _Damage(folder, str(error))
                    found.append(step)
        for damaged in found:
            path, reason = self.directory / str(damaged), self._damaged[damaged].reason
            print(f"warning: {path}: damaged checkpoint ({reason}); taking that of step {step}", file=sys.stderr)
        return checkpoint

    def _nothing_to_load(self, steps: list[int]) -> UserError:
        if not steps:
            return UserError(f"{self.directory}: no checkpoint here; expected folders named by step")
        others = f"; so are those of steps {steps[:-1]}" if len(steps) > 1 else ""
        reason = self._damaged[steps[-1]].reason
        return UserError(f"{self.directory / str(steps[-1])}: damaged checkpoint ({reason}){others}")

    def _read(self, step: int) -> Checkpoint:
        state, metadata = read_checkpoint(self.directory / str(step))
        return Checkpoint(step, state["weights"], state["optimizer"], metadata, state["averages"])

    def _identity(self, step: int) -> tuple[int, int] | None:
        # Of the folder, which may be removed, and another be written for the step.
        try:
            status = (self.directory / str(step)).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _is_known_as_damaged(self, step: int) -> bool:
        return step in self._damaged and self._damaged[step].folder == self._identity(step)

    def _set_damaged_aside(self) -> None:
        for step in list(self._damaged):
            if self._is_known_as_damaged(step):
                try:
                    checkpoint_folder.set_aside(self.directory, step)
                except OSError as error:
                    path = self.directory / str(step)
                    raise UserError(f"{path}: damaged checkpoint, cannot be renamed ({error.strerror})") from None
            del self._damaged[step]

    def _start_writing(self, step: int, state: State, metadata: str) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing = self._thread.submit(self._write, step, state, metadata)

    def _write(self, step: int, state: State, metadata: str) -> None:
        folder = self.directory / str(step)
        try:
            if not self._is_open:
                self.directory.mkdir(parents=True, exist_ok=True)
                checkpoint_folder.clean(self.directory)
                self._is_open = True
            with checkpoint_folder.whole_checkpoint(self.directory, step) as temporary:
                write_checkpoint(temporary, state, metadata)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: cannot be written ({system_reason(error)}); {self._what_is_whole()}") from None
        if self._max_to_keep is not None:
            steps = self.steps()
            for old in checkpoint_folder.surplus_steps(steps, step, self._max_to_keep, frozenset(self.keep)):
                checkpoint_folder.remove(self.directory, old)

    def _what_is_whole(self) -> str:
        newest = self.latest_step()
        if newest is None:
            return "there is no earlier checkpoint"
        return f"the checkpoint of step {newest} is whole; the same command goes on from it"


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
    # What reading a variable gives does not change when the variable does: TensorFlow promises it of ReadVariableOp.
    # So on the CPU nothing is copied here, a later step puts its values elsewhere; from a device, the host gets a copy.
    return {name: np.asarray(tf.convert_to_tensor(variable)) for name, variable in variables.items()}
