"""Frames of the native websocket: msgpack maps. Both ends use this. An ``id`` is a number, or a text of at most 64 characters.

To the service: ``{"op": "auth", "token"}``, ``{"op": "subscribe", "id", "job"?, "after"?, "previews"?}``,
``{"op": "unsubscribe", "id"}``, ``{"op": "call", "id", "method", "params"}``.
From it: ``{"op": "hello", "version", "last", "largest"}`` with the bytes of the largest frame it takes, ``{"op": "subscribed", "id",
"after"}``, ``{"op": "events", "id", "events"}`` with ``[number, job, time, name, data]`` each, ``{"op": "gap", "id", "after", "until"}``
where some events between these numbers were deleted with their jobs, ``{"op": "preview", "id", "job", "node", "shown", "image"}``,
``{"op": "answer", "id", "result"}``, ``{"op": "error", "id", "type", "message", "details"}``, which is the end of the call or the
subscription with this id, ``{"op": "beat", "last"}``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from engine.errors import MezzotintError
from engine.jobs.records import Chunk, StoredEvent

VERSION: Final = 1
BEAT: Final = 15.0
"""Seconds between two signs of life."""
LARGEST: Final = 110 * 2**20
"""Bytes of a frame for the service: an upload, and what is around it."""
_ITEMS: Final = 1_000_000
"""In all lists and maps of a frame for the service."""
AT_ONCE: Final = 500
"""Events in one frame at most."""
_KEPT: Final = 64
"""Packed runs of events that are kept for the next who is told of them."""


class BadFrame(MezzotintError):
    """Bytes that are no frame."""


def pack(frame: Any) -> bytes:
    data: bytes = msgpack.packb(frame, default=str, unicode_errors="surrogatepass")
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """Raises ``BadFrame`` for anything but one msgpack map with texts for keys."""
    return _unpack(data, {})


def unpack_of_client(data: bytes, most: int = _ITEMS) -> dict[str, Any]:
    """As ``unpack``, for at most so many items in all lists and maps: a byte on the way may take up a hundred here."""
    count = 0

    def counted(items: Any) -> Any:
        nonlocal count
        count += 1 + len(items)
        if count > most:
            raise ValueError(f"more than {most} items")
        return items

    return _unpack(data, {"object_hook": counted, "list_hook": counted, "max_array_len": most, "max_map_len": most})


def _unpack(data: bytes, options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        frame = msgpack.unpackb(data, unicode_errors="surrogatepass", **options)
    except Exception as error:  # msgpack raises many kinds
        raise BadFrame(
            f"expected a msgpack map, found bytes that are none ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(frame, dict):
        raise BadFrame(f"expected a msgpack map, found {type(frame).__name__}")
    return frame


def event_to_wire(event: StoredEvent) -> list[Any]:
    return [event.seq, event.job, event.time, event.name, event.data]


def event_from_wire(plain: list[Any]) -> StoredEvent:
    return StoredEvent(*plain)


@dataclass(slots=True)
class EventFrames:
    """Makes frames of events, each event packed once however many clients are told of it. For the events of one store."""

    _packed: OrderedDict[tuple[int, int], bytes] = field(default_factory=OrderedDict)
    """By the first and the last number, which say what the events are."""

    def of(self, number: Any, chunks: Sequence[Chunk]) -> Iterator[bytes]:
        """The frames of subscription ``number``, at most ``AT_ONCE`` events in each."""
        waiting: list[bytes] = []
        count = 0
        for events in _runs(chunks):
            if count + len(events) > AT_ONCE:
                yield _events_frame(number, count, waiting)
                waiting, count = [], 0
            waiting.append(self._pack(events))
            count += len(events)
        if waiting:
            yield _events_frame(number, count, waiting)

    def _pack(self, events: Sequence[StoredEvent]) -> bytes:
        key = events[0].seq, events[-1].seq
        known = self._packed.get(key)
        if known is None:
            known = self._packed[key] = b"".join(pack(event_to_wire(event)) for event in events)
            if len(self._packed) > _KEPT:
                self._packed.popitem(last=False)
        return known


def _runs(chunks: Sequence[Chunk]) -> Iterator[Sequence[StoredEvent]]:
    for chunk in chunks:
        for start in range(0, len(chunk.events), AT_ONCE):
            yield chunk.events[start : start + AT_ONCE]


def _events_frame(number: Any, count: int, packed: Sequence[bytes]) -> bytes:
    """``{"op": "events", "id", "events"}``, whose events are packed already."""
    packer = msgpack.Packer(autoreset=False, default=str, unicode_errors="surrogatepass")
    packer.pack_map_header(3)
    for value in ("op", "events", "id", number, "events"):
        packer.pack(value)
    packer.pack_array_header(count)
    return b"".join((packer.bytes(), *packed))
