"""HTML and SVG elements as text: what is not marked up already is escaped, whoever wrote it."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable

NO_VALUE = "\N{EN DASH}"
# HTML elements that have no end tag.
_VOID_ELEMENTS = {"br", "img", "meta"}


class Markup(str):
    """Text that is HTML already; any other text is escaped when it becomes part of an element."""

    __slots__ = ()


def element(name: str, /, *children: str | Iterable[str], **attributes: str | float | bool | None) -> Markup:
    """Builds an element.

    Args:
        name: Its tag, such as "td".
        children: What it holds: texts, which are escaped, elements, or iterables of both.
        attributes: By name, with "_" for "-" and a trailing "_" on Python's own words ("class_"). None and
            False leave the attribute out, True gives it without a value.

    Returns:
        The element with all that it holds.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{html.escape(_text(value))}"')
    parts.append(">")
    if name not in _VOID_ELEMENTS:
        parts += (_markup(child) for child in children)
        parts.append(f"</{name}>")
    return Markup("".join(parts))


def percent(value: float) -> str:
    """Returns a fraction in percent with one decimal; a dash for NaN."""
    return NO_VALUE if math.isnan(value) else f"{100 * value:.1f}"


def number(value: float) -> str:
    """Returns an integer with separators of thousands, any other number in six digits; a dash for NaN."""
    if isinstance(value, int):
        return f"{value:,}"
    return NO_VALUE if math.isnan(value) else f"{value:.6g}"


def table(label: str, header: Iterable[str], rows: Iterable[Iterable[str]], **attributes: str | bool | None) -> Markup:
    """Builds a table in a box that scrolls where it is too wide or too long.

    Args:
        label: What it shows, for those who hear the page.
        header: Cells of the first row, elements already.
        rows: Cells of each further row, likewise.
        attributes: Of the table.

    Returns:
        The box.
    """
    body = [element("tr", row) for row in rows]
    content = element(
        "table", element("thead", element("tr", header)), element("tbody", body), aria_label=label, **attributes
    )
    # What scrolls must take the focus, so that keys can scroll it.
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def fact_line(facts: Iterable[str]) -> Markup:
    """Returns short facts in a row, each of which stays on one line."""
    return element("span", [Markup(element("span", fact) + " ") for fact in facts], class_="facts")


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _markup(child: str | Iterable[str]) -> str:
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return html.escape(child)
    return "".join(_markup(part) for part in child)
