"""Text in PNG files: where pictures carry the workflow that made them.

Works on the bytes alone: pixels are never decoded, and everything but the text chunks is passed on as it is. The
layout is that of the PNG specification, third edition (W3C, 2025), sections 5 (chunks) and 11.3.3 (text).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import InputError, UnreadableWorkflow
from engine.graph.text import shown

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_TEXT_CHUNKS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_MOST_CHUNKS: Final = 100_000
_MOST_TEXT: Final = 64 * 2**20
"""Bytes of text, unpacked, that one picture may carry."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    type: bytes
    start: int
    """Where the chunk's length field is; the data follows 8 bytes later."""
    size: int
    """Bytes of data."""

    @property
    def end(self) -> int:
        return self.start + 12 + self.size

    def data(self, png: bytes) -> bytes:
        return png[self.start + 8 : self.start + 8 + self.size]


def is_png(data: bytes) -> bool:
    return data.startswith(SIGNATURE)


def read_text(png: bytes) -> dict[str, str]:
    """The text entries by keyword; of two with one keyword the later counts.

    Raises ``UnreadableWorkflow`` for a file that is no PNG, is cut off or damaged, or holds more than 64 MiB of text.
    """
    found: dict[str, str] = {}
    room = _MOST_TEXT
    for chunk in _chunks(png):
        if chunk.type in _TEXT_CHUNKS:
            keyword, text = _read_entry(chunk, png, room)
            room -= len(text)
            found[keyword] = text
    return found


def with_text(png: bytes, entries: Mapping[str, Any]) -> bytes:
    """The same picture with text entries right after its header, in the given order; old ones with these keywords are
    gone.

    A value that is no ``str`` is written as ASCII JSON. Raises ``UnreadableWorkflow`` for a file that is no PNG and
    ``InputError`` for a keyword PNG does not allow (1 to 79 Latin-1 characters).
    """
    chunks = list(_chunks(png))
    after_header = chunks[0].end
    kept = [png[:after_header]]
    kept += [
        _entry(keyword, value if isinstance(value, str) else json.dumps(value)) for keyword, value in entries.items()
    ]
    position = after_header
    for chunk in chunks:
        if chunk.type in _TEXT_CHUNKS and _keyword(chunk.data(png)) in entries:
            kept.append(png[position : chunk.start])
            position = chunk.end
    kept.append(png[position:])
    return b"".join(kept)


def _chunks(png: bytes) -> Iterator[_Chunk]:
    """The chunks up to the end mark; the first one is the header."""
    if not is_png(png):
        raise UnreadableWorkflow("expected a PNG picture, found other data")
    position = len(SIGNATURE)
    for index in range(_MOST_CHUNKS):
        if position + 12 > len(png):
            raise UnreadableWorkflow(
                f"the PNG picture is cut off after {len(png)} bytes; get it anew from where it came from"
            )
        size, type_ = struct.unpack_from(">I4s", png, position)
        chunk = _Chunk(type_, position, size)
        if chunk.end > len(png):
            raise UnreadableWorkflow(
                f"the PNG picture is cut off or damaged: a chunk at byte {position} says it has {size} bytes, "
                f"{len(png) - position - 12} are left"
            )
        if index == 0 and type_ != b"IHDR":
            raise UnreadableWorkflow("the PNG picture is damaged: it does not begin with its header")
        yield chunk
        if type_ == b"IEND":
            return
        position = chunk.end
    raise UnreadableWorkflow(f"the PNG picture has more than {_MOST_CHUNKS} chunks; no program writes that")


def _keyword(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("latin-1")


def _read_entry(chunk: _Chunk, png: bytes, room: int) -> tuple[str, str]:
    data = chunk.data(png)
    (stored,) = struct.unpack_from(">I", png, chunk.end - 4)
    if zlib.crc32(chunk.type + data) != stored:
        raise UnreadableWorkflow(f"the PNG picture is damaged: the checksum of its text at byte {chunk.start} is wrong")
    keyword, _, rest = data.partition(b"\0")
    read = {b"tEXt": _read_plain, b"zTXt": _read_packed, b"iTXt": _read_international}[chunk.type]
    try:
        text = read(rest, room)
    except (ValueError, zlib.error) as error:
        name = shown(keyword.decode("latin-1"))
        raise UnreadableWorkflow(f"the PNG picture is damaged: its text {name} cannot be read ({error})") from None
    return keyword.decode("latin-1"), text


def _read_plain(rest: bytes, room: int) -> str:
    return _bounded(rest, room).decode("latin-1")


def _read_packed(rest: bytes, room: int) -> str:
    if rest[:1] != b"\0":
        raise ValueError("unknown compression")
    return _inflate(rest[1:], room).decode("latin-1")


def _read_international(rest: bytes, room: int) -> str:
    if len(rest) < 2 or rest[0] > 1 or (rest[0] == 1 and rest[1] != 0):
        raise ValueError("unknown compression")
    _language, _, rest_after = rest[2:].partition(b"\0")
    _translated, _, text = rest_after.partition(b"\0")
    return (_inflate(text, room) if rest[0] else _bounded(text, room)).decode("utf-8")


def _bounded(text: bytes, room: int) -> bytes:
    if len(text) > room:
        raise ValueError(f"more than {_MOST_TEXT // 2**20} MiB of text")
    return text


def _inflate(packed: bytes, room: int) -> bytes:
    unpacker = zlib.decompressobj()
    text = _bounded(unpacker.decompress(packed, room + 1), room)
    if not unpacker.eof:
        raise ValueError("its compressed data is cut off")
    return text


def _entry(keyword: str, text: str) -> bytes:
    try:
        name = keyword.encode("latin-1")
    except UnicodeEncodeError:
        name = b""
    if not 1 <= len(name) <= 79 or b"\0" in name:
        raise InputError(
            f"expected a PNG keyword of 1 to 79 Latin-1 characters, found {shown(keyword)}; rename that entry"
        )
    try:
        return _chunk(b"tEXt", name + b"\0" + text.encode("latin-1"))
    except UnicodeEncodeError:
        # a lone surrogate has no UTF-8 form either; it becomes a question mark
        return _chunk(b"iTXt", name + b"\0\0\0\0\0" + text.encode("utf-8", "replace"))


def _chunk(type_: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + type_ + data + struct.pack(">I", zlib.crc32(type_ + data))
