"""Bytes by their content: files named for the digest of what is in them, written once and checked whenever they are opened."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from engine.run.atomic import remove, replace_file
from engine.run.codecs import Buffer

ALIGNMENT: Final = 64
"""Each buffer of a blob starts at a multiple of this many bytes, as vector instructions like it."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob: how to find it again, and its buffers in it."""

    digest: bytes
    size: int
    spans: tuple[tuple[int, int], ...]
    """Offset and length of each buffer."""


def layout(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Where buffers of these lengths lie in one blob."""
    spans = []
    offset = 0
    for length in lengths:
        spans.append((offset, length))
        offset += length + -length % ALIGNMENT
    return tuple(spans)


class Blobs:
    """A folder of blobs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.directory / name[:2] / name

    def write(self, buffers: Sequence[Buffer]) -> tuple[Blob, int]:
        """Store ``buffers`` as one blob, unless it is there already. Returns it and the bytes written. Raises ``OSError``."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        spans = layout([len(view) for view in views])
        digest = blake3()
        for part in _padded(views):
            digest.update(part)
        size = spans[-1][0] + spans[-1][1] if spans else 0
        blob = Blob(digest.digest(), size, spans)
        path = self.path(blob.digest)
        try:
            if path.stat().st_size == size:
                os.utime(path)  # as good as new: a clean-up that finds it without a record must think so too
                return blob, 0
        except OSError:
            pass  # not there, or not ours to touch: written anew
        replace_file(path, _padded(views))
        return blob, size

    def open(self, blob: Blob) -> list[memoryview] | None:
        """The buffers of ``blob``, mapped; None, and the file removed, if it is not what its name says."""
        path = self.path(blob.digest)
        try:
            content = _mapped(path, blob.size)
        except (OSError, ValueError):
            return None
        if content is None or blake3(content).digest() != blob.digest:
            remove(path)
            return None
        return [content[start : start + length] for start, length in blob.spans]


def _padded(views: Sequence[memoryview]) -> Iterator[memoryview | bytes]:
    for index, view in enumerate(views):
        yield view
        if index < len(views) - 1:
            yield bytes(-len(view) % ALIGNMENT)


def _mapped(path: Path, size: int) -> memoryview | None:
    """The file as private writable memory; None if it has another size than it must."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != size:
            return None
        if size == 0:
            return memoryview(bytearray())
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
