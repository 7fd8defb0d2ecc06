"""Which entries of conditioning go through the network together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from nodes.diffusion.conditioning import Entry

MOST_REPEATS: Final = 4
"""How often the tokens of an entry may be repeated to be batched with a longer one."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Entries that go through the network in one call: indices into the list they come from, and their token count."""

    members: tuple[int, ...]
    tokens: int


def groups(entries: Sequence[Entry], latent: Tensor, most: int | None = None, *, repeats: bool = True) -> list[Group]:
    """How to batch ``entries``: those that see crops of one size, have inputs of one shape and one control, and change the network alike
    go together, at most ``most`` at a time; token counts that differ must have a common multiple of at most four times the fewest, and
    ``repeats`` says whether they may differ at all."""
    found: list[Group] = []
    for index, entry in enumerate(entries):
        for place, group in enumerate(found):
            tokens = math.lcm(group.tokens, entry.context.shape[1])
            fewest = min(entries[i].context.shape[1] for i in (*group.members, index))
            full = most is not None and len(group.members) >= most
            fits = tokens <= MOST_REPEATS * fewest if repeats else tokens == fewest
            if not full and fits and _alike(entries[group.members[0]], entry, latent):
                found[place] = Group((*group.members, index), tokens)
                break
        else:
            found.append(Group((index,), entry.context.shape[1]))
    return found


def _alike(a: Entry, b: Entry, latent: Tensor) -> bool:
    def shapes(entry: Entry) -> tuple[Any, ...]:
        inputs = {name: entry.input(name).shape[1:] for name in entry.inputs}
        read = None if entry.control_context is None else entry.control_context.shape[1:]
        return entry.crop(latent).shape, entry.context.shape[2:], inputs, read

    alike = a.control is b.control and (a.shared, a.changes) == (b.shared, b.changes)
    return alike and shapes(a) == shapes(b)


def stretched(context: Tensor, tokens: int) -> Tensor:
    """``context`` [B,T,D] with its tokens repeated to ``tokens``; cross attention does not see the difference."""
    return context if context.shape[1] == tokens else context.repeat(1, tokens // context.shape[1], 1)
