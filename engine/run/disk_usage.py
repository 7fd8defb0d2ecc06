"""How much a cache folder holds, and what goes when it is too much: a pure decision over what a scan found."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.run.atomic import STALE_SECONDS, TEMPORARY, remove

_TOUCH_SECONDS: Final = 60.0
_FILL: Final = 0.9
"""A folder over its limit is brought down to this share of it, so that it is not scanned at every write."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the cache."""

    path: Path
    size: int
    used: float
    """When it was last written or read, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record with the names of the blobs it needs."""

    file: StoredFile
    blobs: tuple[str, ...]


def to_remove(records: Sequence[StoredRecord], blobs: Mapping[str, StoredFile], limit: int, now: float) -> list[Path]:
    """What to remove so that the rest takes at most nine tenths of ``limit`` bytes, in the order in which to do so.

    First blobs that no record needs, but for those so new that their record may still be coming; then records, the one longest not
    used first, each with the blobs that nothing else needs.
    """
    users = Counter(name for record in records for name in set(record.blobs))
    orphans = [file for name, file in blobs.items() if not users[name] and now - file.used > STALE_SECONDS]
    total = sum(file.size for file in blobs.values()) + sum(record.file.size for record in records)
    total -= sum(file.size for file in orphans)
    chosen = [file.path for file in orphans]
    for record in sorted(records, key=lambda record: record.file.used):
        if total <= limit * _FILL:
            break
        chosen.append(record.file.path)
        total -= record.file.size
        for name in set(record.blobs):
            users[name] -= 1
            if users[name] == 0 and name in blobs:
                chosen.append(blobs[name].path)
                total -= blobs[name].size
    return chosen


def scan(directory: Path) -> Iterator[StoredFile]:
    """The files two levels below ``directory``. Temporary files whose writer is long gone are removed on the way."""
    now = time.time()
    for folder in _entries(directory):
        for entry in _entries(Path(folder.path)):
            try:
                stat = entry.stat()
            except OSError:  # removed by another process since it was listed
                continue
            if not entry.name.startswith(TEMPORARY):
                yield StoredFile(Path(entry.path), stat.st_size, stat.st_mtime)
            elif now - stat.st_mtime > STALE_SECONDS:
                remove(Path(entry.path))


def touch(path: Path) -> None:
    """Remember that ``path`` was used, if that is not remembered already and may be."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _TOUCH_SECONDS:
            os.utime(path)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []
