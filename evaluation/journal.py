"""What a command has done so far, in a file, so that the same command goes on where it was interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from deeplab2_lite.files import write_text_atomically


class Journal:
    """A file of one line for each thing done, begun by a line that says what the command is.

    A process that is killed leaves at worst one torn line, which the next one drops.

    Attributes:
        entries: What has been done, by name, in order; of earlier processes too.
    """

    def __init__(self, path: str | Path, command: Any) -> None:
        """Goes on with the file of an interrupted process, or begins anew if it was of another command.

        Args:
            path: The file; its folder must exist.
            command: All that the entries depend on, as JSON can hold it.
        """
        self._path = Path(path)
        self.entries, end = _read(self._path, json.loads(json.dumps(command)))
        if end:
            os.truncate(self._path, end)
        else:
            write_text_atomically(self._path, json.dumps(command) + "\n")

    def append(self, name: str, entry: Any) -> None:
        """Notes one thing as done; a later entry of the same name replaces an earlier one.

        Args:
            name: Of the thing.
            entry: What the next process has to know of it, as JSON can hold it.
        """
        with self._path.open("ab") as file:
            file.write(json.dumps([name, entry]).encode("ascii") + b"\n")
        self.entries[name] = entry

    def remove(self) -> None:
        """Deletes the file: all is done."""
        self._path.unlink(missing_ok=True)


def file_stamp(path: str | Path) -> list[Any]:
    """Returns path, size and time of a file, which change with its content; the path alone where there is no file."""
    try:
        status = Path(path).stat()
    except OSError:
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]


def _read(path: Path, command: Any) -> tuple[dict[str, Any], int]:
    """Returns the entries and the length in bytes of all whole lines; 0 where there is nothing to go on with."""
    if not path.is_file():
        return {}, 0
    entries: dict[str, Any] = {}
    end = 0
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            value = json.loads(line)
        except ValueError:
            break
        if end:
            name, entry = value
            entries[name] = entry
        elif value != command:
            break
        end += len(line) + 1
    return entries, end
