"""What a client watches: which events have arrived, and which of them are still to be fetched."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.jobs.records import StoredEvent
from engine.service.wire import event_from_wire


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture on the way: a JPEG."""

    job: str
    node: str
    shown: str
    image: bytes


@dataclass(slots=True)
class Subscription:
    """Events of one job, or of all; for one that fetches them. Outlives the connections it is served over."""

    job: str | None
    seen: int | None
    """The number of the last event that has arrived, fetched or not; at first the one to go on after. None: from now on."""
    previews: bool
    _waiting: deque[StoredEvent | Preview] = field(default_factory=deque)
    _arrival: asyncio.Event = field(default_factory=asyncio.Event)

    def request(self, number: int) -> dict[str, Any]:
        """The frame that asks a service for what has not arrived yet."""
        frame = {"op": "subscribe", "id": number, "job": self.job, "previews": self.previews}
        return frame if self.seen is None else {**frame, "after": self.seen}

    def take(self, frame: Mapping[str, Any]) -> None:
        """Keep what a frame of the service brings; an event that came before is passed over."""
        match frame.get("op"):
            case "subscribed" if self.seen is None:
                self.seen = frame["after"]
            case "events":
                seen = self.seen or 0
                events = [event_from_wire(plain) for plain in frame["events"] if plain[0] > seen]
                if events:
                    self.seen = events[-1].seq
                    self._put(*events)
            case "preview":
                self._put(Preview(frame["job"], frame["node"], frame["shown"], frame["image"]))

    def _put(self, *arrived: StoredEvent | Preview) -> None:
        self._waiting.extend(arrived)
        self._arrival.set()

    async def fetch(self) -> StoredEvent | Preview:
        """The next that has arrived; waits for it."""
        while not self._waiting:
            self._arrival.clear()
            await self._arrival.wait()
        return self._waiting.popleft()
