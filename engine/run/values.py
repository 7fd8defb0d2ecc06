"""What nodes pass on: every output of a node is a slot, a tuple that most often has one element.

A node is called once for each element of its longest input; shorter inputs repeat their last element.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol, Self

from engine.fileref import FileRef
from engine.models import ModelRef, Recipe
from engine.run.results import OutputFile, Outputs

Slot = tuple[Any, ...]

_NOTHING: Final = frozenset({int, float, bool, type(None)})
"""Types whose values take no memory to speak of and refer to nothing."""


class Handle(Protocol):
    """A node's value, at hand or still on disk. Files and ui data are at hand either way."""

    @property
    def files(self) -> tuple[OutputFile, ...]: ...

    @property
    def ui(self) -> Mapping[str, Sequence[Any]]: ...

    def load(self) -> NodeValue:
        """The value itself; reading it from disk may take time and import what decodes it."""
        ...


@dataclass(frozen=True, slots=True)
class NodeValue:
    """All that came out of one node, over all its calls. It is its own handle."""

    slots: tuple[Slot, ...] = ()
    files: tuple[OutputFile, ...] = ()
    ui: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def is_small(self) -> bool:
        """Whether it is numbers alone, which take no memory to speak of and refer to no file."""
        return not (self.files or self.ui) and all(type(item) in _NOTHING for slot in self.slots for item in slot)

    def load(self) -> Self:
        return self


def broadcast(slots: Mapping[str, Slot]) -> Iterator[dict[str, Any]]:
    """The arguments of each call: as many as the longest slot has elements, none if a slot is empty, one if there are no slots."""
    if not slots:
        yield {}
        return
    if not all(slots.values()):
        return
    for index in range(max(map(len, slots.values()))):
        yield {name: slot[min(index, len(slot) - 1)] for name, slot in slots.items()}


def nbytes(value: Any) -> int:
    """Bytes that ``value`` keeps in memory beyond its Python objects, what it holds twice counted once."""
    total = 0
    for item in _leaves(value):
        if isinstance(item, str | bytes | bytearray):
            total += len(item)
        elif isinstance(size := getattr(item, "nbytes", None), int):
            total += size
    return total


def locations(value: Any) -> tuple[str, ...]:
    """Where the files are that ``value`` refers to by name instead of holding their content."""
    found: dict[str, None] = {}
    for item in _leaves(value):
        if isinstance(item, ModelRef):
            found |= dict.fromkeys(item.locations())
        elif isinstance(item, FileRef):
            found[str(item.path)] = None
    return tuple(path for path in found if os.path.isabs(path))


def _leaves(value: Any) -> Iterator[Any]:
    """What ``value`` is made of in the end, each once, without what is ``_NOTHING``."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind in _NOTHING or id(item) in seen:
            continue
        seen.add(id(item))
        if kind is tuple or kind is list:
            waiting += item
        elif parts := _parts(item):
            waiting += parts
        else:
            yield item


def _parts(item: Any) -> Sequence[Any]:
    if isinstance(item, dict | MappingProxyType):  # any other mapping may make its values when it is asked for them
        return [*item.keys(), *item.values()]
    if isinstance(item, list | tuple | set | frozenset):
        return list(item)
    if isinstance(item, Recipe):
        return [item.kind, item.parts]
    if isinstance(item, NodeValue):
        return [item.slots, item.files, item.ui]
    if isinstance(item, Outputs):
        return [item.values, item.files, item.ui]
    if isinstance(item, OutputFile):
        return [item.data]
    return ()
