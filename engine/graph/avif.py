"""Text in AVIF files, in EXIF tags as in WEBP files.

The container is ISO/IEC 14496-12 (boxes); that pictures and their metadata are items, and where their bytes lie, is said in ISO/IEC
23008-12 (``iinf``, ``iloc``). EXIF data has four bytes before it, which say how many more come before its TIFF header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.graph import exif

_WHAT: Final = "AVIF"
_BRANDS: Final = (b"avif", b"avis")
_MOST_BOXES: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Box:
    type: bytes
    start: int
    """Of what it holds."""
    end: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bytes of an item are, and where that is written."""

    offset: int
    length: int
    written_at: int | None
    """Of two numbers of 32 bits, offset in the file and length; None where they are written in another way."""


def is_avif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


def read_text(avif: bytes) -> dict[str, str]:
    """The text entries by key. Raises ``UnreadableWorkflow`` for a file that is cut off or damaged."""
    try:
        place = _exif_place(avif)
        if place is None:
            return {}
        if place.offset + place.length > len(avif):
            raise exif.damaged(_WHAT)
        data = avif[place.offset : place.offset + place.length]
        (before,) = struct.unpack_from(">I", data)
        return dict(exif.read_entries(data[4 + before :].removeprefix(exif.HEADER), _WHAT))
    except struct.error:
        raise exif.damaged(_WHAT) from None


def with_text(avif: bytes, entries: Mapping[str, Any]) -> bytes:
    """The same picture with these entries in place of the EXIF data it had. Without any, or as no whole AVIF, it comes back as it is."""
    text = exif.write_entries(entries)
    try:
        place = _exif_place(avif)
    except struct.error:
        return avif
    if not text or place is None or place.written_at is None:
        return avif
    data = bytes(4) + text
    written = struct.pack(">II", len(avif) + 8, len(data))
    changed = avif[: place.written_at] + written + avif[place.written_at + 8 :]
    return changed + struct.pack(">I4s", 8 + len(data), b"mdat") + data


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        size, type_ = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if size == 1:  # a size of 64 bits
            (size,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = start + size if size else end
        if not content <= stop <= end:
            raise struct.error("a box ends outside of what holds it")
        yield _Box(type_, content, stop)
        start = stop


def _find(data: bytes, start: int, end: int, type_: bytes) -> _Box | None:
    return next((box for box in _boxes(data, start, end) if box.type == type_), None)


def _exif_place(avif: bytes) -> _Place | None:
    if not is_avif(avif):
        return None
    meta = _find(avif, 0, len(avif), b"meta")
    if meta is None:
        return None
    infos, places = (_find(avif, meta.start + 4, meta.end, name) for name in (b"iinf", b"iloc"))
    if infos is None or places is None:
        return None
    item = _exif_item(avif, infos)
    return None if item is None else _item_place(avif, places, item)


def _exif_item(avif: bytes, infos: _Box) -> int | None:
    wide = avif[infos.start] > 0
    for box in _boxes(avif, infos.start + (8 if wide else 6), infos.end):
        version = avif[box.start]
        if box.type != b"infe" or version < 2:
            continue
        item, _protection, type_ = struct.unpack_from(">HH4s" if version == 2 else ">IH4s", avif, box.start + 4)
        if type_ == b"Exif":
            return int(item)
    return None


def _item_place(avif: bytes, places: _Box, wanted: int) -> _Place | None:
    """The one stretch of an item; None for an item that is not there, or in several stretches, or not directly in the file."""
    version = avif[places.start]
    (sizes,) = struct.unpack_from(">H", avif, places.start + 4)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version in (1, 2) else 0
    id_size = 4 if version >= 2 else 2
    count, position = _number(avif, places.start + 6, id_size)
    for _ in range(count):
        item, position = _number(avif, position, id_size)
        method, position = _number(avif, position, 2) if version in (1, 2) else (0, position)
        base, position = _number(avif, position + 2, base_size)
        stretches, position = _number(avif, position, 2)
        if item == wanted and (stretches != 1 or method & 15 != 0):
            return None
        if item == wanted:
            at = position + index_size
            offset, after = _number(avif, at, offset_size)
            length, _ = _number(avif, after, length_size)
            plain = (base_size == 0 or base == 0) and (offset_size, length_size) == (4, 4)
            return _Place(base + offset, length, at if plain else None)
        position += stretches * (index_size + offset_size + length_size)
    return None


def _number(data: bytes, position: int, size: int) -> tuple[int, int]:
    """An unsigned number of ``size`` bytes, and where it ends."""
    if position + size > len(data):
        raise struct.error("a number lies outside of the file")
    return int.from_bytes(data[position : position + size], "big"), position + size
