"""What the page is told: of the model, and of each image that it sends."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from deeplab2_lite.data.images import HighDepth, decode_rgb, encoded_size
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.submission.coco_panoptic import (
    coco_categories,
    coco_channels,
    coco_image_id,
    coco_segment_ids,
    coco_segments,
)
from deeplab2_lite.segment_colors import segment_colors
from deeplab2_lite.visualize import colorize_heatmap, colorize_offsets

# No browser draws a canvas with a longer side.
MAX_SIDE = 16384
_THUMBNAIL_SIDE = 160


class Limits(NamedTuple):
    """What an image may be.

    Attributes:
        max_bytes: Of its file.
        max_pixels: Height times width.
    """

    max_bytes: int
    max_pixels: int


class Demo:
    """Answers of a model to one page. Images are decoded in memory and never written."""

    def __init__(
        self,
        segment: Callable[[np.ndarray], Any],
        info: DatasetInfo,
        name: str,
        limits: Limits,
        samples: Sequence[Path] = (),
        high_depth: HighDepth = "refuse",
    ) -> None:
        """Holds a model.

        Args:
            segment: From an image, uint8 RGB [height, width, 3], to an `Observation`.
            info: The label space.
            name: Of the model, for the page's head.
            limits: For images.
            samples: Images that the page offers.
            high_depth: What to do with images of 16 bits, see `read_rgb`.
        """
        self.limits = limits
        self.info = info
        self._segment = segment
        self._name = name
        self._samples = samples
        self._high_depth = high_depth
        # One image after the other: two at once take twice the memory and are no faster.
        self._one_at_a_time = threading.Lock()

    def model(self) -> dict[str, Any]:
        """Returns what the page asks for when it opens, as JSON can hold it."""
        return {
            "name": self._name,
            "dataset": self.info.name,
            "label_divisor": self.info.label_divisor,
            "classes": [{"name": c.name, "isthing": c.isthing, "color": list(c.color)} for c in self.info.classes],
            "max_bytes": self.limits.max_bytes,
            "samples": [path.name for path in self._samples],
        }

    def sample(self, number: int) -> tuple[str, bytes]:
        """Returns name and content of a sample image.

        Args:
            number: Its place in the list.

        Raises:
            UserError: There is none of that number, or it cannot be read.
        """
        if not 0 <= number < len(self._samples):
            raise UserError(f"there is no sample {number}")
        path = self._samples[number]
        try:
            return path.name, path.read_bytes()
        except OSError as error:
            raise UserError(f"{path.name}: cannot be read ({error.strerror})") from None

    def thumbnail(self, number: int) -> bytes:
        """Returns a small JPEG of a sample image; arguments and errors as for `sample`."""
        name, encoded = self.sample(number)
        picture = Image.fromarray(self._decode(name, encoded))
        stream = io.BytesIO()
        ImageOps.contain(picture, (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)).save(stream, "JPEG", quality=85)
        return stream.getvalue()

    def answer(self, name: str, encoded: bytes) -> dict[str, Any]:
        """Segments an image.

        Args:
            name: Of its file, for messages and the JSON.
            encoded: The file.

        Returns:
            Layers as `data:` URIs and segments as a list, as JSON can hold it.

        Raises:
            UserError: It is no image, is damaged, or too large.
        """
        with self._one_at_a_time:
            image = self._decode(name, encoded)
            begin = time.perf_counter()
            observation = self._segment(image)
            seconds = time.perf_counter() - begin
            return _answer(name, image, observation, self.info, seconds)

    def _decode(self, name: str, encoded: bytes) -> np.ndarray:
        path = Path(name)
        if not encoded:
            raise UserError(f"{name}: is empty (0 bytes); expected an image")
        height, width = encoded_size(path, encoded)
        if height * width > self.limits.max_pixels or max(height, width) > MAX_SIDE:
            raise UserError(
                f"{name}: {width} x {height} pixels; this page takes up to {self.limits.max_pixels / 1e6:g} million, "
                f"and {MAX_SIDE} a side; reduce it first"
            )
        return decode_rgb(path, encoded, self._high_depth)


def _answer(name: str, image: np.ndarray, observation: Any, info: DatasetInfo, seconds: float) -> dict[str, Any]:
    result = observation.result
    ids = coco_segment_ids(result.panoptic, info)
    scores = _scores(observation)
    colors = segment_colors(result.panoptic, info)
    segments = coco_segments(ids, info)
    for segment in segments:
        if segment["id"] - 1 in scores:
            # The format's results may hold more than it asks for.
            segment["score"] = round(scores[segment["id"] - 1], 4)
    image_id = coco_image_id(name)
    height, width = ids.shape
    png = f"{Path(name).stem}.png"
    answer = {
        "name": name,
        "height": height,
        "width": width,
        "seconds": round(seconds, 3),
        "image": _jpeg(image),
        "panoptic": _png(coco_channels(ids)),
        "semantic": _png(coco_channels(result.semantic)),
        "colors": {str(panoptic_id + 1): list(color) for panoptic_id, color in colors.items()},
        "coco": {
            "images": [{"id": image_id, "file_name": name, "height": height, "width": width}],
            "annotations": [{"image_id": image_id, "file_name": png, "segments_info": segments}],
            "categories": coco_categories(info),
        },
    }
    return answer if observation.heads is None else {**answer, **_head_layers(observation, info)}


def _scores(observation: Any) -> dict[int, float]:
    table = observation.result.instances
    rows = zip(table.panoptic_id.tolist(), table.valid.tolist(), observation.instance_scores.tolist(), strict=True)
    return {panoptic_id: score for panoptic_id, valid, score in rows if valid}


def _head_layers(observation: Any, info: DatasetInfo) -> dict[str, Any]:
    heads = observation.heads
    heat = np.clip(np.nan_to_num(heads.center_heatmap, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    # What is nearly 0 lets the image be seen.
    heatmap = np.dstack([colorize_heatmap(heat), np.round(255 * np.sqrt(heat)).astype(np.uint8)])
    is_thing = np.isin(observation.result.semantic, info.thing_ids)
    length = np.hypot(heads.center_offset[..., 0], heads.center_offset[..., 1])
    known = length[is_thing & np.isfinite(length)]
    longest = max(1.0, float(np.percentile(known, 99))) if known.size else 1.0
    offsets = np.dstack([colorize_offsets(heads.center_offset, longest), (255 * is_thing).astype(np.uint8)])
    probability = np.clip(np.nan_to_num(heads.semantic_probability, nan=0.0), 0, 1)
    return {
        "heatmap": _png(heatmap),
        "offsets": _png(offsets),
        "offset_length": round(longest, 1),
        # Grey: what is decoded in the browser is exact to 1/255.
        "probability": _png(np.round(255 * probability).astype(np.uint8)),
    }


def _png(picture: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _jpeg(picture: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=92, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
