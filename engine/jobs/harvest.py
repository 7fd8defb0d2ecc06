"""The files that a job left, by their content."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from engine.errors import MezzotintError
from engine.files import FILE_KINDS, FileRoots
from engine.jobs.records import OutputRecord


def shown_files(outputs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each file that the nodes show, with its node; packs show what they like, so that not everything is one."""
    for node, ui in outputs.items():
        for items in ui.values():
            for item in items if isinstance(items, list | tuple) else ():
                if isinstance(item, Mapping) and all(isinstance(item.get(key), str) for key in ("filename", "type")):
                    yield node, item


def harvest(job: str, outputs: Mapping[str, Mapping[str, Any]], roots: FileRoots) -> list[OutputRecord]:
    """Read the files that the nodes of a job show, those below ``roots``, and say what is in them."""
    found = []
    for node, item in shown_files(outputs):
        path = _place(item, roots)
        if path is None:
            continue
        digest = blake3()
        try:
            digest.update_mmap(path)
            size = path.stat().st_size
            f"{item['filename']}{item.get('subfolder')}".encode()  # a name that is no text cannot be told
        except (OSError, ValueError):  # somebody took it away, or its name is one that no file has
            continue
        media = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        subfolder = item.get("subfolder") or ""
        found.append(
            OutputRecord(job, node, digest.hexdigest(), item["filename"], subfolder, item["type"], media, size)
        )
    return found


def place_of(record: OutputRecord, roots: FileRoots) -> Path | None:
    """Where a file is or was; None for what would be outside of the folders."""
    return _place({"filename": record.filename, "subfolder": record.subfolder, "type": record.kind}, roots)


def _place(item: Mapping[str, str], roots: FileRoots) -> Path | None:
    kind = next((kind for kind in FILE_KINDS if kind == item["type"]), None)
    if kind is None:
        return None
    subfolder = item.get("subfolder") or ""
    try:
        return roots.place(kind, f"{subfolder}/{item['filename']}" if subfolder else item["filename"])
    except (MezzotintError, ValueError):  # also a name that no file has
        return None
