"""An inspection as text for the terminal, and as plain data for JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deeplab2_lite.data.inspection.findings import ERRORS, HINTS, Finding
from deeplab2_lite.data.inspection.folder import Inspection
from deeplab2_lite.data.inspection.statistics import SMALL_INSTANCE_AREA, ClassSummary, SplitSummary
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.files import write_text_atomically

REPORT_NAME = "inspection.json"

_WIDTH = 100
_LABEL_WIDTH = 11
_LEAST_NAME_WIDTH = 12
_SIZES_SHOWN = 3
_FINDINGS_SHOWN = 10


def report(inspection: Inspection) -> dict[str, Any]:
    """Returns plain data: all figures and findings.

    Args:
        inspection: What was found.

    Returns:
        What `inspection.json` holds; shares are fractions, areas pixels.
    """
    info = inspection.info.to_dict()
    del info["splits"]
    return {
        "folder": str(inspection.folder),
        "dataset_info": info,
        "splits": {split: summary.to_dict() for split, summary in inspection.splits.items()},
        "errors": len(inspection.errors),
        "hints": len(inspection.hints),
        "findings": [finding.to_dict() for finding in inspection.findings],
        "suggestions": list(inspection.suggestions),
    }


def write_report(inspection: Inspection, folder: str | Path) -> Path:
    """Writes `inspection.json`, whole or not at all.

    Args:
        inspection: What was found.
        folder: An existing folder.

    Returns:
        The path written.
    """
    text = json.dumps(report(inspection), indent=1, ensure_ascii=False)
    return write_text_atomically(Path(folder) / REPORT_NAME, text + "\n")


def format_inspection(inspection: Inspection) -> str:
    """Returns the text for the terminal, of at most 100 columns (names of files are never broken).

    Args:
        inspection: What was found.

    Returns:
        Figures of each split, errors and hints (the first ten of each kind), and suggestions.
    """
    info = inspection.info
    things = f"{_count(len(info.thing_ids), 'thing')}, {len(info.stuff_ids)} stuff"
    blocks = [
        f"{info.name}: {_count(info.num_classes, 'class', 'classes')} ({things}), label_divisor {info.label_divisor}, "
        f"ignore_label {info.ignore_label}"
    ]
    blocks += [_format_split(split, summary, info) for split, summary in inspection.splits.items()]
    for title, kinds, findings in (("error", ERRORS, inspection.errors), ("hint", HINTS, inspection.hints)):
        heading = _count(len(findings), title) if findings else f"no {title}s"
        blocks.append("\n".join([heading, *_format_findings(kinds, findings)]))
    if inspection.suggestions:
        blocks.append("\n".join(["suggestions", *(_wrapped("  ", line) for line in inspection.suggestions)]))
    return "\n\n".join(blocks)


def _format_split(split: str, summary: SplitSummary, info: DatasetInfo) -> str:
    size = f"{_count(summary.records, 'record')} in {_count(summary.shards, 'shard')}, {summary.bytes / 1e6:,.1f} MB"
    if summary.inspected < summary.records:
        size += f"; {summary.inspected:,} inspected"
    if summary.readable < summary.inspected:
        size += f"; {summary.inspected - summary.readable:,} cannot be read"
    lines = [f"{split}: {size}"]
    if summary.readable:
        rows = [
            ("images", _images(summary)),
            ("labels", f"{', '.join(summary.label_formats)}; {_percent(summary.void_share)} void"),
            ("instances", _instances(summary)),
            ("ids", f"instance ids up to {summary.largest_instance_id:,}; label_divisor holds {info.max_instances:,}"),
        ]
        lines += [_wrapped(f"  {name:<{_LABEL_WIDTH}}", text) for name, text in rows]
        lines += ["", *_class_table(summary.classes)]
    return "\n".join(lines)


def _images(summary: SplitSummary) -> str:
    formats = ", ".join(f"{count:,} {name}" for name, count in summary.image_formats.items())
    shown = ", ".join(f"{s.height}x{s.width} ({s.images:,})" for s in summary.sizes[:_SIZES_SHOWN])
    if len(summary.sizes) == 1:
        return f"{formats}, all {summary.sizes[0].height}x{summary.sizes[0].width}"
    heights, widths = [s.height for s in summary.sizes], [s.width for s in summary.sizes]
    ranges = f"heights {min(heights)}..{max(heights)}, widths {min(widths)}..{max(widths)}"
    most = "most common " if len(summary.sizes) > _SIZES_SHOWN else ""
    return f"{formats}, of {len(summary.sizes):,} sizes: {most}{shown}; {ranges}"


def _instances(summary: SplitSummary) -> str:
    if not summary.instances:
        return "none"
    share = _percent(summary.small_instances / summary.instances)
    most_in = f" ({summary.most_instances_in})" if summary.most_instances_in else ""
    return (
        f"{summary.instances:,}; {summary.instances_per_image:,g} in the median image, {summary.most_instances:,} at "
        f"most{most_in}; {share} of fewer than {SMALL_INSTANCE_AREA:,} pixels (64x64)"
    )


def _class_table(classes: Sequence[ClassSummary]) -> list[str]:
    occurring = [c for c in classes if c.images]
    has_crowds = any(c.crowds for c in occurring)
    header = ["class", "kind", "images", "pixels", "segments", "area: median", "min..max"]
    rows = [header + ["crowds"] * has_crowds]
    for summary in occurring:
        areas = summary.areas
        row = [
            summary.name,
            "thing" if summary.isthing else "stuff",
            f"{summary.images:,}",
            _percent(summary.share),
            f"{summary.segments:,}",
            f"{areas.median:,.0f}" if areas else "-",
            f"{areas.smallest:,}..{areas.largest:,}" if areas else "-",
        ]
        rows.append(row + [f"{summary.crowds:,}"] * has_crowds)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    room = _WIDTH - sum(2 + width for width in widths[1:]) - 2
    widths[0] = min(widths[0], max(room, _LEAST_NAME_WIDTH))
    rows = [[_cut(row[0], widths[0]), *row[1:]] for row in rows]
    lines = [
        "  " + "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    if absent := [c.name for c in classes if not c.images]:
        lines.append(_wrapped("  not there: ", ", ".join(absent)))
    return lines


def _format_findings(kinds: dict[str, str], findings: Sequence[Finding]) -> list[str]:
    lines = []
    for kind, title in kinds.items():
        own = [finding for finding in findings if finding.kind == kind]
        if not own:
            continue
        lines.append(f"  {title} ({len(own):,})")
        lines += [_wrapped("    ", f"{finding.where}: {finding.message}", 4) for finding in own[:_FINDINGS_SHOWN]]
        if len(own) > _FINDINGS_SHOWN:
            lines.append(f"    and {len(own) - _FINDINGS_SHOWN:,} more, which {REPORT_NAME} lists")
    return lines


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 3]}..."


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _count(number: int, singular: str, plural: str = "") -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def _wrapped(start: str, text: str, hanging: int = 0) -> str:
    """Breaks a line between words; further lines begin below the text, or so many columns further right."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * (len(start) + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )
