"""From head outputs to panoptic maps and scored instances, in TensorFlow operations alone."""

from __future__ import annotations

from deeplab2_lite.postprocessing.instances import InstanceTable
from deeplab2_lite.postprocessing.scoring import score_instances
from deeplab2_lite.postprocessing.segmentation import PanopticResult, panoptic_segmentation
from deeplab2_lite.postprocessing.upsampling import Heads, upsample_heads

__all__ = ["Heads", "InstanceTable", "PanopticResult", "panoptic_segmentation", "score_instances", "upsample_heads"]
