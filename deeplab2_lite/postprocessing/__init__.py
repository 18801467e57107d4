"""From head outputs to panoptic maps and scored instances, in TensorFlow operations alone."""

from __future__ import annotations

from deeplab2_lite.postprocessing.instances import InstanceTable
from deeplab2_lite.postprocessing.scoring import score_instances, score_instances_by_logits
from deeplab2_lite.postprocessing.segmentation import (
    InstanceResult,
    PanopticResult,
    instance_segmentation,
    panoptic_segmentation,
)
from deeplab2_lite.postprocessing.semantic import semantic_segmentation
from deeplab2_lite.postprocessing.upsampling import Heads, Upsampling, upsample_heads

__all__ = [
    "Heads",
    "InstanceResult",
    "InstanceTable",
    "PanopticResult",
    "Upsampling",
    "instance_segmentation",
    "panoptic_segmentation",
    "score_instances",
    "score_instances_by_logits",
    "semantic_segmentation",
    "upsample_heads",
]
