"""Events as they are stored, for whoever watches: from any number on, without a gap, without anything twice.

A watcher has a place in the sequence and takes what comes after it: from memory if that goes back far enough, from the store if not. So
a slow one falls back to the store and a fast one is woken, and neither can miss anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from engine.errors import MezzotintError
from engine.jobs.records import Chunk, Forgotten, Gap
from engine.run.events import NodeBytes

_MEMORY: Final = 4_000
"""Events that are kept in memory for watchers."""
_PICTURES: Final = 16
"""That wait for one watcher at most."""

_log: Final = logging.getLogger(__name__)

Read = Callable[[int, str | None], tuple[Sequence[Chunk], int]]
"""Reads a page of chunks with events after a number, of one job or of all; and then the highest number that was deleted."""


@dataclass(frozen=True, slots=True)
class JobPreview:
    """A picture on the way: it is stored nowhere and has no number."""

    job: str
    node: str
    shown: str
    image: bytes
    is_result: bool = False
    """Whether somebody waits for it, so that it is not to be missed."""


class JobForgotten(MezzotintError):
    """The job that is watched was deleted."""


@dataclass(frozen=True, slots=True)
class News:
    """What a watcher is told at once, in this order."""

    gap: Gap | None
    chunks: Sequence[Chunk]
    previews: Sequence[JobPreview]


class Listener(Protocol):
    """Who is told of everything as it comes."""

    def hear(self, chunk: Chunk) -> None: ...

    def show(self, preview: JobPreview) -> None: ...

    def carry(self, message: NodeBytes) -> None: ...


class Feed:
    """Belongs to an event loop; ``publish`` may be called from any thread."""

    def __init__(self, read: Read, last: int) -> None:
        """``read`` reads the store; ``last`` is the highest number it has given."""
        self._loop = asyncio.get_running_loop()
        self._read = read
        self._recent: deque[Chunk] = deque()
        self._kept = 0
        self._watchers: set[Watcher] = set()
        self._listeners: list[Listener] = []
        self.last = last

    def publish(self, news: Chunk | Forgotten) -> None:
        """What was just stored, or deleted, in its order."""
        with contextlib.suppress(RuntimeError):  # the loop was closed
            if isinstance(news, Chunk):
                self._loop.call_soon_threadsafe(self._take, news)
            else:
                self._loop.call_soon_threadsafe(self._forget, news)

    def listen(self, listener: Listener) -> None:
        """Have ``listener`` told of everything from now on, on the loop, before any watcher is woken."""
        self._listeners.append(listener)

    def show(self, preview: JobPreview) -> None:
        for listener in self._listeners:
            try:
                listener.show(preview)
            except Exception:  # the others are told all the same
                _log.exception("a preview of job %s was not taken", preview.job)
        for watcher in self._watchers:
            watcher.show(preview)

    def carry(self, message: NodeBytes) -> None:
        """A pack's bytes, which are no more than passed on; watchers, who follow what is stored, are not told."""
        for listener in self._listeners:
            try:
                listener.carry(message)
            except Exception:  # the others are told all the same
                _log.exception("a message of job %s was not taken", message.job)

    def watch(self, after: int, job: str | None = None, *, previews: bool = False) -> Watcher:
        """Whoever wants what comes after a number, of one job or of all, and pictures or not. Close it."""
        watcher = Watcher(self, after, job, wants_previews=previews)
        self._watchers.add(watcher)
        return watcher

    def _take(self, chunk: Chunk) -> None:
        self._recent.append(chunk)
        self._kept += len(chunk.events)
        while self._kept > _MEMORY and len(self._recent) > 1:
            self._kept -= len(self._recent.popleft().events)
        self.last = chunk.last
        for listener in self._listeners:
            try:
                listener.hear(chunk)
            except Exception:  # the others are told all the same
                _log.exception("events %d to %d of job %s were not taken", chunk.first, chunk.last, chunk.job)
        for watcher in self._watchers:
            if watcher.job in (None, chunk.job):
                watcher.wake()

    def _forget(self, forgotten: Forgotten) -> None:
        for watcher in self._watchers:
            if watcher.job in forgotten.jobs:
                watcher.forget()

    async def after(self, seq: int, job: str | None) -> tuple[Sequence[Chunk], int]:
        """The next chunks with events after ``seq``, nothing if there are none yet; and the highest number that may be missing there."""
        if seq >= self.last:
            return (), 0
        if self._recent and self._recent[0].first <= seq + 1:
            start = max(bisect_right(self._recent, seq, key=lambda chunk: chunk.first) - 1, 0)
            recent = (self._recent[index] for index in range(start, len(self._recent)))
            return [chunk for chunk in recent if chunk.last > seq and job in (None, chunk.job)], 0
        return await asyncio.to_thread(self._read, seq, job)

    def leave(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)


class Watcher:
    """One place in the sequence."""

    def __init__(self, feed: Feed, after: int, job: str | None, *, wants_previews: bool) -> None:
        self._feed = feed
        self.after = after
        self.job = job
        self._wants_previews = wants_previews
        self._woken = asyncio.Event()
        self._previews: OrderedDict[tuple[str, str], JobPreview] = OrderedDict()
        self._is_forgotten = False
        self._told_forgotten = 0

    def wake(self) -> None:
        self._woken.set()

    def show(self, preview: JobPreview) -> None:
        """The newest of each node takes the place of those that were not fetched: pictures may be missed."""
        if self._wants_previews and self.job in (None, preview.job):
            self._previews.pop((preview.job, preview.node), None)
            self._previews[preview.job, preview.node] = preview
            if len(self._previews) > _PICTURES:
                self._previews.popitem(last=False)
            self._woken.set()

    def forget(self) -> None:
        """The job was deleted."""
        self._is_forgotten = True
        self._woken.set()

    async def next(self) -> News:
        """Waits for what comes next: chunks, cut so that they begin after this place, and pictures.

        Raises ``JobForgotten`` when no more will come.
        """
        while True:
            self._woken.clear()
            limit, is_forgotten = self._feed.last, self._is_forgotten
            found, forgotten = await self._feed.after(self.after, self.job)
            gap = self._gap(forgotten)
            chunks = [_after(chunk, self.after) for chunk in found]
            previews = list(self._previews.values())
            self._previews.clear()
            self.after = chunks[-1].last if chunks else max(self.after, limit)  # nothing of this job up to there
            if chunks or previews or gap is not None:
                return News(gap, chunks, previews)
            if is_forgotten:
                raise JobForgotten(f"job {self.job!r} was deleted")
            await self._woken.wait()

    def _gap(self, forgotten: int) -> Gap | None:
        """What is missing before the next chunks, where that was not told yet.

        Whoever begins at 0 asks for all that is remembered, and misses nothing.
        """
        known = max(self.after, self._told_forgotten)
        if self.job is not None or self.after == 0 or forgotten <= known:
            return None
        self._told_forgotten = forgotten
        return Gap(known, forgotten)

    def close(self) -> None:
        self._feed.leave(self)


def _after(chunk: Chunk, seq: int) -> Chunk:
    if chunk.first > seq:
        return chunk
    return Chunk(chunk.job, seq + 1, chunk.last, chunk.events[seq + 1 - chunk.first :])
