"""Reads pages as a browser does, and is stricter: every tag must be closed where it was opened."""

from __future__ import annotations

from html.parser import HTMLParser

VOID_ELEMENTS = {"br", "img", "meta"}


class Node:
    """An element with its children, which are elements or texts."""

    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str, **attributes: str) -> list[Node]:
        """All elements below of a tag, whose attributes contain what is asked for."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                names = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
                if child.tag == tag and all(value in (child.attributes.get(k) or "") for k, value in names.items()):
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def rows(self) -> list[list[str]]:
        """The texts of the cells of a table's body."""
        (body,) = self.all("tbody")
        return [[cell.text for cell in row.children] for row in body.all("tr")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID_ELEMENTS:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open[-1].tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"<{tag}/> is no HTML")

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_html(text: str) -> Node:
    """Returns the root of a page."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert len(reader.open) == 1, f"never closed: {[node.tag for node in reader.open[1:]]}"
    assert text.startswith("<!DOCTYPE html>\n")
    ids = [node.attributes["id"] for tag in ("section", "article") for node in reader.open[0].all(tag, id="")]
    assert len(set(ids)) == len(ids)
    for link in reader.open[0].all("a", href="#"):
        assert link.attributes["href"][1:] in ids
    return reader.open[0]
