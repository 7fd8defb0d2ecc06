"""Text in EXIF tags, where ComfyUI keeps workflows in pictures that are no PNG: ``key:text`` each.

``prompt`` is in the tag Model, everything else in Make and the tags below it. The container is TIFF 6.0 (section 2, image file
directories).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from engine.errors import UnreadableWorkflow

HEADER: Final = b"Exif\0\0"

_ASCII: Final = 2
_MODEL_TAG: Final = 0x0110
_LOWEST_TAG: Final = 0x0100
_MOST_TEXT: Final = 64 * 2**20
"""Bytes of text that one picture may carry."""


def read_entries(exif: bytes, what: str) -> Iterator[tuple[str, str]]:
    """The text entries by key. Raises ``UnreadableWorkflow`` or ``struct.error`` for damaged data of a picture that is a ``what``."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return
    (directory,) = struct.unpack_from(order + "I", exif, 4)
    room = _MOST_TEXT
    (count,) = struct.unpack_from(order + "H", exif, directory)
    for index in range(count):
        entry = directory + 2 + 12 * index
        tag, type_, length = struct.unpack_from(order + "HHI", exif, entry)
        if type_ != _ASCII or not _LOWEST_TAG <= tag <= _MODEL_TAG:
            continue
        room -= length
        if room < 0:
            raise UnreadableWorkflow(
                f"the {what} picture holds more than {_MOST_TEXT // 2**20} MiB of text; that is no workflow"
            )
        start = entry + 8 if length <= 4 else struct.unpack_from(order + "I", exif, entry + 8)[0]
        if start + length > len(exif):
            raise damaged(what)
        key, colon, text = exif[start : start + length].rstrip(b"\0").decode("utf-8", "replace").partition(":")
        if colon:
            yield key, text


def damaged(what: str) -> UnreadableWorkflow:
    return UnreadableWorkflow(f"the {what} picture is cut off or damaged; get it anew from where it came from")


def write_entries(entries: Mapping[str, Any], most: int = _MOST_TEXT) -> bytes:
    """EXIF data with these entries, ``prompt`` and ``workflow`` before others; those that find no room in ``most`` bytes are left out.

    A value that is no ``str`` is written as ASCII JSON. Nothing at all if nothing finds room.
    """
    texts = _tagged(entries)
    while texts and len(data := _directory(texts)) > most:
        del texts[min(texts)]  # the lowest tag is the least important
    return data if texts else b""


def _tagged(entries: Mapping[str, Any]) -> dict[int, bytes]:
    """The entries by tag, the most important one in the highest."""
    keys = sorted(entries, key=lambda key: (key != "prompt", key != "workflow"))
    first = _MODEL_TAG if "prompt" in entries else _MODEL_TAG - 1
    texts: dict[int, bytes] = {}
    for tag, key in zip(range(first, _LOWEST_TAG - 1, -1), keys, strict=False):
        value = entries[key]
        text = value if isinstance(value, str) else json.dumps(value)
        texts[tag] = f"{key}:{text}".encode("utf-8", "replace") + b"\0"
    return texts


def _directory(texts: Mapping[int, bytes]) -> bytes:
    """A little-endian TIFF of one directory, its texts behind it. All are longer than the four bytes an entry itself has room for."""
    position = 8 + 2 + 12 * len(texts) + 4
    directory, data = [struct.pack("<H", len(texts))], []
    for tag in sorted(texts):
        text = texts[tag].ljust(5, b"\0")
        directory.append(struct.pack("<HHII", tag, _ASCII, len(text), position))
        data.append(text)
        position += len(text)
    return b"".join([b"II*\0", struct.pack("<I", 8), *directory, bytes(4), *data])
