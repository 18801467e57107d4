"""The progress bar of long checks: none where nobody looks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Collection[Item], what: str) -> Iterable[Item]:
    """Yields items of images, with a bar on a terminal."""
    return tqdm(items, desc=what, unit="image", disable=None)
