"""Text in SVG files: the workflow as JSON in a ``metadata`` element, where ComfyUI keeps it.

The element comes first in the root, as CDATA (W3C, "Scalable Vector Graphics 2", 5.8; "Extensible Markup Language 1.0", 2.7). What is
written is ASCII, so that it fits into a document of any encoding that ASCII is part of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from xml.parsers import expat

from engine.errors import UnreadableWorkflow

_START: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")
_TAG: Final = re.compile(rb"""<(?P<name>[^\s/>]+)(?:[^"'>]|"[^"]*"|'[^']*')*?(?P<closed>/?)>""")
_ELEMENT: Final = "metadata"
_UNREADABLE: Final = (expat.ExpatError, LookupError, ValueError)
"""No XML, or of an encoding that is not known."""


class _Enough(Exception):
    """Nothing that follows matters."""


def is_svg(data: bytes) -> bool:
    """Whether this begins as an XML document does whose root is ``svg``."""
    return _START.match(data) is not None and _root_start(data) is not None


def read_text(svg: bytes) -> dict[str, str]:
    """The text entries by key. Raises ``UnreadableWorkflow`` for a file that is cut off or damaged before them."""
    found = _Metadata()
    try:
        found.read(svg)
    except _UNREADABLE as error:
        raise UnreadableWorkflow(f"the SVG picture is damaged: {error}; use the original file") from None
    try:
        entries = json.loads(found.text)
    except (ValueError, RecursionError):
        return {}
    return {key: json.dumps(value) for key, value in entries.items()} if isinstance(entries, dict) else {}


def with_text(svg: bytes, entries: Mapping[str, Any]) -> bytes:
    """The same drawing with these entries in its root; what is no SVG, or of an encoding unlike ASCII, comes back as it is."""
    start = _root_start(svg)
    tag = None if start is None else _TAG.match(svg, start)
    if tag is None:
        return svg
    prefix, colon, _ = tag["name"].rpartition(b":")
    name = prefix + colon + _ELEMENT.encode()
    text = json.dumps(dict(entries)).replace("]]>", "]]\\u003e").encode()
    inside = b"<%b><![CDATA[%b]]></%b>" % (name, text, name)
    if tag["closed"]:
        return svg[: tag.end() - 2] + b">" + inside + b"</" + tag["name"] + b">" + svg[tag.end() :]
    return svg[: tag.end()] + inside + svg[tag.end() :]


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _root_start(data: bytes) -> int | None:
    """Where the root's tag is, if it is that of an SVG."""
    parser = expat.ParserCreate()
    found: list[int] = []

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if _local(name) == "svg":
            found.append(parser.CurrentByteIndex)
        raise _Enough

    parser.StartElementHandler = start
    with suppress(_Enough, *_UNREADABLE):
        parser.Parse(data, True)
    return found[0] if found and data[found[0] : found[0] + 1] == b"<" else None


class _Metadata:
    """The text of the first ``metadata`` element below the root that begins as JSON does."""

    def __init__(self) -> None:
        self.text = ""
        self._depth = 0
        self._is_inside = False

    def read(self, svg: bytes) -> None:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        with suppress(_Enough):
            parser.Parse(svg, True)

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        if self._depth == 2 and _local(name) == _ELEMENT:
            self._is_inside, self.text = True, ""

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._depth == 1 and self._is_inside:
            self._is_inside = False
            if self.text.lstrip().startswith("{"):
                raise _Enough
            self.text = ""

    def _characters(self, text: str) -> None:
        if self._is_inside:
            self.text += text
