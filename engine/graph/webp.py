"""Text in WEBP files: workflows that ComfyUI keeps in EXIF tags as ``key:text``.

The containers are RIFF (chunks with little-endian sizes) and TIFF 6.0 (section 2, image file directories).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from engine.errors import UnreadableWorkflow

_ASCII: Final = 2
_MODEL_TAG: Final = 0x0110
_LOWEST_TAG: Final = 0x0100
_DAMAGED: Final = "the WEBP picture is cut off or damaged; get it anew from where it came from"
_MOST_CHUNKS: Final = 10_000
_MOST_TEXT: Final = 64 * 2**20
"""Bytes of text that one picture may carry."""


def is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_text(webp: bytes) -> dict[str, str]:
    """The text entries by key. Raises ``UnreadableWorkflow`` for a file that is cut off or damaged."""
    try:
        exif = _exif(webp)
        return dict(_entries(exif)) if exif is not None else {}
    except struct.error:
        raise UnreadableWorkflow(
            "the WEBP picture is cut off or damaged; get it anew from where it came from"
        ) from None


def _exif(webp: bytes) -> bytes | None:
    position = 12
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(webp):
            break
        name, size = struct.unpack_from("<4sI", webp, position)
        if name == b"EXIF":
            return webp[position + 8 : position + 8 + size].removeprefix(b"Exif\0\0")
        position += 8 + size + size % 2
    return None


def _entries(exif: bytes) -> Iterator[tuple[str, str]]:
    """``key:text`` of the tags Model (``prompt``) and downward from Make (everything else)."""
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
                f"the WEBP picture holds more than {_MOST_TEXT // 2**20} MiB of text; that is no workflow"
            )
        start = entry + 8 if length <= 4 else struct.unpack_from(order + "I", exif, entry + 8)[0]
        if start + length > len(exif):
            raise UnreadableWorkflow(_DAMAGED)
        key, colon, text = exif[start : start + length].rstrip(b"\0").decode("utf-8", "replace").partition(":")
        if colon:
            yield key, text
