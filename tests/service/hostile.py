"""Files and names that are made to do harm."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

PAGE: Final = b"<html><script>alert(document.domain)</script></html>"
DRAWING: Final = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


class _Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def pickled(mark: Path) -> bytes:
    """A checkpoint as torch wrote them long ago: who unpickles it makes the folder ``mark``."""
    return pickle.dumps({"state_dict": _Harm(mark)}, protocol=2)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A grey PNG that says it has this size, with the pixels of 4x4 and the chunks ``more``."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\x80\x80\x80\x80" * 4)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header), *more, _chunk(b"IDAT", pixels), _chunk(b"IEND", b""))
    )


def text_bomb(size: int) -> bytes:
    """A zTXt chunk, small, whose text has ``size`` bytes."""
    packer, zeros = zlib.compressobj(9), bytes(2**20)
    packed = b"".join(packer.compress(zeros) for _ in range(size // len(zeros))) + packer.flush()
    return _chunk(b"zTXt", b"workflow\0\0" + packed)


def safetensors(names: list[str], metadata: dict[str, str]) -> bytes:
    """A file of one number per name."""
    header: dict[str, Any] = {"__metadata__": metadata}
    for at, name in enumerate(names):
        header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [4 * at, 4 * at + 4]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * len(names))


def outside_names(secret: Path) -> list[str]:
    """Names of ``secret``, which lies right above the folder they are looked for in. ``link.png`` and ``door`` are links out of it."""
    name, full = secret.name, str(secret)
    dotted = [f"../{name}", f"..\\{name}", f"x/../../{name}", f"./../{name}", f"....//{name}", f"..//../{name}"]
    marked = [f"../{name} [input]", f"{full} [output]", f"../{name} [../]"]
    return [
        *dotted,
        *marked,
        full,
        f"/{full}",
        f"file://{full}",
        f"C:\\{name}",
        f"\\\\host\\share\\{name}",
        f"..%2f{name}",
        f"%2e%2e%2f{name}",
        f"../{name}\0.png",
        f"\0../{name}",
        "link.png",
        f"door/{name}",
        "~/x.png",
        f"..\u2215{name}",
    ]


def encodings(name: str) -> list[str]:
    """``name`` as a segment of a path may carry it."""
    once = quote(name, safe="")
    return [once, quote(once, safe=""), quote(name, safe="/\\.:"), once.replace(".", "%2e")]
