"""The results worth most, in memory, up to a number of bytes.

Which to give up is GreedyDual-Size (Cao and Irani 1997, "Cost-Aware WWW Proxy Caching Algorithms"): a result's credit is what it cost
per byte it takes, counted from a floor that rises to the credit of whatever was given up last. So a dear small result outlives a cheap
large one, and anything outlives its worth when it is not used.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from engine.run.keys import Key
from engine.run.values import NodeValue, locations, nbytes

_OVERHEAD = 512
"""Bytes any entry takes, so that a million empty results are not free."""


@dataclass(slots=True)
class Resident:
    """One result in memory."""

    key: Key
    value: NodeValue
    nbytes: int
    seconds: float
    """What it took to compute."""
    locations: tuple[str, ...]
    """Files it refers to."""
    credit: float = 0.0


def to_evict(residents: Iterable[Resident], excess: int) -> list[Resident]:
    """The residents of least credit that together take at least ``excess`` bytes, the least first."""
    chosen: list[Resident] = []
    for resident in sorted(residents, key=lambda resident: resident.credit):
        if excess <= 0:
            break
        chosen.append(resident)
        excess -= resident.nbytes
    return chosen


class MemoryTier:
    """Results by key. Safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        """``limit`` is in bytes; 0 keeps nothing."""
        self.limit = limit
        self._lock = threading.Lock()
        self._residents: dict[Key, Resident] = {}
        self._used = 0
        self._floor = 0.0

    def get(self, key: Key) -> NodeValue | None:
        """The value kept under ``key``. One that refers to a file that has gone is no use: it is dropped."""
        with self._lock:
            resident = self._residents.get(key)
            if resident is None:
                return None
            if resident.locations and not all(map(os.path.exists, resident.locations)):
                self._remove(key)
                return None
            resident.credit = self._floor + resident.seconds / resident.nbytes
            self._residents[key] = self._residents.pop(key)  # of equal credits the one used last stays
            return resident.value

    def put(self, key: Key, value: NodeValue, seconds: float) -> None:
        """Keep ``value`` unless it is larger than the whole tier."""
        is_small = value.is_small
        size = _OVERHEAD if is_small else nbytes(value) + _OVERHEAD
        if size > self.limit:
            return
        where = () if is_small else locations(value.slots)
        with self._lock:
            self._remove(key)
            self._residents[key] = Resident(key, value, size, seconds, where, self._floor + seconds / size)
            self._used += size
            if self._used > self.limit:
                self._shrink()

    def clear(self) -> None:
        with self._lock:
            self._residents.clear()
            self._used = 0

    @property
    def used(self) -> int:
        """Bytes."""
        return self._used

    def __len__(self) -> int:
        return len(self._residents)

    def _shrink(self) -> None:
        # a tenth more than must go, so that a full tier does not sort itself at every put
        for resident in to_evict(self._residents.values(), self._used - self.limit * 9 // 10):
            self._floor = resident.credit
            self._remove(resident.key)

    def _remove(self, key: Key) -> None:
        resident = self._residents.pop(key, None)
        if resident is not None:
            self._used -= resident.nbytes
