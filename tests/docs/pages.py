"""What stands in the pages of docs/: blocks of code, and tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Returns the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


def commands(page: str) -> list[list[str]]:
    """Returns the words of every `deeplab2-lite` command of a page's bash blocks, in order."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words[:1] == ["deeplab2-lite"]]


def rows(page: str) -> list[list[str]]:
    """Returns the cells of all tables' rows, heads included."""
    lines = [line for line in (DOCS / page).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("- :")]
