"""Weights of other code bases: read, put into this library's names and layouts, and trained on from."""

from __future__ import annotations

from deeplab2_lite.pretrained.importing import SOURCES, import_weights, read_weights
from deeplab2_lite.pretrained.report import ImportReport
from deeplab2_lite.pretrained.weight_files import StartingWeights, read_starting_weights, start_from, write_weights

__all__ = [
    "SOURCES",
    "ImportReport",
    "StartingWeights",
    "import_weights",
    "read_starting_weights",
    "read_weights",
    "start_from",
    "write_weights",
]
