"""What became of every weight when others were read into a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

_SHOWN = 8


class ImportReport(NamedTuple):
    """What an import did, by name.

    Attributes:
        loaded: Variables of the network that got a value.
        skipped: Variables of the network that keep their initial value.
        left_over: Arrays of the source that nothing in the network asked for.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    left_over: tuple[str, ...]

    def table(self) -> str:
        """Returns counts for each part of the network, and the names of what was skipped and left over."""
        loaded, skipped = Counter(map(_part, self.loaded)), Counter(map(_part, self.skipped))
        parts = list(dict.fromkeys(map(_part, (*self.loaded, *self.skipped))))
        width = max(map(len, ("part", "total", *parts)))
        rows = [("part", "loaded", "skipped")]
        rows += [(part, str(loaded[part]), str(skipped[part])) for part in parts]
        rows.append(("total", str(len(self.loaded)), str(len(self.skipped))))
        lines = [f"{part:<{width}}  {first:>6}  {second:>7}" for part, first, second in rows]
        if self.skipped:
            lines.append(f"keep their initial values ({len(self.skipped)}): {_some(self.skipped)}")
        lines.append(f"left over in the source ({len(self.left_over)}): {_some(self.left_over) or 'nothing'}")
        return "\n".join(lines)


def _part(name: str) -> str:
    """Returns "backbone" of "backbone/stem/conv/kernel", "semantic/head" of "semantic/head/fuse/..."."""
    pieces = name.split("/")
    return pieces[0] if pieces[0] == "backbone" or len(pieces) < 3 else "/".join(pieces[:2])


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
