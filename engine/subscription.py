"""What a client watches: which events have arrived, and which of them are still to be fetched."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from engine.errors import MezzotintError
from engine.jobs.records import Gap, StoredEvent
from engine.service.wire import event_from_wire

_MOST: Final = 4_000
"""That have arrived and were not fetched, before the service is told to send no more for now."""
_MOST_BEFORE_PREVIEWS: Final = 100
"""Not fetched, before pictures are left out."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture on the way: a JPEG."""

    job: str
    node: str
    shown: str
    image: bytes


Watched = StoredEvent | Preview | Gap


class Replaced(MezzotintError):
    """The service has fewer events than were seen: its job store is another one."""


@dataclass(slots=True)
class Subscription:
    """Events of one job or of all, each of them once and in order. Whoever fetches them may be as slow as they like."""

    job: str | None
    seen: int | None
    """The number of the last event that arrived. None: what happens from now on is wanted."""
    previews: bool
    _waiting: deque[Watched] = field(default_factory=deque)
    _arrival: asyncio.Event = field(default_factory=asyncio.Event)
    _gap: int = 0
    """Up to which number it was told that some are missing."""
    _end: MezzotintError | None = None

    def request(self, number: int) -> dict[str, Any]:
        """The frame that asks a service for what has not arrived yet."""
        frame = {"op": "subscribe", "id": number, "job": self.job, "previews": self.previews}
        return frame if self.seen is None else {**frame, "after": self.seen}

    @property
    def is_full(self) -> bool:
        """Whether the service is to send no more for now."""
        return len(self._waiting) >= _MOST

    @property
    def wants_more(self) -> bool:
        """Whether the service may be asked for more, of a subscription that was full."""
        return self._end is None and len(self._waiting) < _MOST // 2

    def take(self, frame: Mapping[str, Any]) -> None:
        """Keep what a frame of the service brings; an event that came before is passed over."""
        match frame.get("op"):
            case "subscribed" if self.seen is None:
                self.seen = frame["after"]
            case "subscribed" if frame["after"] < self.seen:
                self.end(
                    Replaced(
                        f"event {self.seen} was seen, but the service has no more than {frame['after']}: "
                        "its job store is another one; watch anew"
                    )
                )
            case "events":
                seen = self.seen or 0
                events = [event_from_wire(plain) for plain in frame["events"] if plain[0] > seen]
                if events:
                    self.seen = events[-1].seq
                    self._put(*events)
            case "gap" if frame["until"] > self._gap:
                self._gap = frame["until"]
                self._put(Gap(frame["after"], frame["until"]))
            case "preview" if len(self._waiting) < _MOST_BEFORE_PREVIEWS:
                self._put(Preview(frame["job"], frame["node"], frame["shown"], frame["image"]))

    def end(self, why: MezzotintError) -> None:
        """Nothing more will come."""
        self._end = self._end or why
        self._arrival.set()

    def _put(self, *arrived: Watched) -> None:
        self._waiting.extend(arrived)
        self._arrival.set()

    async def fetch(self) -> Watched:
        """The next that has arrived; waits for it. Raises what it was ended with when all was fetched."""
        while not self._waiting:
            if self._end is not None:
                raise self._end
            self._arrival.clear()
            await self._arrival.wait()
        return self._waiting.popleft()
