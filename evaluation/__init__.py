"""Evaluation: panoptic quality, mean IoU and instance AP by the official rules, and their tables.

Public names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "BoundaryIoU": "boundary_iou",
    "BoundaryPanopticQuality": "boundary_quality",
    "InstanceAP": "instance_ap",
    "InstanceIoU": "instance_iou",
    "MeanIoU": "mean_iou",
    "PanopticQuality": "panoptic_quality",
}

__all__ = ["BoundaryIoU", "BoundaryPanopticQuality", "InstanceAP", "InstanceIoU", "MeanIoU", "PanopticQuality"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
