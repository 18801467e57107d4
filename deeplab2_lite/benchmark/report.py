"""What was measured, as text for the terminal and as rows and objects for files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from deeplab2_lite.benchmark.machine import Machine
from deeplab2_lite.benchmark.measuring import Benchmark
from deeplab2_lite.benchmark.stages import NETWORK, PART_OF_STAGE, POSTPROCESSING, PREPARING
from deeplab2_lite.benchmark.timing import Timing
from deeplab2_lite.config import PublishedConfig, Size

SUM_OF_STAGES = "sum of stages"
_MEBI = 2**20


def format_benchmark(found: Benchmark) -> str:
    """Returns the stages of a network as a table.

    Args:
        found: What was measured.

    Returns:
        Lines: what it is, a row a stage, their sum, end to end, and what was published.
    """
    header = ("stage", "median ms", "quartiles ms", "share", "peak MiB")
    rows: list[Sequence[str]] = [header]
    total = found.total(SUM_OF_STAGES) if found.stages else None
    breaks = {1}
    for part in (PREPARING, NETWORK, POSTPROCESSING) if total else ():
        stages = [stage for stage in found.stages if PART_OF_STAGE.get(stage.name) == part]
        if part != PREPARING:
            rows.append(_cells(part, found.total(part, part), total))
        indent = "" if part == PREPARING else "  "
        rows.extend(_cells(indent + stage.name, stage, total) for stage in stages)
    if total:
        breaks.add(len(rows))
        rows.append(_cells(SUM_OF_STAGES, total, total))
    rows.append(_cells("end to end, image to panoptic map", found.end_to_end, None))
    rows.extend(_cells(f"beside it: {s.name}", s, None) for s in found.stages if s.name not in PART_OF_STAGE)
    return "\n".join([*_introduction(found), "", *_aligned(rows, breaks), *_beside_published(found)])


def format_summary(found: Sequence[Benchmark]) -> str:
    """Returns several networks as a table: PQ and time as published for images of this size, and the time here.

    Args:
        found: What was measured.

    Returns:
        Lines, one a network.
    """
    rows = [("network", "image", "PQ", "published ms", "here ms", "ratio")]
    for benchmark in found:
        published = benchmark.comparable
        rows.append(
            (
                benchmark.name,
                format_sizes(benchmark.image_sizes),
                _or_dash(published.pq, ".1f"),
                _or_dash(published.milliseconds, ".0f"),
                f"{1000 * benchmark.seconds_per_image:,.1f}",
                _or_dash(benchmark.ratio_to_published, ".2f"),
            )
        )
    return "\n".join(_aligned(rows, {1}, left=2))


def format_sizes(sizes: Iterable[Size]) -> str:
    """Writes sizes of images as "1025 x 2049", or from the least to the greatest."""
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    texts = [f"{height} x {width}" for height, width in ordered]
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def to_csv(found: Sequence[Benchmark], machine: Machine) -> str:
    """Returns a row for each stage of each network, times in milliseconds.

    Args:
        found: What was measured.
        machine: Where.

    Returns:
        CSV with a header.
    """
    text = io.StringIO()
    columns = (
        *("name", "data_set", "backbone", "image_size", "batch_size", "precision", "xla", "device"),
        *("stage", "median_ms", "lower_quartile_ms", "upper_quartile_ms", "peak_bytes"),
        *("published_pq", "published_ms", "published_device"),
    )
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for benchmark in found:
        published = benchmark.published or PublishedConfig()
        what = (
            *(benchmark.name, benchmark.data_set, benchmark.backbone, format_sizes(benchmark.image_sizes)),
            *(benchmark.batch_size, benchmark.precision, benchmark.xla, machine.device),
        )
        for timing in _timings(benchmark):
            times = (1000 * seconds for seconds in (timing.median, *timing.quartiles))
            row = (*what, timing.name, *(f"{time:.4f}" for time in times), timing.peak_bytes)
            writer.writerow((*row, published.pq, published.milliseconds, published.device))
    return text.getvalue()


def to_json(found: Sequence[Benchmark], machine: Machine) -> str:
    """Returns all that was measured, every run in seconds, as JSON.

    Args:
        found: What was measured.
        machine: Where.

    Returns:
        JSON: `machine`, and `benchmarks` with the fields of `Benchmark`.
    """
    content = {"machine": asdict(machine), "benchmarks": [_plain(benchmark) for benchmark in found]}
    return json.dumps(content, indent=1) + "\n"


def _plain(found: Benchmark) -> dict[str, Any]:
    content = asdict(found)
    content["seconds_per_image"] = found.seconds_per_image
    content["ratio_to_published"] = found.ratio_to_published
    return content


def _timings(found: Benchmark) -> list[Timing]:
    total = [found.total(SUM_OF_STAGES)] if found.stages else []
    return [*found.stages, *total, found.end_to_end]


def _introduction(found: Benchmark) -> list[str]:
    count, sizes = len(found.image_sizes), format_sizes(found.image_sizes)
    how = [found.precision if found.precision != "float32" else "", "XLA" if found.xla else ""]
    batch = (
        f"batch of {found.batch_size}" if found.drawn_instances is not None or count == 1 else _number(count, "image")
    )
    runs = len(found.end_to_end.seconds) // (1 if found.drawn_instances is not None else count)
    lines = [", ".join(filter(None, [f"{found.name}: {sizes}", batch, _number(runs, "run"), *how]))]
    if found.drawn_instances is not None:
        lines += [
            "Weights are random: the network sees random pixels, and post-processing the heads of a drawn scene with",
            f"{_number(found.drawn_instances, 'instance')} in place of its own ({found.found_instances:g} found).",
        ]
    else:
        lines.append(f"{found.found_instances:.1f} instances found in an image, on average.")
    if not found.stages:
        lines.append("A SavedModel is one graph; its stages can be timed where its model folder is given instead.")
    return lines


def _beside_published(found: Benchmark) -> list[str]:
    published = found.published
    if published is None:
        return []
    quality = {"PQ": published.pq, "AP": published.ap, "mIoU": published.miou}
    facts = [f"{name} {value:.1f}" for name, value in quality.items() if value is not None]
    if published.milliseconds is not None:
        on = f" on a {published.device}" if published.device else ""
        at = f" at {format_sizes([published.input_size])}" if published.input_size else ""
        facts.append(f"{published.milliseconds:g} ms{on}{at}")
    if not facts:
        return []
    ratio = found.ratio_to_published
    source = f" ({published.source})" if published.source else ""
    times = f"; an image takes {ratio:.2f} times as long here" if ratio is not None else ""
    return [f"published{source}: {', '.join(facts)}{times}"]


def _cells(name: str, timing: Timing, total: Timing | None) -> Sequence[str]:
    low, high = timing.quartiles
    return (
        name,
        f"{1000 * timing.median:,.1f}",
        f"{1000 * low:,.1f} .. {1000 * high:,.1f}",
        "" if total is None else f"{timing.median / total.median:.1%}" if total.median else "-",
        "" if timing.peak_bytes is None else f"{timing.peak_bytes / _MEBI:,.1f}",
    )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _aligned(rows: Sequence[Sequence[str]], breaks: set[int], left: int = 1) -> list[str]:
    """Aligns columns, the first ones to the left; rules stand before the rows of `breaks`."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        if number in breaks:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        cells = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(cells).rstrip())
    return lines
