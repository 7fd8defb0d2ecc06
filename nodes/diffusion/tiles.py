"""Working on a picture tile by tile, so that no edge of a tile is seen.

Neighbouring tiles overlap. What a network gives near an edge of a tile, where it sees nothing beyond, is not used: over the middle third
of what two tiles share one fades into the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

OnTile = Callable[[int, int], None]
"""Told how many tiles of how many are done; may end the work by raising."""

Span = tuple[int, int]
"""Start and end along a side, in cells."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiles of ``tile`` input cells that overlap by ``overlap``; outputs are ``grow`` times larger, ``shrink`` smaller.

    All but the last start at multiples of ``grid``.
    """

    tile: int
    overlap: int
    grow: int = 1
    shrink: int = 1
    grid: int = 1

    def out(self, cells: int) -> int:
        """Output cells of so many input cells."""
        return cells * self.grow // self.shrink


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of cells or pixels, ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def of(self, cells: Tensor) -> Tensor:
        """The part of ``cells`` [...,h,w] that it covers."""
        return cells[..., self.top : self.bottom, self.left : self.right]

    def grown(self, by: int, height: int, width: int) -> Box:
        """With ``by`` more on every side, as far as there are so many."""
        return Box(
            max(0, self.top - by), min(height, self.bottom + by), max(0, self.left - by), min(width, self.right + by)
        )

    def beside(self, other: Box) -> Box:
        """As seen from the upper left of ``other``."""
        return Box(self.top - other.top, self.bottom - other.top, self.left - other.left, self.right - other.left)

    def scaled(self, grow: int, shrink: int) -> Box:
        return Box(*(side * grow // shrink for side in (self.top, self.bottom, self.left, self.right)))


def spans(side: int, tiling: Tiling) -> list[Span]:
    """The tiles along ``side`` input cells: evenly spread, each neighbour pair overlapping enough."""
    if side <= tiling.tile:
        return [(0, side)]
    grid = math.lcm(tiling.shrink, tiling.grid)
    step = max(grid, (tiling.tile - tiling.overlap) // grid * grid)
    last = side - tiling.tile
    count = -(-last // step)
    starts = [min(last, math.ceil(last * number / count / grid) * grid) for number in range(count)]
    return [(start, start + tiling.tile) for start in (*starts, last)]


def tiled(batch: Tensor, run: Callable[[Tensor], Tensor], tiling: Tiling) -> Tensor:
    """``run`` over overlapping tiles of ``batch`` [B, C, H, W], the results faded into each other."""
    rows, columns = (spans(side, tiling) for side in batch.shape[-2:])

    def band(row: Span) -> Tensor:
        within = _part(batch, -2, row)
        return _joined(lambda column: run(_part(within, -1, column)), columns, tiling, -1)

    return _joined(band, rows, tiling, -2)


def tile_count(batch: Tensor, tiling: Tiling) -> int:
    """How many tiles ``tiled`` works on in all pictures of ``batch`` [B, C, H, W], one picture at a time."""
    height, width = batch.shape[-2:]
    return len(batch) * len(spans(height, tiling)) * len(spans(width, tiling))


def _part(batch: Tensor, dim: int, span: Span) -> Tensor:
    return batch.narrow(dim, span[0], span[1] - span[0])


def _joined(piece_at: Callable[[Span], Tensor], places: list[Span], tiling: Tiling, dim: int) -> Tensor:
    """The pieces along ``dim``, each faded in over what it shares with the one before."""
    whole = piece_at(places[0])
    if len(places) == 1:
        return whole
    shape = list(whole.shape)
    shape[dim] = tiling.out(places[-1][1])
    joined = whole.new_empty(shape)
    joined.narrow(dim, 0, whole.shape[dim]).copy_(whole)
    for (_, end), place in itertools.pairwise(places):
        piece, start = piece_at(place), tiling.out(place[0])
        shared = max(0, tiling.out(end) - start)
        old = joined.narrow(dim, start, shared)
        ramp = fade(shared).to(piece).reshape(-1, *[1] * (-dim - 1))
        faded = torch.lerp(old, piece.narrow(dim, 0, shared), ramp)
        old.copy_(faded)
        rest = piece.shape[dim] - shared
        joined.narrow(dim, start + shared, rest).copy_(piece.narrow(dim, shared, rest))
    return joined


def fade(shared: int) -> Tensor:
    """The weight of the later of two tiles over the ``shared`` cells: 0 in the first third, then rising, 1 in the last third."""
    return ((torch.arange(shared) + 0.5) / max(shared, 1) * 3 - 1).clamp(0, 1)
