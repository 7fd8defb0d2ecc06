"""Metadata in the header of safetensors files (``.latent`` files are such files): eight bytes of length, JSON, then
the tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

from engine.errors import UnreadableWorkflow
from engine.graph.text import kind

LONGEST_HEADER: Final = 100_000_000
"""Bytes; what the reference implementation of the format allows."""


def header_size(data: bytes) -> int | None:
    """Bytes of the JSON header, if ``data`` begins like a safetensors file: nine bytes are enough to tell."""
    if len(data) < 9 or data[8:9] != b"{":
        return None
    size = int.from_bytes(data[:8], "little")
    return size if 2 <= size <= LONGEST_HEADER else None


def read_metadata(data: bytes) -> dict[str, str]:
    """The text entries of the header; the tensors behind it need not be there. Raises ``UnreadableWorkflow`` for a
    damaged one."""
    metadata = _read_header(data)[0].get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise UnreadableWorkflow(
            f"the safetensors file is damaged: expected an object as its metadata, found {kind(metadata)}"
        )
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def with_safetensors_metadata(data: bytes, entries: Mapping[str, Any]) -> bytes:
    """The same file with metadata entries added or replaced. A value that is no ``str`` is written as ASCII JSON.

    Raises ``UnreadableWorkflow`` for bytes that are no safetensors file.
    """
    header, body = _read_header(data)
    old = read_metadata(data)
    added = {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}
    text = json.dumps(
        {"__metadata__": old | added} | {name: entry for name, entry in header.items() if name != "__metadata__"}
    )
    # the tensors begin at a multiple of eight, so that they can be mapped
    encoded = text.encode() + b" " * (-len(text) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + data[body:]


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header and where the tensors begin."""
    size = header_size(data)
    if size is None:
        raise UnreadableWorkflow("expected a safetensors file, found other data")
    if len(data) < 8 + size:
        raise UnreadableWorkflow(
            f"the safetensors file is cut off: its header has {size} bytes, {len(data) - 8} are there"
        )
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise UnreadableWorkflow(f"the safetensors file is damaged: its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise UnreadableWorkflow(
            f"the safetensors file is damaged: expected an object as its header, found {kind(header)}"
        )
    return header, 8 + size
