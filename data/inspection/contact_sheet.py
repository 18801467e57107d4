"""A sheet of sample images, each beside its label drawn over it: what a data set looks like at one glance."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.segment_drawing import font
from deeplab2_lite.visualize import colorize_panoptic, overlay_panoptic

SHEET_WIDTH = 1960

_GAP, _PAIR_GAP, _MARGIN = 6, 22, 20
_CAPTION_HEIGHT, _CAPTION_SIZE = 24, 14
_TITLE_HEIGHT, _TITLE_SIZE = 52, 26
_LEGEND_ROW, _LEGEND_SIZE = 26, 15
_SWATCH_HEIGHT, _SHADE_WIDTH, _SHADES = 16, 9, 3
_BACKGROUND, _TEXT, _FAINT = (24, 26, 30), (235, 235, 235), (150, 154, 160)
# Rows are about so high, in pixels, and at most so.
_USUAL_HEIGHT, _GREATEST_HEIGHT = 290, 480
_MOST_IN_ROW = 12
# Title and legend need room even above a single narrow image.
_LEAST_WIDTH = 480


class Sample(NamedTuple):
    """A labelled image.

    Attributes:
        image: RGB, uint8 [height, width, 3].
        panoptic: Panoptic ids, integers [height, width].
        caption: A line above it.
    """

    image: np.ndarray
    panoptic: np.ndarray
    caption: str


def choose_samples(records: Sequence[int], count: int) -> list[int]:
    """Chooses records spread evenly over a split, always the same ones.

    Args:
        records: To choose from, in order.
        count: How many; fewer if there are not so many.

    Returns:
        The chosen ones, in order.
    """
    count = min(count, len(records))
    return [records[(2 * i + 1) * len(records) // (2 * count)] for i in range(count)]


def draw_contact_sheet(samples: Iterable[Sample], info: DatasetInfo, title: str) -> np.ndarray:
    """Draws a sheet of samples with a legend of the classes that they show.

    Args:
        samples: At least one. They are drawn one after another, and need not be in memory at once.
        info: Their label space.
        title: A line above all.

    Returns:
        uint8 RGB [height, width, 3], at most `SHEET_WIDTH` pixels wide.

    Raises:
        UserError: There are no samples, or one is no labelled image.
    """
    thumbnails = [_shrink(sample) for sample in samples]
    if not thumbnails:
        raise UserError("samples: expected at least one")
    rows = [_draw_row(row, info) for row in _divide_into_rows(thumbnails)]
    width = max(_LEAST_WIDTH, *(row.width for row in rows))
    legend = _draw_legend(_present_classes(thumbnails, info), info, width)
    height = _TITLE_HEIGHT + sum(row.height + _PAIR_GAP for row in rows) + legend.height + _MARGIN
    sheet = Image.new("RGB", (width + 2 * _MARGIN, height), _BACKGROUND)
    title = _fitting(title, _TITLE_SIZE, width)
    ImageDraw.Draw(sheet).text((_MARGIN, _TITLE_HEIGHT / 2), title, fill=_TEXT, font=font(_TITLE_SIZE), anchor="lm")
    top = _TITLE_HEIGHT
    for row in rows:
        sheet.paste(row, (_MARGIN, top))
        top += row.height + _PAIR_GAP
    sheet.paste(legend, (_MARGIN, top))
    return np.asarray(sheet)


def _shrink(sample: Sample) -> Sample:
    """Shrinks what is higher or wider than any place on the sheet, so that samples may be many and large."""
    height, width = sample.panoptic.shape
    factor = min(1.0, _GREATEST_HEIGHT / height, (SHEET_WIDTH / 2) / width)
    return _resize(sample, max(1, round(height * factor)), max(1, round(width * factor)))


def _resize(sample: Sample, height: int, width: int) -> Sample:
    if sample.panoptic.shape == (height, width):
        return sample
    image = Image.fromarray(sample.image).resize((width, height), Image.Resampling.BILINEAR)
    rows, columns = (
        ((np.arange(size) + 0.5) * source / size).astype(np.int64)
        for source, size in zip(sample.panoptic.shape, (height, width), strict=True)
    )
    return sample._replace(image=np.asarray(image), panoptic=sample.panoptic[rows[:, None], columns])


def _aspect(sample: Sample) -> float:
    return sample.panoptic.shape[1] / sample.panoptic.shape[0]


def _divide_into_rows(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    """Divides samples, in order, into rows that fill the sheet at heights as near to the usual one as can be."""
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(samples) + 1):
        choices = []
        for begin in range(max(0, end - _MOST_IN_ROW), end):
            # By samples, so that neither many nor few rows are favoured.
            excess = math.log(_row_height(samples[begin:end]) / _USUAL_HEIGHT) ** 2 * (end - begin)
            choices.append((best[begin][0] + excess, begin))
        best.append(min(choices))
    rows: list[Sequence[Sample]] = []
    end = len(samples)
    while end:
        begin = best[end][1]
        rows.insert(0, samples[begin:end])
        end = begin
    return rows


def _row_height(samples: Sequence[Sample]) -> int:
    """Returns how high pairs of image and label are that are together as wide as the sheet."""
    gaps = len(samples) * _GAP + (len(samples) - 1) * _PAIR_GAP
    height = (SHEET_WIDTH - 2 * _MARGIN - gaps) / sum(2 * _aspect(sample) for sample in samples)
    return max(1, min(_GREATEST_HEIGHT, math.floor(height)))


def _draw_row(samples: Sequence[Sample], info: DatasetInfo) -> Image.Image:
    """Draws pairs of image and label beside each other."""
    height = _row_height(samples)
    # Rounded down, so that no row is wider than the sheet.
    pairs = [_draw_pair(_resize(s, height, max(1, math.floor(height * _aspect(s)))), s.caption, info) for s in samples]
    width = sum(pair.width for pair in pairs) + (len(pairs) - 1) * _PAIR_GAP
    row = Image.new("RGB", (width, _CAPTION_HEIGHT + height), _BACKGROUND)
    left = 0
    for pair in pairs:
        row.paste(pair, (left, 0))
        left += pair.width + _PAIR_GAP
    return row


def _draw_pair(sample: Sample, caption: str, info: DatasetInfo) -> Image.Image:
    """Draws an image and, to its right, its label, under their caption."""
    height, width = sample.panoptic.shape
    pair = Image.new("RGB", (2 * width + _GAP, _CAPTION_HEIGHT + height), _BACKGROUND)
    caption = _fitting(caption, _CAPTION_SIZE, pair.width)
    ImageDraw.Draw(pair).text((0, _CAPTION_HEIGHT / 2), caption, fill=_FAINT, font=font(_CAPTION_SIZE), anchor="lm")
    pair.paste(Image.fromarray(sample.image), (0, _CAPTION_HEIGHT))
    overlay = overlay_panoptic(sample.image, sample.panoptic, info, scale=1)
    pair.paste(Image.fromarray(overlay), (width + _GAP, _CAPTION_HEIGHT))
    return pair


def _fitting(text: str, size: int, width: int) -> str:
    """Cuts the middle out of a text that is too long: file names differ at their ends."""
    length = font(size).getlength
    if length(text) <= width:
        return text

    def shortened(kept: int) -> str:
        return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"

    return shortened(bisect.bisect_right(range(len(text)), width, key=lambda kept: length(shortened(kept))) - 1)


def _present_classes(samples: Sequence[Sample], info: DatasetInfo) -> list[int]:
    present = set().union(*(np.unique(sample.panoptic // info.label_divisor).tolist() for sample in samples))
    return sorted(present - {info.ignore_label}) + [info.ignore_label] * (info.ignore_label in present)


def _draw_legend(classes: Sequence[int], info: DatasetInfo, width: int) -> Image.Image:
    """Draws the colours and names of classes in columns; of things, the shades of their first instances."""
    entries = [_legend_entry(class_id, info) for class_id in classes]
    swatch_width = _SHADES * _SHADE_WIDTH
    text_width = math.ceil(max(font(_LEGEND_SIZE).getlength(name) for name, _ in entries))
    entry_width = swatch_width + _GAP + text_width + _PAIR_GAP
    rows = math.ceil(len(entries) / max(1, width // entry_width))
    legend = Image.new("RGB", (width, rows * _LEGEND_ROW + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(legend)
    for place, (name, colors) in enumerate(entries):
        left, top = place // rows * entry_width, place % rows * _LEGEND_ROW + _GAP
        bottom = top + _SWATCH_HEIGHT
        for i, color in enumerate(colors):
            begin, end = (left + swatch_width * step // len(colors) for step in (i, i + 1))
            draw.rectangle((begin, top, end - 1, bottom - 1), fill=color)
        draw.rectangle((left, top, left + swatch_width - 1, bottom - 1), outline=_FAINT)
        middle = (left + swatch_width + _GAP, (top + bottom) / 2)
        draw.text(middle, name, fill=_TEXT, font=font(_LEGEND_SIZE), anchor="lm")
    return legend


def _legend_entry(class_id: int, info: DatasetInfo) -> tuple[str, list[tuple[int, int, int]]]:
    if class_id == info.ignore_label:
        return "void: the image, darkened", [(0, 0, 0)]
    name, isthing = info.classes[class_id].name, info.classes[class_id].isthing
    instances = range(1, min(_SHADES, info.max_instances) + 1) if isthing and info.max_instances else (0,)
    shades = colorize_panoptic(np.array([[class_id * info.label_divisor + i for i in instances]]), info)[0]
    return f"{name} (thing)" if isthing else name, [tuple(color) for color in shades.tolist()]
