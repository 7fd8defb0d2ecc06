"""What a network's calls leave for those of later steps, side by side of guidance.

It travels in the memory of guidance, so that a sampling that was cut goes on with it, and another one begins without any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

_PREFIX: Final = "call."


@dataclass(slots=True)
class Call:
    """One call of the network: what it ``found`` from the last one for the same samples, and what it has ``kept`` for the next, by
    name, each [B,...]."""

    found: Mapping[str, Tensor]
    kept: dict[str, Tensor] = field(default_factory=dict)

    def numbers(self, name: str) -> list[float] | None:
        """Numbers found by ``name``; None where samples have none, or different ones."""
        rows = self.found.get(name)
        if rows is None or not bool((rows == rows[:1]).all()):
            return None
        first: list[float] = rows[0].tolist()
        return first

    def keep_numbers(self, name: str, batch: int, *numbers: float) -> None:
        """For all ``batch`` samples."""
        self.kept[name] = torch.tensor(numbers, dtype=torch.float64).expand(batch, -1)

    def of_pieces(self, name: str) -> Call:
        """One of the calls that this one is made in: for pieces of all samples, [pieces * B,...], with what ``keep_pieces`` kept."""
        found = _below(self.found, f"{name}.")
        return Call({key: tensor.transpose(0, 1).flatten(0, 1) for key, tensor in found.items()})

    def keep_pieces(self, name: str, call: Call, pieces: int) -> None:
        """What ``call`` has kept for so many pieces, as a row for each sample."""
        kept = {key: tensor.unflatten(0, (pieces, -1)).transpose(0, 1) for key, tensor in call.kept.items()}
        self.kept |= {f"{name}.{key}": tensor for key, tensor in kept.items()}


@dataclass(slots=True)
class Recalls:
    """The calls of one evaluation of guidance. What none of them keeps is forgotten."""

    memory: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    aside: frozenset[str] = frozenset()
    """Entries of which nothing is kept. In calls with others they find zeros, as much as those find."""
    _kept: dict[str, Tensor] = field(default_factory=dict)

    def call(self, names: Sequence[str]) -> Call:
        """For the samples of the entries called so, one after the other; what not all of them have is not found."""
        each = [None if self._is_aside(name) else _below(self.memory, f"{_PREFIX}{name}.") for name in names]
        known = [one for one in each if one is not None] or [{}]
        common = [name for name in known[0] if all(name in one for one in known)]
        alike = [name for name in common if len({one[name].shape for one in known}) == 1]
        nothing = {name: torch.zeros_like(known[0][name]) for name in alike} if None in each else {}
        return Call({name: torch.cat([(one or nothing)[name] for one in each]) for name in alike})

    def keep(self, names: Sequence[str], call: Call) -> None:
        """What ``call`` has kept, for the entries called so."""
        for key, tensor in call.kept.items():
            parts = tensor.chunk(len(names))
            pairs = [pair for pair in zip(names, parts, strict=True) if not self._is_aside(pair[0])]
            self._kept |= {f"{_PREFIX}{name}.{key}": part for name, part in pairs}

    def _is_aside(self, name: str) -> bool:
        return name.partition("+")[0] in self.aside

    def remembered(self, memory: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """``memory``, which guidance has from this evaluation, with what the calls kept."""
        others = {name: tensor for name, tensor in memory.items() if not name.startswith(_PREFIX)}
        return others | self._kept


def _below(memory: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in memory.items() if name.startswith(prefix)}


def unique(names: Sequence[str]) -> list[str]:
    """``names``, those that come again with their number behind them."""
    found: list[str] = []
    for name in names:
        again = sum(name == known for known in names[: len(found)])
        found.append(f"{name}+{again}" if again else name)
    return found
