"""Which of several masks a pixel belongs to, and the panoptic map that this gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deeplab2_lite.data.conversion.labelled_record import Segment, number_segments
from deeplab2_lite.dataset_info import DatasetInfo


def back_to_front(segments: Sequence[Segment], areas: Sequence[int], info: DatasetInfo) -> list[int]:
    """Orders overlapping masks by what lies in front of what.

    Instance annotations may overlap, panoptic ones may not: of a person with a tie, the former give the
    person a mask that ignores the tie, the latter one that the tie occludes (paper, Appendix D and Figure 8).
    What is in front is not said in such annotations. Here it is, as the tie is, the mask of fewer pixels.

    1. An instance lies in front of every crowd, and a crowd in front of every stuff.
    2. Among equals the mask of fewer pixels lies in front, each counted before any is occluded.
    3. Of as many pixels, the one that comes later in the annotations.

    Args:
        segments: In the order of the annotations.
        areas: Pixels of each one's mask.
        info: The label space.

    Returns:
        Positions in `segments`, the hindmost first.
    """
    things = set(info.thing_ids)

    def depth(position: int) -> tuple[int, int, int]:
        segment = segments[position]
        rank = 0 if segment.class_id not in things else 1 if segment.iscrowd else 2
        return rank, -areas[position], position

    return sorted(range(len(segments)), key=depth)


def panoptic_from_owners(
    owners: np.ndarray, segments: Sequence[Segment], uncovered: int, info: DatasetInfo, source: Path
) -> np.ndarray:
    """Gives panoptic ids to the pixels of an image.

    A segment of which nothing is visible is dropped: a panoptic map has no place for it, and it uses up no
    instance number.

    Args:
        owners: For each pixel 1 + the position of its segment, 0 for none, integers [height, width].
        segments: The segments; those of class `info.ignore_label` are void. Instances of a class are
            numbered in their order.
        uncovered: Class of pixels without a segment, or `info.ignore_label`.
        info: The label space.
        source: The annotated file, for the message.

    Returns:
        Panoptic ids, int32 [height, width].

    Raises:
        UserError: There are more instances of a class than the label divisor holds.
    """
    visible = np.flatnonzero(np.bincount(owners.ravel(), minlength=len(segments) + 1)[1:])
    ids = np.zeros(len(segments) + 1, np.int32)
    ids[0] = uncovered * info.label_divisor
    ids[visible + 1] = number_segments([segments[i] for i in visible], info, source)
    return ids[owners]
