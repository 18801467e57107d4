"""Training steps in a process of their own, asked for round by round, so that contenders take turns.

The process that trains needs nothing but the standard library from here: it may run in another environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_WARM_UP_STEPS = 2


class Round(NamedTuple):
    """What a round of steps took.

    Attributes:
        seconds: A step, by the clock.
        cpu_seconds: A step, of all cores together; more than cores x seconds never, less where others were at work.
        loss: Of the last step.
        peak_mb: Resident memory at its highest over what was resident before training was prepared; None where the
            system does not tell.
    """

    seconds: float
    cpu_seconds: float
    loss: float
    peak_mb: float | None


def serve(prepare: Callable[[], tuple[Callable[[int], float], int]]) -> None:
    """Prepares training, then runs as many steps as each line of the standard input says, until it ends.

    Answers are lines of JSON: `parameters` once training is ready, then a `Round` for each line.

    Args:
        prepare: Gives what runs so many steps and returns the last one's loss, and the number of trainable
            parameters. All imports come before it, so that memory counts from there.
    """
    # Libraries print what they like; the answers have a way of their own.
    answers, sys.stdout = sys.stdout, sys.stderr
    before = resident_megabytes("VmRSS")
    run, parameters = prepare()
    run(_WARM_UP_STEPS)
    _answer(answers, parameters=parameters)
    for line in sys.stdin:
        steps = int(line)
        # Resets the high-water mark, which never falls by itself: compiling does not count.
        if _CLEAR.exists():
            _CLEAR.write_text("5")
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = run(steps)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        peak = resident_megabytes("VmHWM")
        measured = Round(seconds / steps, cpu_seconds / steps, loss, None if peak is None else peak - before)
        _answer(answers, **measured._asdict())


def resident_megabytes(key: str) -> float | None:
    """Reads resident memory, now (`VmRSS`) or at its highest (`VmHWM`); None where the system does not tell."""
    if not _STATUS.exists():
        return None
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def _answer(stream: Any, **values: Any) -> None:
    print(json.dumps(values), file=stream, flush=True)


class StepProcess:
    """The other end of `serve`: a process that is idle between rounds."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts it, and waits until it has trained its first steps.

        Args:
            command: Program and arguments.
            environment: Variables.
        """
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment)
        )
        self.parameters: int = self._read()["parameters"]

    def round(self, steps: int) -> Round:
        """Runs steps."""
        print(steps, file=self._process.stdin, flush=True)
        return Round(**self._read())

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._process.args)}: ended with status {self._process.wait()}")
        return json.loads(line)
