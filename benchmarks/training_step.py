"""Times a training step on this machine: python benchmarks/training_step.py --torch_python=VENV/bin/python

Forward, losses at full resolution, backward, batch statistics and Adam, on one batch that stays in memory. Contenders
(`training_contenders.py`, and the same network in PyTorch) have a process each and take turns, round by round, so that
they see the same noise of the machine. PyTorch runs in its default and its channels-last memory format, and its faster
one is what the others are compared with; without --torch_python there is nothing to compare with.

Seconds are of a step, medians of rounds with quartiles; `fastest` is the fastest round. `cpu` counts all cores. Memory
is resident, at its highest in a step, over what importing took. `others` is the share of this machine's cores that was
not ours to use, the median of rounds: figures with more than some percent tell of the others as well. Writes a CSV.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from step_process import Round, StepProcess
from training_contenders import CONTENDERS

COLUMNS = (
    "contender",
    "batch_size",
    "seconds",
    "lower_quartile",
    "upper_quartile",
    "fastest",
    "cpu_seconds",
    "images_per_second",
    "peak_mb",
    "times_pytorch",
    "others_percent",
)
# The experiment whose network there is in PyTorch, too.
TWIN_OF = "cityscapes/resnet50_beta"
PYTORCH = {
    "PyTorch": (),
    "PyTorch channels_last": ("--channels_last",),
    "PyTorch channels_last, fused Adam": ("--channels_last", "--fused"),
    "PyTorch channels_last, bfloat16": ("--channels_last", "--fused", "--bfloat16"),
}
# What a float32 contender has to beat; bfloat16 is there for bfloat16.
_REFERENCES = tuple(name for name in PYTORCH if "bfloat16" not in name)
_HERE = Path(__file__).parent
_STAT = Path("/proc/stat")


class Measured(NamedTuple):
    """A round, and the share of the machine's cores that others took from it."""

    round: Round
    others: float


def commands(
    names: Sequence[str],
    batch_size: int,
    crop_size: Sequence[int],
    torch_python: str | None,
    experiment: str = TWIN_OF,
) -> dict:
    """Returns the command of each contender, and what its environment has besides ours."""
    options = [f"--batch_size={batch_size}", "--crop_size", *map(str, crop_size)]
    found = {}
    for contender in CONTENDERS:
        script = str(_HERE / "training_contenders.py")
        command = [sys.executable, script, contender.name, *options, f"--experiment={experiment}"]
        found[contender.name] = (command, contender.environment)
    if torch_python is not None and experiment == TWIN_OF:
        for name, flags in PYTORCH.items():
            found[name] = ([torch_python, str(_HERE / "pytorch_twin.py"), *options, *flags], {})
    return {name: found[name] for name in names if name in found} if names else found


def measure(commands: dict, rounds: int, steps: int) -> dict[str, list[Measured]]:
    """Lets all contenders take turns.

    Args:
        commands: As `commands` gives them.
        rounds: Of each.
        steps: Of a round.

    Returns:
        The rounds by contender.

    Raises:
        RuntimeError: The networks have not the same number of parameters.
    """
    processes = {name: StepProcess(command, {**os.environ, **more}) for name, (command, more) in commands.items()}
    try:
        parameters = {name: process.parameters for name, process in processes.items()}
        if len(set(parameters.values())) != 1:
            raise RuntimeError(f"expected networks of as many parameters, got {parameters}")
        measured: dict[str, list[Measured]] = {name: [] for name in processes}
        for _ in range(rounds):
            for name, process in processes.items():
                start, busy = time.perf_counter(), _busy_seconds()
                done = process.round(steps)
                share = (_busy_seconds() - busy) / (os.cpu_count() * (time.perf_counter() - start))
                ours = done.cpu_seconds / (os.cpu_count() * done.seconds)
                measured[name].append(Measured(done, max(0.0, share - ours)))
    finally:
        for process in processes.values():
            process.close()
    return measured


def rows(measured: dict[str, list[Measured]], batch_size: int) -> list[dict[str, Any]]:
    """Sums up rounds; `times_pytorch` is the median of the ratios round by round, above 1 where ours is faster."""
    seconds = {name: [m.round.seconds for m in of_one] for name, of_one in measured.items()}
    reference = min((n for n in _REFERENCES if n in seconds), key=lambda n: statistics.median(seconds[n]), default=None)
    found = []
    for name, of_one in measured.items():
        lower, median, upper = statistics.quantiles(seconds[name], n=4, method="inclusive")
        ratio = reference and statistics.median(a / b for a, b in zip(seconds[reference], seconds[name], strict=True))
        peaks = [m.round.peak_mb for m in of_one if m.round.peak_mb is not None]
        found.append(
            {
                "contender": name,
                "batch_size": batch_size,
                "seconds": round(median, 3),
                "lower_quartile": round(lower, 3),
                "upper_quartile": round(upper, 3),
                "fastest": round(min(seconds[name]), 3),
                "cpu_seconds": round(statistics.median(m.round.cpu_seconds for m in of_one), 3),
                "images_per_second": round(batch_size / median, 2),
                "peak_mb": round(max(peaks)) if peaks else None,
                "times_pytorch": ratio and round(ratio, 2),
                "others_percent": round(100 * statistics.median(m.others for m in of_one)),
            }
        )
    return found


def _busy_seconds() -> float:
    """Seconds that the machine's cores have worked for anybody, added up; 0 where the system does not tell."""
    if not _STAT.exists():
        return 0.0
    times = [int(ticks) for ticks in _STAT.read_text().splitlines()[0].split()[1:9]]
    idle, waiting = times[3:5]
    return (sum(times) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*(contender.name for contender in CONTENDERS), *PYTORCH]
    parser.add_argument("--contender", action="append", choices=names, help="instead of all", default=[])
    parser.add_argument("--experiment", default=TWIN_OF, help="default: %(default)s, the only one with a PyTorch twin")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--crop_size", type=int, nargs=2, default=(257, 513), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="of a round")
    parser.add_argument("--torch_python", help="Python of an environment that has torch")
    parser.add_argument("--output", type=Path, default=Path("training_step.csv"))
    arguments = parser.parse_args()
    if arguments.torch_python is None:
        print("PyTorch: left out, as --torch_python is not given")
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        print(" | ".join(COLUMNS))
        for batch_size in arguments.batch_size:
            started = commands(
                arguments.contender, batch_size, arguments.crop_size, arguments.torch_python, arguments.experiment
            )
            for row in rows(measure(started, arguments.rounds, arguments.steps), batch_size):
                writer.writerow(row)
                print(" | ".join(str(row[column]) for column in COLUMNS), flush=True)
            file.flush()


if __name__ == "__main__":
    main()
