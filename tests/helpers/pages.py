"""An HTML page as a test reads it: balanced elements, their attributes, the text a person sees."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID_ELEMENTS = {"meta", "img", "br", "link", "input", "source", "hr"}


class Page(HTMLParser):
    """Parses a page (or a piece of SVG) and insists on balanced elements.

    Attributes:
        elements: name and attributes of every element, in order.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self._words: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    @property
    def text(self) -> str:
        """What is not style, with single spaces."""
        return re.sub(r"\s+", " ", " ".join(self._words)).replace("\N{NARROW NO-BREAK SPACE}", " ")

    def attributes(self, name: str, of: str = "") -> list[str]:
        """Values of an attribute, of all elements or those of one kind."""
        return [found[name] for tag, found in self.elements if name in found and of in ("", tag)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID_ELEMENTS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self._words.append(data)
