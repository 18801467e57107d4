"""Boundary panoptic quality: PQ whose IoU is that of masks or that of their boundaries, whichever is smaller."""

from __future__ import annotations

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.metrics.boundary import (
    BoundaryOverlaps,
    boundary_distance,
    check_dilation_ratio,
    count_boundary_overlaps,
    dilation_ratio_of,
)
from deeplab2_lite.evaluation.metrics.overlaps import sum_by, sum_pairs
from deeplab2_lite.evaluation.metrics.panoptic_quality import PanopticCounts, PanopticQuality, match_segments


class BoundaryPanopticQuality(PanopticQuality):
    """Streaming boundary PQ (Cheng et al., "Boundary IoU", CVPR 2021, section 6.2).

    Everything is as in `PanopticQuality`, but for the IoU of two segments: the smaller of that of their masks and that
    of their boundaries, from whose union void is left out too. Unmatched segments are forgiven by their masks.
    """

    def __init__(self, info: DatasetInfo, dilation_ratio: float | None = None) -> None:
        """Makes an empty metric.

        Args:
            info: The label space of truth and prediction.
            dilation_ratio: Width of boundaries as a share of the image's diagonal; None takes what the paper's code
                has for the data set: 0.005 for Cityscapes, 0.02 for COCO and all others.

        Raises:
            UserError: The ratio is not in (0, 1].
        """
        super().__init__(info)
        self._ratio = check_dilation_ratio(dilation_ratio_of(info) if dilation_ratio is None else dilation_ratio)

    def _count(self, truth: np.ndarray, prediction: np.ndarray) -> PanopticCounts:
        distance = boundary_distance(*truth.shape, self._ratio)
        return match_boundaries(count_boundary_overlaps(truth, prediction, distance), self._info)


def match_boundaries(overlaps: BoundaryOverlaps, info: DatasetInfo) -> PanopticCounts:
    """Matches the segments of an image by the rules of `BoundaryPanopticQuality`.

    Args:
        overlaps: Which panoptic ids of truth and prediction meet, on boundaries and inside.
        info: Their label space.

    Returns:
        What the image adds.

    Raises:
        UserError: An id is of no class.
    """
    truth, prediction, on_truth, on_prediction, pixels = overlaps
    both = on_truth & on_prediction
    # A predicted boundary is compared where the truth is no void.
    counted = on_prediction & (truth // info.label_divisor != info.ignore_label)

    def boundary_iou(truth_ids: np.ndarray, predicted_ids: np.ndarray) -> np.ndarray:
        shared = _sums(truth[both] << 32 | prediction[both], pixels[both], truth_ids << 32 | predicted_ids)
        true_area = _sums(truth[on_truth], pixels[on_truth], truth_ids)
        predicted_area = _sums(prediction[counted], pixels[counted], predicted_ids)
        return shared / (true_area + predicted_area - shared)

    return match_segments(sum_pairs(truth, prediction, pixels), info, boundary_iou)


def _sums(keys: np.ndarray, pixels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the pixels that bear each of the wanted keys, 0 where none does."""
    if keys.size == 0:
        return np.zeros(wanted.size, np.int64)
    found, index = np.unique(keys, return_inverse=True)
    position = np.searchsorted(found, wanted).clip(max=found.size - 1)
    return np.where(found[position] == wanted, sum_by(index, pixels, found.size)[position], 0)
