"""Some tensors laid over others by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor


class Overlaid(Mapping[str, Tensor]):
    """The tensors of ``below``, with those of ``above`` in their places. Nothing is read or made before it is asked for."""

    def __init__(self, above: Mapping[str, Tensor], below: Mapping[str, Tensor]) -> None:
        self.above = above
        self.below = below

    def __getitem__(self, name: str) -> Tensor:
        return self.above[name] if name in self.above else self.below[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.below)

    def __len__(self) -> int:
        return len(self.below)

    @contextmanager
    def exchanged(self, above: Mapping[str, Tensor]) -> Iterator[None]:
        """While open, ``above`` is what lies over the others."""
        before, self.above = self.above, above
        try:
            yield
        finally:
            self.above = before
