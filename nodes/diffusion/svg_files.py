"""Drawings as they come from nodes that make them: SVG documents, looked at before they are saved."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.parsers import expat

from engine.errors import InputError

_NAMESPACE: Final = "http://www.w3.org/2000/svg"
_BARE: Final = "svg"
_DECLARED: Final = re.compile(r"""^(\s*<\?xml\b[^>]*?)\s+encoding\s*=\s*("[^"]*"|'[^']*')""")
_WIDE: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LARGEST: Final = 200 * 2**20


def documents(value: Any) -> list[bytes]:
    """The SVG documents of what an SVG socket brings, each as the bytes of a file.

    One or several: text, bytes, a stream of bytes that is read from its beginning, a list of these, or an object that has them as ``data``.
    Text and UTF-16 become UTF-8; other bytes stay as they are. Raises InputError for what is no SVG, or no whole one.
    """
    found = [_checked(_as_bytes(it), number) for number, it in enumerate(_each(value), 1)]
    if not found:
        raise InputError("expected an SVG document or more, found none", input="svg")
    return found


def _each(value: Any) -> Iterator[Any]:
    if isinstance(value, str | bytes | bytearray | memoryview) or hasattr(value, "read"):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _each(item)
    elif isinstance(inner := getattr(value, "data", None), list | tuple):
        yield from _each(inner)
    else:
        raise InputError(f"expected SVG documents as text or bytes, found a {type(value).__name__}", input="svg")


def _as_bytes(document: Any) -> bytes:
    if hasattr(document, "read"):
        document.seek(0)
        document = document.read()
    if isinstance(document, str):
        return _utf8(document)
    data = bytes(document)
    return _utf8(data.decode("utf-16", "replace")) if data.startswith(_WIDE) else data


def _utf8(document: str) -> bytes:
    """What its first line says of its encoding is left out: without a word an XML document is UTF-8."""
    return _DECLARED.sub(r"\1", document.removeprefix("\ufeff").lstrip()).encode("utf-8", "replace")


def _checked(document: bytes, number: int) -> bytes:
    """``document``, which must be a whole XML document whose root is ``svg``."""
    if len(document) > _LARGEST:
        raise InputError(
            f"expected an SVG of at most {_LARGEST >> 20} MiB, found {len(document) >> 20} MiB", input="svg"
        )
    roots: list[str] = []

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if not roots:
            roots.append(name)

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = start
    try:
        parser.Parse(document, True)
    except (
        expat.ExpatError,
        LookupError,
        ValueError,
    ) as error:  # the latter two: an encoding that is unknown or of several bytes
        begin = document[:20].decode("ascii", "replace")
        raise InputError(
            f"expected an SVG in document {number}, found data that is no XML ({error}); it begins with {begin!r}",
            input="svg",
        ) from error
    if roots[0] not in (_BARE, f"{_NAMESPACE} {_BARE}"):
        raise InputError(
            f"expected an SVG in document {number}, found XML that begins with <{roots[0].rpartition(' ')[2]}>",
            input="svg",
        )
    return document
