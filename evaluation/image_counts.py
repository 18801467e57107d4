"""What one image adds to every metric: a few numbers, from which all figures follow.

Counts are made where the image is (in another process, by an earlier, interrupted run), and added up in the
order of the images; so figures never depend on who counted. Kept by image, they also tell which images are
the worst, and how far a figure would move on other images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from deeplab2_lite.evaluation.mean_iou import ConfusionCounts
from deeplab2_lite.evaluation.panoptic_quality import PanopticCounts


class ImageCounts(NamedTuple):
    """The counts of one image. A metric that was not asked for, or that the prediction lacks, is None.

    Attributes:
        name: File name of the image.
        panoptic: For `PanopticQuality`.
        semantic: For `MeanIoU`.
        boundary: For boundary PQ.
        instance: For `InstanceAP`, by the name of its rules.
    """

    name: str
    panoptic: PanopticCounts | None = None
    semantic: ConfusionCounts | None = None
    boundary: PanopticCounts | None = None
    instance: Mapping[str, Mapping[str, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the counts as JSON can hold them; what is None is left out."""
        content: dict[str, Any] = {"name": self.name}
        for key in ("panoptic", "semantic", "boundary"):
            counts = getattr(self, key)
            if counts is not None:
                content[key] = counts.to_json()
        if self.instance is not None:
            content["instance"] = self.instance
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any], num_classes: int) -> ImageCounts:
        """Reads what `to_json` returned."""
        panoptic, boundary = (
            PanopticCounts.from_json(content[key], num_classes) if key in content else None
            for key in ("panoptic", "boundary")
        )
        semantic = ConfusionCounts.from_json(content["semantic"]) if "semantic" in content else None
        return cls(content["name"], panoptic, semantic, boundary, content.get("instance"))
