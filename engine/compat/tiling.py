"""Running a function over a tensor tile by tile, and putting the results together without seams."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Scale = float | Callable[[float], float]
"""How much longer a side of the result is, or what makes its length out of the source's."""


class Bar(Protocol):
    """What is told of each tile."""

    def update(self, value: float) -> None: ...


def step_count(size: int, tile: int, overlap: int) -> int:
    """How many tiles cover a side."""
    return 1 if size <= tile else math.ceil((size - overlap) / (tile - overlap))


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    if size <= tile:
        return [0]
    return [min(place * (tile - overlap), size - overlap) for place in range(step_count(size, tile, overlap))]


def _ramp(length: int, margin: int) -> Tensor:
    """Weights along a side: rising over ``margin`` cells, falling over the last as many."""
    place = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(place, place.flip(0)).div(margin + 1).clamp(max=1.0)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a tensor [B,C,sides...] is cut, and how large the pieces are in the result."""

    tile: tuple[int, ...]
    overlap: tuple[int, ...]
    lengths: tuple[Callable[[float], float], ...]
    """Per side: a length of the source to one of the result."""
    places: tuple[Callable[[float], float], ...]
    """Per side: a place of the source to one of the result."""

    def output_sides(self, sides: Sequence[int]) -> list[int]:
        return [round(length(side)) for length, side in zip(self.lengths, sides, strict=True)]

    def pieces(self, sides: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[int, ...]]]:
        """Where each tile lies in the source, and where what becomes of it begins in the result."""
        starts = [
            _starts(side, tile, overlap) for side, tile, overlap in zip(sides, self.tile, self.overlap, strict=True)
        ]
        for corner in itertools.product(*starts):
            source = tuple(
                slice(start, min(start + tile, side))
                for start, tile, side in zip(corner, self.tile, sides, strict=True)
            )
            yield source, tuple(round(place(start)) for place, start in zip(self.places, corner, strict=True))

    def weights(self, sides: Sequence[int]) -> Tensor:
        """The weight [1,1,sides...] of each cell of a result of a tile."""
        weight = torch.ones(1, 1, *([1] * len(sides)))
        for axis, (side, overlap, length) in enumerate(zip(sides, self.overlap, self.lengths, strict=True)):
            shape = [1] * (len(sides) + 2)
            shape[axis + 2] = side
            weight = weight * _ramp(side, round(length(overlap))).reshape(shape)
        return weight


def _per_side(value: Any, count: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * count


def _function(scale: Scale, divide: bool) -> Callable[[float], float]:
    if callable(scale):
        return scale
    return (lambda length: length / scale) if divide else (lambda length: length * scale)


def tiling(
    tile: Sequence[int], overlap: int | Sequence[int], scale: Any, *, divide: bool = False, places: Any = None
) -> Tiling:
    """``scale`` (and ``places``, where those differ) for all sides or for each; ``divide``: it says how much shorter a side becomes."""
    count = len(tile)
    lengths = tuple(_function(one, divide) for one in _per_side(scale, count))
    return Tiling(
        tile=tuple(tile),
        overlap=_per_side(overlap, count),
        lengths=lengths,
        places=lengths if places is None else tuple(_function(one, divide) for one in _per_side(places, count)),
    )


def apply(
    samples: Tensor,
    function: Callable[[Tensor], Tensor],
    cut: Tiling,
    channels: int,
    device: torch.device | str,
    bar: Bar | None,
) -> Tensor:
    """``function`` over each sample of [B,C,sides...], in tiles that fade into each other where they overlap."""
    sides = samples.shape[2:]
    result = torch.empty(samples.shape[0], channels, *cut.output_sides(sides), device=device)
    for index in range(samples.shape[0]):
        result[index : index + 1] = _one(samples[index : index + 1], function, cut, result[index : index + 1], bar)
    return result


def _one(sample: Tensor, function: Callable[[Tensor], Tensor], cut: Tiling, like: Tensor, bar: Bar | None) -> Tensor:
    total, weight = torch.zeros_like(like), torch.zeros_like(like[:, :1])
    for source, corner in cut.pieces(sample.shape[2:]):
        piece = function(sample[(slice(None), slice(None), *source)]).to(total)
        weights = cut.weights(piece.shape[2:]).to(total)
        place = [slice(start, start + side) for start, side in zip(corner, piece.shape[2:], strict=True)]
        total[(slice(None), slice(None), *place)] += piece * weights
        weight[(slice(None), slice(None), *place)] += weights
        if bar is not None:
            bar.update(1)
    return total / weight
