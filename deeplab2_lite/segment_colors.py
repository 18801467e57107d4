"""Colours of the segments of a panoptic map: near that of the class, and far from those of the neighbours."""

from __future__ import annotations

import colorsys

import numpy as np

from deeplab2_lite.dataset_info import DatasetInfo

Color = tuple[int, int, int]

# Distance in OKLab that is seen at once, even half transparent over an image.
_CLEAR_DISTANCE = 0.12
_MOST_TRIES = 32
# To an OKLab of linear RGB, by way of the responses of the eye's cones (Ottosson 2020).
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def segment_colors(panoptic: np.ndarray, info: DatasetInfo) -> dict[int, Color]:
    """Chooses a colour for every segment of a map.

    Args:
        panoptic: Panoptic ids of the label space, integers [height, width].
        info: The label space.

    Returns:
        RGB, 0..255, by panoptic id, ascending; void is left out. Stuff and crowd have the colour of the class. An
        instance's colour follows from its id alone, unless a neighbour with a smaller id has nearly the same.
    """
    neighbors = _neighbors(panoptic, info)
    colors: dict[int, Color] = {}
    for panoptic_id in present_ids(panoptic).tolist():
        class_id, instance = divmod(panoptic_id, info.label_divisor)
        if class_id == info.ignore_label:
            continue
        if instance == 0 or not info.classes[class_id].isthing:
            colors[panoptic_id] = info.classes[class_id].color
            continue
        taken = [_oklab(colors[other]) for other in sorted(neighbors.get(panoptic_id, ()))]
        colors[panoptic_id] = _instance_color(info, class_id, instance, taken)
    return colors


def present_ids(panoptic: np.ndarray) -> np.ndarray:
    """Returns the ids of a map of non-negative ids, ascending; they are small enough to mark instead of sort."""
    present = np.zeros(int(panoptic.max(initial=0)) + 1, bool)
    present[panoptic] = True
    return np.flatnonzero(present)


def thing_pixels(panoptic: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Returns which pixels are of thing classes, bool [height, width]."""
    isthing = np.array([*(c.isthing for c in info.classes), False])
    return isthing[np.minimum(panoptic // info.label_divisor, info.num_classes)]


def _neighbors(panoptic: np.ndarray, info: DatasetInfo) -> dict[int, set[int]]:
    """Returns of each instance those of smaller ids that it touches, or nearly touches."""
    is_instance = thing_pixels(panoptic, info) & (panoptic % info.label_divisor > 0)
    # Steps that grow by twice, so that nothing that is not tiny is stepped over.
    steps = [1]
    while 2 * steps[-1] <= max(2, max(panoptic.shape) // 100):
        steps.append(2 * steps[-1])
    pairs = []
    for axis in (0, 1):
        for step in steps:
            before, after = (_cut(panoptic, axis, part) for part in (slice(None, -step), slice(step, None)))
            both = _cut(is_instance, axis, slice(None, -step)) & _cut(is_instance, axis, slice(step, None))
            differ = both & (before != after)
            pairs.append(np.stack([before[differ], after[differ]]))
    low, high = np.sort(np.concatenate(pairs, axis=1).astype(np.int64), axis=0)
    neighbors: dict[int, set[int]] = {}
    for pair in np.unique(low << 32 | high).tolist():
        neighbors.setdefault(pair & 0xFFFFFFFF, set()).add(pair >> 32)
    return neighbors


def _cut(array: np.ndarray, axis: int, part: slice) -> np.ndarray:
    return array[part] if axis == 0 else array[:, part]


def _instance_color(info: DatasetInfo, class_id: int, instance: int, taken: list[np.ndarray]) -> Color:
    """Returns the first colour of an instance's own sequence that is far from those taken, else the farthest."""
    best, best_distance = None, -1.0
    for attempt in range(_MOST_TRIES):
        # Steps as long as no image has instances: other instances' first colours lie in between.
        color = _color_in_sequence(info, class_id, instance + attempt * info.label_divisor)
        distance = min((float(np.linalg.norm(_oklab(color) - other)) for other in taken), default=np.inf)
        if distance > best_distance:
            best, best_distance = color, distance
        if best_distance >= _CLEAR_DISTANCE:
            break
    assert best is not None
    return best


def _color_in_sequence(info: DatasetInfo, class_id: int, number: int) -> Color:
    base = info.classes[class_id].color
    # Multiples of these irrational steps spread evenly over the cube (Roberts' R3 sequence): neighbours in
    # number, which are often neighbours in the image, lie far apart.
    hue_step, saturation_step, value_step = ((0.5 + number * k) % 1.0 for k in (0.8191725, 0.6710436, 0.5497005))
    hue, saturation, _ = colorsys.rgb_to_hsv(*(v / 255 for v in base))
    # The fewer thing classes there are, the more of the colour circle each may use.
    spread = max(0.16, 1.0 / len(info.thing_ids))
    hue = (hue + (hue_step - 0.5) * spread) % 1.0
    saturation = min(1.0, max(0.45, saturation) * (0.6 + 0.5 * saturation_step))
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 0.62 + 0.38 * value_step)
    return round(255 * red), round(255 * green), round(255 * blue)


def _oklab(color: Color) -> np.ndarray:
    values = np.array(color) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return _TO_LAB @ np.cbrt(_TO_CONES @ linear)
