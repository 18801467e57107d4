"""What is in the folder of one checkpoint: written by Orbax, checked when it is read.

Orbax has checksums of its own for the directory of the arrays but not for their values, nor for JSON; those are
kept in the metadata here.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from os import strerror
from pathlib import Path
from typing import Any

import numpy as np

from deeplab2_lite.orbax_import import import_orbax

# The parts of a state, each arrays by name.
PARTS = ("weights", "optimizer", "averages")
_CHECKSUMS = "checksums"

State = Mapping[str, Mapping[str, np.ndarray]]


class DamagedCheckpointError(Exception):
    """A checkpoint cannot be read, or is not what was written; the message says why, in one line."""


def write_checkpoint(folder: Path, state: State, metadata: str) -> None:
    """Writes what a checkpoint holds.

    Args:
        folder: An empty one.
        state: All of `PARTS`.
        metadata: A mapping as JSON.

    Raises:
        OSError: It cannot be written.
        ValueError: Likewise.
    """
    orbax = import_orbax()
    metadata = json.loads(metadata)
    checksums = {part: {name: checksum(array) for name, array in state[part].items()} for part in PARTS}
    checksums["metadata"] = _of_metadata(metadata)
    # Not at once through a CompositeCheckpointHandler: its threads wait for each other by the wall clock.
    with orbax.Checkpointer(orbax.JsonCheckpointHandler()) as checkpointer:
        checkpointer.save(folder / "metadata", args=orbax.args.JsonSave({**metadata, _CHECKSUMS: checksums}))
    with orbax.Checkpointer(orbax.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(folder / "state", args=orbax.args.StandardSave({part: dict(state[part]) for part in PARTS}))
    # TensorStore makes folders that are not there: one that vanished meanwhile is there again, with a part of it all.
    (folder / "metadata").stat()


def read_checkpoint(folder: Path) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint, and holds it against its checksums.

    Args:
        folder: Of the checkpoint.

    Returns:
        Arrays by part and name, for all of `PARTS`, and the metadata.

    Raises:
        DamagedCheckpointError: It cannot be read as what was written.
    """
    orbax = import_orbax()
    try:
        with orbax.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(folder / "state")
        with orbax.Checkpointer(orbax.JsonCheckpointHandler()) as checkpointer:
            metadata = checkpointer.restore(folder / "metadata")
        checksums = metadata.pop(_CHECKSUMS, None)
        # Averages came with the checksums.
        if checksums is not None or "averages" in state:
            _check(state, metadata, checksums)
        return {part: (state["weights"] if part == "weights" else state.get(part) or {}) for part in PARTS}, metadata
    except MemoryError:
        raise
    # What damaged JSON does to Orbax can be any exception.
    except Exception as error:
        raise DamagedCheckpointError(" ".join(str(error).split())[:200] or type(error).__name__) from None


def system_reason(error: BaseException) -> str:
    """Returns what the operating system said, such as "No space left on device", or else the start of the message.

    Args:
        error: What `write_checkpoint` raised.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # TensorStore gives the number in its text alone.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return strerror(int(code[1])) if code else " ".join(str(error).split())[:200]


def _check(state: State, metadata: dict[str, Any], checksums: dict[str, Any] | None) -> None:
    if checksums is None or _of_metadata(metadata) != checksums["metadata"]:
        raise ValueError("the checksum of its metadata differs")
    for part in PARTS:
        if set(state[part]) != set(checksums[part]):
            raise ValueError(f"the names of its {part} differ from those written")
        for name, array in state[part].items():
            if checksum(array) != checksums[part][name]:
                raise ValueError(f"the checksum of '{name}' in its {part} differs")


def checksum(array: np.ndarray) -> int:
    """Returns the CRC-32 of an array's type, shape and values.

    Args:
        array: Of any type with a fixed size.
    """
    start = zlib.crc32(f"{array.dtype.name} {array.shape}".encode())
    # As bytes, since NumPy hands out no buffer of bfloat16.
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8), start)


def _of_metadata(metadata: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
