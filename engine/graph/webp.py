"""Text in WEBP files: workflows that ComfyUI keeps in EXIF tags.

The container is RIFF (chunks with little-endian sizes); what the chunks hold is said in RFC 9649.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from engine.graph import exif

_WHAT: Final = "WEBP"
_MOST_CHUNKS: Final = 10_000
_HAS_EXIF, _HAS_ALPHA = 0x08, 0x10


def is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_text(webp: bytes) -> dict[str, str]:
    """The text entries by key. Raises ``UnreadableWorkflow`` for a file that is cut off or damaged."""
    try:
        for name, data in _chunks(webp):
            if name == b"EXIF":
                return dict(exif.read_entries(data.removeprefix(exif.HEADER), _WHAT))
    except struct.error:
        raise exif.damaged(_WHAT) from None
    return {}


def with_text(webp: bytes, entries: Mapping[str, Any]) -> bytes:
    """The same picture with these entries in place of what EXIF data it had; data that is no whole WEBP comes back as it is."""
    try:
        chunks = [(name, data) for name, data in _chunks(webp) if name != b"EXIF"]
        header = _extended_header(chunks)
    except (struct.error, IndexError):
        return webp
    text = exif.write_entries(entries)
    if header is None or not text:
        return webp
    kept = [(name, data) for name, data in chunks if name != b"VP8X"]
    # metadata comes behind the picture, EXIF before XMP
    end = next((index for index, (name, _) in enumerate(kept) if name == b"XMP "), len(kept))
    body = b"".join(_chunk(name, data) for name, data in [(b"VP8X", header), *kept[:end], (b"EXIF", text), *kept[end:]])
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _chunks(webp: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(webp):
            return
        name, size = struct.unpack_from("<4sI", webp, position)
        yield name, webp[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _extended_header(chunks: list[tuple[bytes, bytes]]) -> bytes | None:
    """The header that says there is EXIF data: the picture's own with one more flag, or one made from the picture's size."""
    name, data = chunks[0]
    if name == b"VP8X":
        return bytes([data[0] | _HAS_EXIF]) + data[1:]
    if (
        name == b"VP8L" and data[0] == 0x2F
    ):  # 14 bits of width and of height, each less one, then whether there is alpha
        (bits,) = struct.unpack_from("<I", data, 1)
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    elif name == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        across, down = struct.unpack_from("<HH", data, 6)
        width, height, alpha = (across & 0x3FFF) - 1, (down & 0x3FFF) - 1, 0
    else:
        return None
    flags = _HAS_EXIF | (_HAS_ALPHA if alpha else 0)
    return struct.pack("<IHBHB", flags, width, 0, height, 0)  # sides of 24 bits, of which these pictures use 14
