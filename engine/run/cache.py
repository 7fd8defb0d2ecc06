"""Everything that is known already: results by key, in memory and on disk, each computed by one caller at a time.

A cache belongs to a process and serves all its runs; the folder of the disk tier may serve several processes at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from engine.registry import Registry
from engine.run.disk_tier import DEFAULT_LIMIT, DiskInfo, DiskTier, Problem
from engine.run.keys import Key
from engine.run.memory_tier import MemoryTier
from engine.run.values import Handle, NodeValue, nbytes

Tier = Literal["memory", "disk", "run"]

DEFAULT_MEMORY = 2 << 30
"""Bytes of results a process keeps by default."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A result that need not be computed, and where it was: ``"run"`` is somebody who was computing it at that moment."""

    value: Handle
    tier: Tier


@dataclass(frozen=True, slots=True)
class Made:
    """A result that was computed."""

    value: NodeValue
    seconds: float
    lasting: bool = True
    """May be kept on disk. What an expanding node came to may not: its key does not say what its inner nodes are."""


Flight = Future["Handle | None"]
"""A computation under way: the value it comes to, or None when it comes to none."""


class Claim:
    """The right to compute one key, held until the result has landed or the ``with`` is left."""

    def __init__(self, cache: OutputCache, key: Key, flight: Flight) -> None:
        self._cache = cache
        self._key = key
        self._flight = flight

    def land(self, made: Made) -> None:
        """Keep the result and hand it to those who wait for it."""
        self._cache.keep(self._key, made)
        self._cache._landed(self._key, self._flight, made.value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._flight.done():
            self._cache._landed(self._key, self._flight, None)


class Unshared:
    """A claim to a value that nobody else could want."""

    def land(self, made: Made) -> None:
        """Nothing to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a cache holds; the first four are of the disk tier."""

    objects: int
    """Results."""
    bytes: int
    limit: int
    by_type: Mapping[str, int]
    """Bytes of leaves by the type they are of (``torch.Tensor``)."""
    memory_objects: int
    memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def open_cache(
    directory: Path, registry: Registry, *, memory: int = DEFAULT_MEMORY, limit: int = DEFAULT_LIMIT
) -> OutputCache:
    """The cache that keeps its results in ``directory``, which is made when there is something to keep.

    ``memory`` and ``limit`` are in bytes, of the memory tier and of the folder.
    """
    return OutputCache(memory=memory, disk=DiskTier(directory, registry.codecs, limit=limit))


class OutputCache:
    """Results over two tiers; without a disk tier they last as long as the process."""

    def __init__(self, *, memory: int = DEFAULT_MEMORY, disk: DiskTier | None = None) -> None:
        """``memory`` is the limit of the memory tier in bytes."""
        self._memory = MemoryTier(memory)
        self._disk = disk
        self._flights: dict[Key, Flight] = {}
        self._lock = threading.Lock()

    def lookup(self, key: Key) -> Hit | None:
        """The result of ``key``, whole and checked; one from disk is decoded when it is first loaded."""
        value = self._memory.get(key)
        if value is not None:
            return Hit(value, "memory")
        stored = self._disk.get(key) if self._disk else None
        if stored is None:
            return None
        stored.when_loaded(lambda value: self._memory.put(key, value, stored.seconds))
        return Hit(stored, "disk")

    def where(self, key: Key) -> Literal["memory", "disk"] | None:
        """The tier ``lookup`` would find ``key`` in, without reading it."""
        if self._memory.get(key) is not None:
            return "memory"
        return "disk" if self._disk and self._disk.has(key) else None

    def keep(self, key: Key, made: Made) -> None:
        """Keep a result in whichever tiers it is worth keeping in. Writing to disk happens later, on another thread."""
        self._memory.put(key, made.value, made.seconds)
        if self._disk and made.lasting and (made.value.files or worth_keeping(made.seconds, nbytes(made.value))):
            self._disk.put(key, made.value, made.seconds)

    def claim(self, key: Key) -> Hit | Claim | Flight:
        """What is kept under ``key``; else the right to compute it; else the flight of whoever is computing it."""
        hit = self.lookup(key)
        if hit is not None:
            return hit
        with self._lock:
            if key in self._flights:
                return self._flights[key]
            value = self._memory.get(key)  # it may have landed since the look-up
            if value is not None:
                return Hit(value, "memory")
            flight: Flight = Future()
            # a running future cannot be cancelled by one of those who wait for it
            flight.set_running_or_notify_cancel()
            self._flights[key] = flight
            return Claim(self, key, flight)

    async def get_or_run(self, key: Key, run: Callable[[], Awaitable[Made | None]]) -> Hit | Made | None:
        """What is kept under ``key``; else what somebody is computing under it; else what ``run`` makes, which is then kept.

        ``run`` may return None where it comes to no result of its own, and may raise; whoever waited for it then runs theirs.
        """
        got = await self.get_or_claim(key)
        if isinstance(got, Hit):
            return got
        with got:
            made = await run()
            if made is not None:
                got.land(made)
            return made

    async def get_or_claim(self, key: Key) -> Hit | Claim:
        """What is kept under ``key``, or what somebody comes to who is computing it; else the right to compute it."""
        while True:
            got = self.claim(key)
            if not isinstance(got, Future):
                return got
            value = await asyncio.wrap_future(got)
            if value is not None:
                return Hit(value, "run")

    def _landed(self, key: Key, flight: Flight, value: Handle | None) -> None:
        with self._lock:
            del self._flights[key]
        flight.set_result(value)

    @property
    def has_disk(self) -> bool:
        """Whether a look-up may have to read a file."""
        return self._disk is not None

    @property
    def is_writing(self) -> bool:
        """Whether something is still on its way to disk, or something went wrong there."""
        return self._disk is not None and self._disk.is_writing

    def flush(self) -> list[Problem]:
        """Wait until everything kept so far is on disk. Returns what went wrong since the last time, one problem of a kind."""
        return self._disk.flush() if self._disk else []

    def info(self) -> CacheInfo:
        """Reads every record of the disk tier."""
        disk = self._disk.info() if self._disk else DiskInfo(0, 0, 0, {})
        return CacheInfo(disk.results, disk.bytes, disk.limit, disk.by_type, len(self._memory), self._memory.used)

    def forget(self) -> None:
        """Give the memory back: what is on disk stays."""
        self._memory.clear()

    def clear(self) -> CacheInfo:
        """Forget everything, on disk too. Returns what was there."""
        before = self.info()
        self._memory.clear()
        if self._disk:
            self._disk.clear()
        return before


def worth_keeping(seconds: float, size: int) -> bool:
    """Whether a result of ``size`` bytes that took ``seconds`` is cheaper to read back than to make again, with a good margin.

    Reading is taken to run at 500 MB/s, which a laptop's disk does, and to cost 20 ms at least, which decoding does in a fresh process.
    """
    return seconds > 2 * (0.02 + size / 500e6)
