"""PQ against seconds, as the paper's Figure 3: what was published beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from deeplab2_lite.benchmark.machine import Machine
from deeplab2_lite.benchmark.measuring import Benchmark
from deeplab2_lite.files import atomic_path

# Colours that the colour-blind tell apart as well (Okabe and Ito), with a marker each.
_STYLES = {
    "cityscapes": ("Cityscapes", "#0072B2", "o"),
    "mapillary_vistas": ("Mapillary Vistas", "#D55E00", "s"),
    "coco": ("COCO", "#009E73", "^"),
}
_OTHER_STYLES = (("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
_SHORT_NAMES = (
    ("mobilenet_v3_large", "MNV3"),
    ("mobilenet_v3_small", "MNV3-S"),
    ("xception", "X-"),
    ("resnet", "R-"),
    ("_beta", ""),
    ("auto_deeplab_", "AD-"),
    ("_plus", "+"),
    ("hrnet_", "HRNet-"),
)


def plot_benchmarks(found: Sequence[Benchmark], machine: Machine, path: str | Path) -> bool:
    """Draws networks by time and published PQ.

    Each data set has a colour and a marker, filled for the times measured here, hollow for the published
    ones; each network has its name beside both.

    Args:
        found: What was measured; networks without a PQ published for images of this size are left out.
        machine: Where.
        path: PNG file to write, whole or not at all.

    Returns:
        False if that leaves none, and nothing was written.
    """
    shown = [benchmark for benchmark in found if benchmark.comparable.pq is not None]
    if not shown:
        return False
    figure = Figure(figsize=(9, 5.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    handles = []
    for data_set in dict.fromkeys(benchmark.data_set for benchmark in shown):
        others = len([name for name in {b.data_set for b in shown} if name not in _STYLES and name < data_set])
        title, color, marker = _STYLES.get(data_set, (data_set, *_OTHER_STYLES[others % len(_OTHER_STYLES)]))
        _draw_data_set(axes, [benchmark for benchmark in shown if benchmark.data_set == data_set], color, marker)
        handles.append(_handle(title, color, marker, filled=True))
    handles.append(_handle(f"here: {machine.device}", "0.35", "o", filled=True))
    published = [b.comparable for b in shown if b.comparable.milliseconds is not None]
    if published:
        devices = sorted({p.device for p in published if p.device})
        label = f"published: {', '.join(devices)}" if devices else "published"
        handles.append(_handle(label, "0.35", "o", filled=False))
    _dress(axes)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def short_name(backbone: str) -> str:
    """Shortens a backbone's name as the paper's Figure 3 does: X-71, R-50, MNV3."""
    for long, short in _SHORT_NAMES:
        backbone = backbone.replace(long, short)
    return backbone


def _draw_data_set(axes: Axes, members: Sequence[Benchmark], color: str, marker: str) -> None:
    here = sorted((b.seconds_per_image, b.comparable.pq, short_name(b.backbone)) for b in members)
    there = sorted(
        (b.comparable.milliseconds / 1000, b.comparable.pq, short_name(b.backbone))
        for b in members
        if b.comparable.milliseconds is not None
    )
    for points, filled in ((there, False), (here, True)):
        if not points:
            continue
        seconds, quality, names = zip(*points, strict=True)
        face = color if filled else "white"
        axes.plot(
            seconds,
            quality,
            color=color,
            marker=marker,
            markerfacecolor=face,
            markersize=8,
            linestyle="-" if filled else "--",
            linewidth=1.4 if filled else 1.0,
        )
        for x, y, name in zip(seconds, quality, names, strict=True):
            # Lines rise to the right: there is room to the left.
            axes.annotate(name, (x, y), (-5, 5), textcoords="offset points", ha="right", fontsize=9, color="0.2")


def _dress(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.25, high * 1.25)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - 1, top + 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds an image, end to end (logarithmic)")
    axes.set_ylabel("published PQ [val], %")
    axes.grid(True, which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _handle(label: str, color: str, marker: str, filled: bool) -> Line2D:
    face = color if filled else "white"
    return Line2D(
        [], [], color=color, marker=marker, markerfacecolor=face, linestyle="-" if filled else "--", label=label
    )
