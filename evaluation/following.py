"""Instances of a video that keep their numbers from frame to frame, so that they keep their colours."""

from __future__ import annotations

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo

# Of two frames of a film at 10 frames a second or more, one thing covers itself by more than this.
_LEAST_IOU = 0.3


class Follower:
    """Renumbers the instances of one frame after the other, for the eye; it tracks nothing through gaps."""

    def __init__(self, info: DatasetInfo) -> None:
        """Begins a video.

        Args:
            info: Label space of the maps.
        """
        self._info = info
        self._previous: np.ndarray | None = None

    def __call__(self, panoptic: np.ndarray) -> np.ndarray:
        """Renumbers a frame.

        Args:
            panoptic: Panoptic ids, int32 [height, width].

        Returns:
            The same map, in which an instance has the number of that of its class in the frame before with which it
            has the greatest IoU, from 0.3 on; every other instance has the smallest number that is free.
        """
        ids = np.unique(panoptic)
        things = [i for i in ids.tolist() if self._is_instance(i)]
        divisor = self._info.label_divisor
        followed = (
            {} if self._previous is None else _matches(panoptic, self._previous, things, self._info.label_divisor)
        )
        taken = set(followed.values())
        new_ids = np.arange(int(ids[-1]) + 1)
        for panoptic_id in things:
            new = followed.get(panoptic_id)
            if new is None:
                first = panoptic_id // divisor * divisor + 1
                new = next(i for i in range(first, first + self._info.max_instances) if i not in taken)
                taken.add(new)
            new_ids[panoptic_id] = new
        self._previous = new_ids[panoptic].astype(panoptic.dtype)
        return self._previous

    def _is_instance(self, panoptic_id: int) -> bool:
        class_id, instance = divmod(panoptic_id, self._info.label_divisor)
        return instance > 0 and class_id < self._info.num_classes and self._info.classes[class_id].isthing


def _matches(panoptic: np.ndarray, previous: np.ndarray, things: list[int], divisor: int) -> dict[int, int]:
    """Returns the id in the frame before of every instance that goes on, the greatest IoU first."""
    pairs, common = np.unique(panoptic.astype(np.int64) << 32 | previous.astype(np.int64), return_counts=True)
    areas, previous_areas = (dict(zip(*np.unique(m, return_counts=True), strict=True)) for m in (panoptic, previous))
    wanted = set(things)
    candidates = []
    for pair, pixels in zip(pairs.tolist(), common.tolist(), strict=True):
        ours, theirs = pair >> 32, pair & 0xFFFFFFFF
        if ours in wanted and theirs % divisor > 0 and ours // divisor == theirs // divisor:
            candidates.append((pixels / (areas[ours] + previous_areas[theirs] - pixels), ours, theirs))
    matches: dict[int, int] = {}
    for iou, ours, theirs in sorted(candidates, key=lambda candidate: (-candidate[0], *candidate[1:])):
        if iou >= _LEAST_IOU and ours not in matches and theirs not in matches.values():
            matches[ours] = theirs
    return matches
