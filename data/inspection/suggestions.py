"""Settings that follow from an inspection's figures by simple rules; docs/data.md lists them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from deeplab2_lite.config import DataConfig, ExperimentConfig
from deeplab2_lite.data.inspection.statistics import SplitSummary
from deeplab2_lite.dataset_info import DatasetInfo

# An instance should be at least so many standard deviations of a centre's Gaussian wide.
_WIDTH_IN_SIGMAS = 2
_MOSTLY_SMALL = 0.9
_NEARLY_FULL = 0.9
# The paper resizes the largest images that it trains on to this longer side (section 4, Mapillary Vistas).
_LONGEST_SIDE = 2177
_CROP_STRIDE = 16
_NAMES_SHOWN = 12


def suggest(splits: Mapping[str, SplitSummary], info: DatasetInfo, complete: bool) -> list[str]:
    """Derives suggestions.

    Args:
        splits: What was found, by split.
        info: The label space.
        complete: Whether all records were inspected: only then are classes said never to occur.

    Returns:
        A line for each, the setting first.
    """
    found = {split: summary for split, summary in splits.items() if summary.readable}
    if not found:
        return []
    rules = [_top_k(found), _label_divisor(found, info), _crop_size(found), _longest_side(found)]
    rules += [_small_instances(found), _center_sigma(found), _stuff_area_limit(found, info)]
    if complete:
        rules += _absent_classes(found)
    return [line for line in rules if line]


def _top_k(splits: Mapping[str, SplitSummary]) -> str | None:
    top_k, most = ExperimentConfig().postprocessing.top_k, max(s.most_instances for s in splits.values())
    if most <= top_k:
        return None
    return f"postprocessing.top_k: an image holds {most} instances; the default of {top_k} would find no more"


def _label_divisor(splits: Mapping[str, SplitSummary], info: DatasetInfo) -> str | None:
    largest = max(s.largest_instance_id for s in splits.values())
    if largest <= _NEARLY_FULL * info.max_instances:
        return None
    return f"label_divisor: {info.label_divisor} is nearly full, the largest instance id is {largest}"


def _crop_size(splits: Mapping[str, SplitSummary]) -> str | None:
    height, width = DataConfig().crop_size
    sizes = [size for s in splits.values() for size in s.sizes]
    images = sum(size.images for size in sizes)
    mostly_padding = sum(size.images for size in sizes if 2 * size.height * size.width < height * width)
    if 2 * mostly_padding <= images:
        return None
    smallest, largest = (
        f"[{_next_crop(pick(s.height for s in sizes))}, {_next_crop(pick(s.width for s in sizes))}]"
        for pick in (min, max)
    )
    choice = f"{smallest} holds the smallest images" + (f", {largest} the largest" if largest != smallest else "")
    return (
        f"data.crop_size: more than half of the default {height}x{width} would be padding for "
        f"{mostly_padding} of {images} images; {choice}"
    )


def _next_crop(side: int) -> int:
    return math.ceil((side - 1) / _CROP_STRIDE) * _CROP_STRIDE + 1


def _longest_side(splits: Mapping[str, SplitSummary]) -> str | None:
    longest = max(max(size.height, size.width) for s in splits.values() for size in s.sizes)
    if longest <= _LONGEST_SIDE:
        return None
    return (
        f"data.longest_side: sides reach {longest} pixels; the paper resizes such images (Mapillary Vistas) "
        f"to {_LONGEST_SIDE}"
    )


def _small_instances(splits: Mapping[str, SplitSummary]) -> str | None:
    instances = sum(s.instances for s in splits.values())
    small = sum(s.small_instances for s in splits.values())
    if small <= _MOSTLY_SMALL * instances:
        return None
    targets = ExperimentConfig().targets
    return (
        f"targets.small_instance_weight: {small / instances:.0%} of the instances are smaller than "
        f"{targets.small_instance_area} pixels, so that the weight of {targets.small_instance_weight:g} is for nearly "
        "all of them; 1 switches it off, targets.small_instance_area makes it choose"
    )


def _center_sigma(splits: Mapping[str, SplitSummary]) -> str | None:
    sigma = ExperimentConfig().targets.center_sigma
    with_instances = [s.instance_areas for s in splits.values() if s.instance_areas is not None]
    if not with_instances:
        return None
    width = math.sqrt(min(areas.lower_quartile for areas in with_instances))
    if width >= _WIDTH_IN_SIGMAS * sigma:
        return None
    narrower = max(1, int(width / _WIDTH_IN_SIGMAS))
    return (
        f"targets.center_sigma: a quarter of the instances are narrower than {width:.0f} pixels (the root of their "
        f"area), where Gaussians of the default {sigma:g} run into each other; {narrower} would not"
    )


def _stuff_area_limit(splits: Mapping[str, SplitSummary], info: DatasetInfo) -> str | None:
    names = []
    for class_id in info.stuff_ids:
        rows = [s.classes[class_id] for s in splits.values()]
        if 2 * sum(row.below_stuff_limit for row in rows) > sum(row.segments for row in rows):
            names.append(info.class_names[class_id])
    if not names:
        return None
    return (
        f"stuff_area_limit: {info.stuff_area_limit} pixels is more than most images (at their own size) show of "
        f"{_list(names)}: what is predicted of them would mostly become void"
    )


def _absent_classes(splits: Mapping[str, SplitSummary]) -> list[str]:
    absent = {split: {c.name for c in s.classes if not c.images} for split, s in splits.items()}
    everywhere = set.intersection(*absent.values())
    names = [c.name for c in next(iter(splits.values())).classes]
    lines = []
    if everywhere:
        lines.append(f"classes: {_list([n for n in names if n in everywhere])} never occur")
    for split in splits:
        untrained = [n for n in names if "train" in splits and n in absent["train"] - absent[split]]
        if untrained:
            lines.append(f"classes: {_list(untrained)} occur in '{split}', but never in 'train'")
    return lines


def _list(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"
