"""Frames of the native websocket: msgpack maps. Both ends use this.

To the service: ``{"op": "auth", "token"}``, ``{"op": "subscribe", "id", "job"?, "after"?, "previews"?}``,
``{"op": "unsubscribe", "id"}``, ``{"op": "call", "id", "method", "params"}``.
From it: ``{"op": "hello", "version", "last"}``, ``{"op": "subscribed", "id", "after"}``, ``{"op": "events", "id", "events"}`` with
``[number, job, time, name, data]`` each, ``{"op": "preview", "id", "job", "node", "shown", "image"}``,
``{"op": "answer", "id", "result"}``, ``{"op": "error", "id", "type", "message", "details"}``, ``{"op": "beat", "last"}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgpack

from engine.errors import MezzotintError
from engine.jobs.records import StoredEvent

VERSION: Final = 1
BEAT: Final = 15.0
"""Seconds between two signs of life."""


class BadFrame(MezzotintError):
    """Bytes that are no frame."""


def pack(frame: Mapping[str, Any]) -> bytes:
    data: bytes = msgpack.packb(frame, default=str, unicode_errors="surrogatepass")
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """Raises ``BadFrame`` for anything but one msgpack map with texts for keys."""
    try:
        frame = msgpack.unpackb(data, unicode_errors="surrogatepass")
    except Exception as error:  # msgpack raises many kinds
        raise BadFrame(f"expected a msgpack map, found bytes that are none ({type(error).__name__})") from error
    if not isinstance(frame, dict):
        raise BadFrame(f"expected a msgpack map, found {type(frame).__name__}")
    return frame


def event_to_wire(event: StoredEvent) -> list[Any]:
    return [event.seq, event.job, event.time, event.name, event.data]


def event_from_wire(plain: list[Any]) -> StoredEvent:
    return StoredEvent(*plain)
