"""Text in JPEG files, in EXIF tags as in WEBP files. The segments are those of ITU-T T.81, annex B."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from engine.graph import exif

_WHAT: Final = "JPEG"
_START: Final = b"\xff\xd8"
_APP0, _APP1, _SCAN, _END = 0xE0, 0xE1, 0xDA, 0xD9
_MOST_SEGMENTS: Final = 10_000
_ROOM: Final = 0xFFFF - 2 - len(exif.HEADER)
"""Bytes of EXIF data in a segment, whose length has 16 bits."""


def is_jpeg(data: bytes) -> bool:
    return data[:3] == _START + b"\xff"


def read_text(jpeg: bytes) -> dict[str, str]:
    """The text entries by key. Raises ``UnreadableWorkflow`` for a file that is cut off or damaged."""
    try:
        for start, end in _exif_segments(jpeg):
            return dict(exif.read_entries(jpeg[start + 4 + len(exif.HEADER) : end], _WHAT))
    except struct.error:
        raise exif.damaged(_WHAT) from None
    return {}


def with_text(jpeg: bytes, entries: Mapping[str, Any]) -> bytes:
    """The same picture with these entries in place of what EXIF data it had, as far as 64 KiB go: ``prompt`` before all others.

    Data that is no whole JPEG comes back as it is.
    """
    text = exif.write_entries(entries, _ROOM)
    if not (text and is_jpeg(jpeg)):
        return jpeg
    try:
        old = list(_exif_segments(jpeg))
        behind = next((end for _, end, marker in _segments(jpeg) if marker == _APP0), len(_START))
    except struct.error:
        return jpeg
    parts = [jpeg[:behind], struct.pack(">BBH", 0xFF, _APP1, 2 + len(exif.HEADER) + len(text)), exif.HEADER, text]
    position = behind
    for start, end in old:
        parts.append(jpeg[position:start])
        position = end
    return b"".join([*parts, jpeg[position:]])


def _exif_segments(jpeg: bytes) -> Iterator[tuple[int, int]]:
    for start, end, marker in _segments(jpeg):
        if marker == _APP1 and jpeg.startswith(exif.HEADER, start + 4):
            yield start, end


def _segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Start, end and marker of each segment before the picture's data."""
    position = len(_START)
    for _ in range(_MOST_SEGMENTS):
        mark, marker, size = struct.unpack_from(">BBH", jpeg, position)
        if mark != 0xFF or marker in (_SCAN, _END):
            return
        yield position, position + 2 + size, marker
        position += 2 + size
