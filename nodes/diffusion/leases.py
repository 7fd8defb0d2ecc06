"""Models that a sampling needs beside its own, each leased once and held until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import InputError
from engine.models import ModelRef, ModelStore

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

Lease = Callable[[ModelRef], "LoadedModel"]
"""Gives the model of a recipe."""


@dataclass(frozen=True, slots=True, eq=False)
class Leases:
    """The leases of one sampling: calling it with a recipe gives the model, which stays leased until the sampling ends."""

    store: ModelStore
    working_bytes: int
    """Room that a call of the sampled model needs beside all weights."""
    _held: ExitStack
    _models: dict[ModelRef, LoadedModel] = field(default_factory=dict)

    def __call__(self, ref: ModelRef, working_bytes: int = 0) -> LoadedModel:
        """The model of ``ref``, leased with so much room beside it the first time it is asked for."""
        if ref not in self._models:
            self._models[ref] = self._held.enter_context(self.store.lease(ref, working_bytes=working_bytes))
        return self._models[ref]


@contextmanager
def leases(store: ModelStore, working_bytes: int = 0) -> Iterator[Leases]:
    """While open, leases of ``store`` for a sampling that works in ``working_bytes``."""
    with ExitStack() as held:
        yield Leases(store, working_bytes, held)


def no_leases(ref: ModelRef) -> LoadedModel:
    """For samplings that have no store at hand. Raises InputError."""
    raise InputError(f"expected conditioning that needs no model of its own, found one with a {ref.part} model")
