"""Drawings for the image encoder's last training, which is to see many: shapes are drawn once, colours change every time.

Drawing a shape takes longer than learning from it. Half of the silhouettes are drawn at twice the encoder's side and made
smaller as it would make them; each step paints some of them, or their mirror images, in colours of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from training.config import SharpenRecipe
from training.world import COLOURS, COMBOS, Scenes, coverage, draw_scenes, painted

DRAWN_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class Silhouettes:
    """(N, side, side) of 0 to 255, how much of each pixel the shape covers, and the scenes that they were drawn for."""

    cover: Tensor
    scenes: Scenes

    def painted(self, count: int, generator: torch.Generator) -> tuple[Scenes, Tensor, Tensor]:
        """So many scenes in colours of their own, their pictures (count, 3, side, side), how much the shapes cover."""
        chosen = torch.randint(len(self.cover), (count,), generator=generator)
        scenes = recoloured(self.scenes[chosen], generator)
        cover = self.cover[chosen].float() / 255
        mirrored = torch.rand(count, 1, 1, generator=generator) < 0.5
        cover = torch.where(mirrored, cover.flip(-1), cover)
        return scenes, painted(scenes, cover), cover


def silhouettes(recipe: SharpenRecipe, side: int) -> Silhouettes:
    """The pool that a recipe asks for; all shapes are their own mirror images, so a flipped one is another place for it."""
    generator = torch.Generator().manual_seed(recipe.seed)
    scenes = draw_scenes(recipe.pool, generator, COMBOS, placed=recipe.placed, sized=recipe.sized)
    covers = []
    for start in range(0, recipe.pool, DRAWN_AT_ONCE):
        some = scenes[start : start + DRAWN_AT_ONCE]
        twice = start // DRAWN_AT_ONCE % 2 == 1
        cover = coverage(some, 2 * side if twice else side)[:, None]
        if twice:
            cover = functional.interpolate(cover, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
        covers.append((255 * cover[:, 0]).round().to(torch.uint8))
    return Silhouettes(torch.cat(covers), scenes)


def recoloured(scenes: Scenes, generator: torch.Generator) -> Scenes:
    """The same shapes in other colours and on other grounds, all pairs of two colours equally often."""
    count = len(scenes)
    colour = torch.randint(len(COLOURS), (count,), generator=generator)
    ground = (colour + 1 + torch.randint(len(COLOURS) - 1, (count,), generator=generator)) % len(COLOURS)
    combo = torch.stack([colour, scenes.combo[:, 1], ground], 1)
    return replace(scenes, combo=combo)
