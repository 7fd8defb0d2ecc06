"""HyperTile: self attention within parts of the picture, whose cost then grows with the picture and not with its square.

Queries are cut into tiles. The keys that the n-th tile looks at are the n-th of as many runs of tokens, row after row, which is what
ComfyUI's pictures were made with: with several tiles side by side a run is not the tile's own ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nodes.diffusion.alterations import Arguments, Moment, Wiring
from nodes.diffusion.unet_blocks import self_attentions


def tile_counts(side: int, smallest: int, most: int) -> list[int]:
    """Into how many equal tiles of at least ``smallest`` cells ``side`` may be cut: up to ``most`` ways, the smallest tiles first."""
    sizes = [size for size in range(min(smallest, side), side + 1) if side % size == 0]
    return [side // size for size in sizes[:most]]


def cut(tokens: Tensor, grid: tuple[int, int], tiles: tuple[int, int]) -> Tensor:
    """Tokens [B,h*w,C] of a ``grid`` (h,w) as [B*tiles,T,C], tile by tile."""
    (height, width), (down, across) = grid, tiles
    parts = tokens.reshape(len(tokens), down, height // down, across, width // across, -1)
    return parts.transpose(2, 3).reshape(len(tokens) * down * across, -1, tokens.shape[-1])


def joined(tokens: Tensor, grid: tuple[int, int], tiles: tuple[int, int]) -> Tensor:
    """The reverse of ``cut``."""
    (height, width), (down, across) = grid, tiles
    parts = tokens.reshape(-1, down, across, height // down, width // across, tokens.shape[-1])
    return parts.transpose(2, 3).reshape(-1, height * width, tokens.shape[-1])


def runs(tokens: Tensor, count: int) -> Tensor:
    """Tokens [B,T,C] as [B*count,T/count,C], one after the other."""
    return tokens.reshape(len(tokens) * count, -1, tokens.shape[-1])


Tiling = tuple[tuple[int, int], tuple[int, int]]
"""A grid (h,w) and into how many tiles it is cut down and across."""


@dataclass(frozen=True, slots=True)
class HyperTile:
    """Tiles of at least ``tile_size`` pixels, on the ``max_depth`` + 1 finest levels; with ``scale_depth`` they are, counted in
    cells, twice as large on each coarser one.

    With ``swap_size`` of 3 and more the tiling is drawn anew, in every layer of every step, from the ``swap_size - 1`` finest ones.
    Where there are two it is drawn from one, so that the numbers behind it are those that ComfyUI draws.
    """

    tile_size: int
    swap_size: int
    max_depth: int
    scale_depth: bool

    def install(self, wiring: Wiring, moment: Moment) -> None:
        for attention in self_attentions(wiring.network):
            self._tile(wiring, attention, moment)

    def tiling(self, tokens: int, moment: Moment) -> Tiling | None:
        """How as many tokens are cut, or None where they are no level that is to be.

        The grid has the sides of the picture in exchange, as in ComfyUI: one that is not square is cut along rows of another length.
        """
        for depth in range(self.max_depth + 1):
            scale: int = 2**depth
            if moment.height % scale or moment.width % scale:
                return None
            grid = moment.width // scale, moment.height // scale
            if tokens == grid[0] * grid[1]:
                smallest = max(32, self.tile_size) // 8 * (scale if self.scale_depth else 1)
                down, across = (
                    self._drawn(tile_counts(side, smallest, self.swap_size), moment.chance) for side in grid
                )
                return (grid, (down, across)) if down * across > 1 else None
        return None

    @staticmethod
    def _drawn(counts: list[int], chance: torch.Generator) -> int:
        return counts[0] if len(counts) == 1 else counts[int(torch.randint(len(counts) - 1, (1,), generator=chance))]

    def _tile(self, wiring: Wiring, attention: Any, moment: Moment) -> None:
        tiled: list[Tiling] = []

        def enter(tokens: Tensor, **kwargs: Any) -> Arguments:
            # where queries alone were merged they are no picture any more
            tiling = self.tiling(tokens.shape[1], moment) if kwargs["encoder_hidden_states"] is None else None
            if tiling is None:
                return (tokens,), kwargs
            tiled.append(tiling)
            down, across = tiling[1]
            return (cut(tokens, *tiling),), {**kwargs, "encoder_hidden_states": runs(tokens, down * across)}

        def leave(tokens: Tensor) -> Tensor:
            return joined(tokens, *tiled.pop()) if tiled else tokens

        wiring.rewire(attention, enter)
        wiring.after(attention, leave, first=True)
