"""Who stays on the device and who has to go: pure decisions about bytes.

A budget is a number of bytes on one device. Models that nobody leases may be evicted, longest unused first. A model that
does not fit even alone is streamed: its weights stay in main memory and each block visits the device when its turn comes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Resident(Generic[Key]):
    """A model on the device. ``last_used`` grows with time; a leased model may not be moved."""

    key: Key
    nbytes: int
    last_used: int
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Placement(Generic[Key]):
    """How to make room for a model: evict those, then put it on the device whole or stream it."""

    mode: Literal["resident", "streamed"]
    evict: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """The bytes that models, and what they work on, may take on one device."""

    total: int

    def free(self, resident: Sequence[Resident[Key]]) -> int:
        """Bytes left beside ``resident``; negative when the budget is overdrawn."""
        return self.total - sum(model.nbytes for model in resident)

    def to_evict(self, resident: Sequence[Resident[Key]], need: int) -> list[Key]:
        """Who must go so that ``need`` bytes are free, longest unused first; nobody leased, nobody in vain.

        When it cannot be reached, everybody who may go is returned: the caller then has as much room as there can be.
        """
        lacking = need - self.free(resident)
        chosen: list[Resident[Key]] = []
        for model in sorted((model for model in resident if not model.leased), key=lambda model: model.last_used):
            if lacking <= 0:
                break
            chosen.append(model)
            lacking -= model.nbytes
        return [model.key for model in _without_needless(chosen, -lacking)]

    def place(
        self, resident: Sequence[Resident[Key]], *, weights: int, working: int, largest_block: int
    ) -> Placement[Key]:
        """How to bring a model of ``weights`` bytes onto a device that holds ``resident``, itself not among them.

        ``working`` bytes are for what it computes on; ``largest_block`` is what streaming holds on the device at a time.
        """
        pinned = sum(model.nbytes for model in resident if model.leased)
        fits = weights + working <= self.total - pinned
        need = (weights if fits else largest_block) + working
        return Placement("resident" if fits else "streamed", tuple(self.to_evict(resident, need)))


def _without_needless(chosen: list[Resident[Key]], surplus: int) -> list[Resident[Key]]:
    """Take back evictions that the later ones made needless, the largest model first."""
    spared: set[Key] = set()
    for model in sorted(chosen, key=lambda model: -model.nbytes):
        if model.nbytes <= surplus:
            spared.add(model.key)
            surplus -= model.nbytes
    return [model for model in chosen if model.key not in spared]
