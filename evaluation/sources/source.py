"""What an evaluation is about: images with their truth and predictions, wherever they come from."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from deeplab2_lite import __version__
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.evaluation.evaluate import Evaluation
from deeplab2_lite.evaluation.journal import Journal
from deeplab2_lite.evaluation.metrics.image_counts import ImageCounts


class CountedImage(NamedTuple):
    """What an image counts, and which it is: its position in the source."""

    index: int
    counts: ImageCounts


class Maps(NamedTuple):
    """An image to be looked at.

    Attributes:
        image: RGB, uint8 [height, width, 3]; None where it is not at hand.
        truth: Panoptic ids, int32 [height, width].
        prediction: Likewise; class id * label_divisor if there are no instances.
    """

    image: np.ndarray | None
    truth: np.ndarray
    prediction: np.ndarray


class Source(Protocol):
    """Images with truth and predictions.

    Attributes:
        info: The label space of both.
        step: Training step of the weights that predict; None where no single one is known.
    """

    info: DatasetInfo
    step: int | None

    def __len__(self) -> int:
        """Returns the number of images."""

    def identity(self) -> Any:
        """Returns all that the counts of an image depend on beside its own files, as JSON can hold it."""

    def stamp(self, index: int) -> Any:
        """Returns what tells the files of an image from those of another day, as JSON can hold it."""

    def count(self, evaluation: Evaluation, indices: Sequence[int]) -> Generator[list[CountedImage], None, None]:
        """Counts images.

        Args:
            evaluation: Whose `count` is asked.
            indices: Which, ascending.

        Yields:
            One image, or some that were predicted together; the same ones together whichever were asked for,
            if all images that were together are.

        Raises:
            UserError: An image, truth or prediction is at fault.
        """

    def maps(self, indices: Sequence[int]) -> Iterable[Maps]:
        """Returns images to be looked at, in the order of `indices`."""


def count_source(source: Source, evaluation: Evaluation, journal_path: Path, settings: Any) -> tuple[Journal, int]:
    """Adds all images of a source to an evaluation, in their order.

    What an interrupted process has counted is taken from its journal, unless the files of the image have changed
    since; so the figures are those of an uninterrupted one.

    Args:
        source: The images.
        evaluation: Without images so far.
        journal_path: A file in an existing folder.
        settings: What else the counts depend on, as JSON can hold it.

    Returns:
        The journal, to be removed when all is done, and how many images it had.

    Raises:
        UserError: An image, truth or prediction is at fault.
    """
    command = {"version": __version__, "settings": settings, "source": source.identity(), "images": len(source)}
    journal = Journal(journal_path, command)
    # Before anything is read: what changes while it is read is read again.
    stamps = [source.stamp(index) for index in range(len(source))]
    counted = _counted_earlier(journal, stamps, source.info)
    earlier = len(counted)
    missing = [index for index in range(len(source)) if index not in counted]
    with (
        # disable=None: a bar on terminals alone.
        tqdm(total=len(source), initial=earlier, desc="evaluate", unit="image", disable=None) as progress,
        # Closed at once after an error, so that no process goes on.
        closing(source.count(evaluation, missing)) as batches,
    ):
        for batch in batches:
            entry = [[image.index, stamps[image.index], image.counts.to_json()] for image in batch]
            journal.append(str(batch[0].index), entry)
            counted.update((image.index, image.counts) for image in batch)
            progress.update(len(batch))
    names = _distinct([counted[index].name or f"image {index}" for index in range(len(source))])
    for index, name in enumerate(names):
        evaluation.add(counted[index]._replace(name=name))
    return journal, earlier


def _counted_earlier(journal: Journal, stamps: Sequence[Any], info: DatasetInfo) -> dict[int, ImageCounts]:
    stamps = json.loads(json.dumps(stamps))
    counted = {}
    for batch in journal.entries.values():
        # Images that were predicted together are predicted together again.
        if all(stamp == stamps[index] for index, stamp, _ in batch):
            counted.update((index, ImageCounts.from_json(counts, info.num_classes)) for index, _, counts in batch)
    return counted


def _distinct(names: Sequence[str]) -> list[str]:
    """Numbers names that come again, so that each stands for one image."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return distinct
