"""Models that a sampling needs beside its own, each leased once and held until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.models import ModelRef, ModelStore

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

Lease = Callable[[ModelRef], "LoadedModel"]
"""Gives the model of a recipe."""


@contextmanager
def leases(store: ModelStore) -> Iterator[Lease]:
    """While open, leases of ``store``."""
    held: dict[ModelRef, Any] = {}
    with ExitStack() as stack:

        def lease(ref: ModelRef) -> LoadedModel:
            if ref not in held:
                held[ref] = stack.enter_context(store.lease(ref))
            model: LoadedModel = held[ref]
            return model

        yield lease


def no_leases(ref: ModelRef) -> LoadedModel:
    """For samplings that have no store at hand. Raises InputError."""
    raise InputError(f"expected conditioning that needs no model of its own, found one with a {ref.part} model")
