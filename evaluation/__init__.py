"""Evaluation: panoptic quality, mean IoU and instance AP by the official rules, and their tables.

Public names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "BoundaryIoU": "metrics.boundary_iou",
    "BoundaryPanopticQuality": "metrics.boundary_quality",
    "InstanceAP": "metrics.instance_ap",
    "InstanceIoU": "metrics.instance_iou",
    "MeanIoU": "metrics.mean_iou",
    "PanopticQuality": "metrics.panoptic_quality",
}

__all__ = ["BoundaryIoU", "BoundaryPanopticQuality", "InstanceAP", "InstanceIoU", "MeanIoU", "PanopticQuality"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
