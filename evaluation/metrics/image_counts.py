"""What one image adds to every metric: a few numbers, from which all figures follow.

Counts are made where the image is (in another process, by an earlier, interrupted run), and added up in the
order of the images; so figures never depend on who counted. Kept by image, they also tell which images are
the worst, and how far a figure would move on other images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from deeplab2_lite.evaluation.metrics.boundary_iou import BoundaryCounts
from deeplab2_lite.evaluation.metrics.instance_iou import InstanceIoUCounts
from deeplab2_lite.evaluation.metrics.mean_iou import ConfusionCounts
from deeplab2_lite.evaluation.metrics.panoptic_quality import PanopticCounts


class ImageCounts(NamedTuple):
    """The counts of one image. A metric that was not asked for, or that the prediction lacks, is None.

    Attributes:
        name: File name of the image.
        panoptic: For `PanopticQuality`.
        semantic: For `MeanIoU`.
        boundary: For boundary PQ.
        instance: For `InstanceAP`, by the name of its rules.
        boundary_iou: For `BoundaryIoU`.
        instance_iou: For `InstanceIoU`.
    """

    name: str
    panoptic: PanopticCounts | None = None
    semantic: ConfusionCounts | None = None
    boundary: PanopticCounts | None = None
    instance: Mapping[str, Mapping[str, Any]] | None = None
    boundary_iou: BoundaryCounts | None = None
    instance_iou: InstanceIoUCounts | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the counts as JSON can hold them; what is None is left out."""
        content: dict[str, Any] = {"name": self.name}
        for key in ("panoptic", "semantic", "boundary", "boundary_iou", "instance_iou"):
            counts = getattr(self, key)
            if counts is not None:
                content[key] = counts.to_json()
        if self.instance is not None:
            content["instance"] = self.instance
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any], num_classes: int) -> ImageCounts:
        """Reads what `to_json` returned."""
        by_class = {
            "panoptic": PanopticCounts,
            "boundary": PanopticCounts,
            "boundary_iou": BoundaryCounts,
            "instance_iou": InstanceIoUCounts,
        }
        counts = {key: kind.from_json(content[key], num_classes) for key, kind in by_class.items() if key in content}
        if "semantic" in content:
            counts["semantic"] = ConfusionCounts.from_json(content["semantic"])
        return cls(content["name"], instance=content.get("instance"), **counts)
