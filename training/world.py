"""The world of the demo model: one flat shape on a plain ground, drawn in batches from signed distances.

Lengths are in half sides of the picture: x runs from -1 (left) to 1 (right), y from -1 (top) to 1 (bottom), so one scene
can be drawn at any resolution. The distance formulas are plain geometry; only their zero set has to be exact, because
the drawing looks at nothing further than half a pixel from the outline.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 215, 50),
    "purple": (140, 60, 170),
    "orange": (245, 140, 40),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
COLOURS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
PLACES = ("", "left", "right", "top", "bottom", "center")

SIZES = ("", "small", "large")

RADII = ((0.42, 0.58), (0.27, 0.35), (0.62, 0.70))
"""Radii of shapes by size; the first are those of captions that name none."""
PLACED_RADII = ((0.36, 0.46), (0.24, 0.31))
"""Radii of shapes with a place: small enough that the place shows, so none is large."""
DIRECTIONS = ((0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (0.0, 0.0))
DISTANCES = (0.34, 0.46)
"""How far from the middle a place is."""
JITTER = 0.12
"""How far a centre may lie from where the caption puts it, on each axis."""


class Combo(NamedTuple):
    """What every caption can name: numbers in COLOURS, SHAPES and again COLOURS."""

    colour: int
    shape: int
    ground: int


COMBOS = tuple(
    Combo(colour, shape, ground)
    for colour in range(len(COLOURS))
    for shape in range(len(SHAPES))
    for ground in range(len(COLOURS))
    if colour != ground
)


def _shuffled(seed: int) -> list[Combo]:
    combos = list(COMBOS)
    random.Random(seed).shuffle(combos)
    return combos


HELD_OUT = tuple(_shuffled(seed=20)[:32])
"""Combinations that the denoiser never sees in training."""
TRAINED = tuple(combo for combo in COMBOS if combo not in set(HELD_OUT))


@dataclass(frozen=True, slots=True)
class Scenes:
    """A batch of N scenes.

    combo: (N, 3) numbers as in Combo; place and size: (N,) numbers in PLACES and SIZES, 0 where the caption names none;
    centre: (N, 2) x and y; radius: (N,).
    """

    combo: Tensor
    place: Tensor
    size: Tensor
    centre: Tensor
    radius: Tensor

    def __len__(self) -> int:
        return len(self.radius)

    def __getitem__(self, chosen: Tensor | slice) -> Scenes:
        return Scenes(*(getattr(self, it.name)[chosen] for it in fields(self)))

    @property
    def meanings(self) -> Tensor:
        """(N, 5) what captions say of the scenes, columns as in Meaning."""
        return torch.cat([self.combo, self.place[:, None], self.size[:, None]], 1)

    @classmethod
    def unnamed(cls, combo: Tensor, centre: Tensor, radius: Tensor) -> Scenes:
        """Scenes of any size anywhere, of which a caption would name neither."""
        nothing = torch.zeros(len(radius), dtype=torch.int64)
        return cls(combo, nothing, nothing, centre, radius)


def _between(bounds: Tensor, generator: torch.Generator) -> Tensor:
    """Draw between the two bounds in each row of (..., 2)."""
    return torch.lerp(bounds[..., 0], bounds[..., 1], torch.rand(bounds.shape[:-1], generator=generator))


def draw_scenes(
    count: int,
    generator: torch.Generator,
    combos: Sequence[Combo] = TRAINED,
    placed: float = 0.0,
    sized: float = 0.0,
) -> Scenes:
    """Draw scenes at random; `placed` and `sized` are the shares of those whose place or size is to be named."""
    combo = torch.tensor(combos)[torch.randint(len(combos), (count,), generator=generator)]
    place = torch.randint(1, len(PLACES), (count,), generator=generator)
    size = torch.randint(1, len(SIZES), (count,), generator=generator)
    place = place * (torch.rand(count, generator=generator) < placed)
    size = size * (torch.rand(count, generator=generator) < sized)
    return arrange(combo, place, torch.where(place > 0, size.clamp(max=len(PLACED_RADII) - 1), size), generator)


def arrange(combo: Tensor, place: Tensor, size: Tensor, generator: torch.Generator) -> Scenes:
    """Draw centres and radii that agree with the given places and sizes."""
    bounds = torch.tensor([*RADII, *PLACED_RADII])[size + len(RADII) * (place > 0)]
    radius = _between(bounds, generator)
    distance = _between(torch.tensor(DISTANCES).expand(len(place), 2), generator)
    jitter = _between(torch.tensor((-JITTER, JITTER)).expand(len(place), 2, 2), generator)
    centre = torch.tensor(DIRECTIONS)[place] * distance[:, None] + jitter
    return Scenes(combo, place, size, centre, radius)


ANYWHERE = (0.25, 0.62)
"""Radii of scattered shapes."""


def scatter(scenes: Scenes, share: float, generator: torch.Generator) -> Scenes:
    """Put a share of the scenes that name neither place nor size anywhere in the picture, in any size that fits."""
    count = len(scenes)
    free = (torch.rand(count, generator=generator) < share) & (scenes.place == 0) & (scenes.size == 0)
    radius = _between(torch.tensor(ANYWHERE).expand(count, 2), generator)
    room = (0.96 - 1.2 * radius).clamp(min=0)[:, None]
    centre = (torch.rand(count, 2, generator=generator) * 2 - 1) * room
    return replace(
        scenes,
        centre=torch.where(free[:, None], centre, scenes.centre),
        radius=torch.where(free, radius, scenes.radius),
    )


def _regular(count: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
    angles = [turn + 2 * math.pi * k / count for k in range(count)]
    return [(radius * math.sin(a), -radius * math.cos(a)) for a in angles]


def _star(radius: float, waist: float) -> list[tuple[float, float]]:
    tips, notches = _regular(5, radius), _regular(5, radius * waist, turn=math.pi / 5)
    return [corner for pair in zip(tips, notches, strict=True) for corner in pair]


def _polygon(corners: list[tuple[float, float]]) -> Callable[[Tensor, Tensor], Tensor]:
    """Signed distance to a polygon: distance to the nearest edge, negative where a ray crosses edges an odd number of times."""

    def distance(x: Tensor, y: Tensor) -> Tensor:
        nearest = torch.full_like(x, math.inf)
        inside = torch.zeros_like(x, dtype=torch.bool)
        for (ax, ay), (bx, by) in pairwise([*corners, corners[0]]):
            ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
            along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0, 1)
            nearest = torch.minimum(nearest, (px - ex * along) ** 2 + (py - ey * along) ** 2)
            if ey:
                inside ^= ((ay > y) != (by > y)) & (px < py * (ex / ey))
        return torch.where(inside, -1.0, 1.0) * nearest.sqrt()

    return distance


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.76).abs() - 0.26


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square standing on a corner, and a half disc on each of its two upper sides."""
    half, lift = 0.62, 0.22
    y = y - lift
    square = torch.maximum((x + y).abs(), (x - y).abs()) / math.sqrt(2) - half
    offset = half / math.sqrt(2)
    lobe = torch.hypot(x.abs() - offset, y + offset) - half
    return torch.minimum(square, lobe)


OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _polygon([(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]),
    "triangle": _polygon([(x, y + 0.22) for x, y in _regular(3, 1.22)]),
    "star": _polygon([(x, y + 0.08) for x, y in _star(1.16, waist=0.46)]),
    "heart": _heart,
    "ring": _ring,
}
"""Signed distance to each shape of radius 1, negative inside, as a function of x and y."""


def grid(side: int) -> tuple[Tensor, Tensor]:
    """x and y (side, side) of the middles of pixels."""
    steps = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return x, y


def distances(scenes: Scenes, side: int) -> Tensor:
    """(N, side, side): signed distance in half sides of each pixel's middle to the shape, negative inside."""
    x, y = grid(side)
    distance = torch.empty(len(scenes), side, side)
    for number, name in enumerate(SHAPES):
        rows = (scenes.combo[:, 1] == number).nonzero().flatten()
        radius = scenes.radius[rows].view(-1, 1, 1)
        centre = scenes.centre[rows].view(-1, 2, 1, 1)
        distance[rows] = OUTLINES[name]((x - centre[:, 0]) / radius, (y - centre[:, 1]) / radius) * radius
    return distance


def covered(distance: Tensor) -> Tensor:
    """How much of each pixel lies within a signed distance (N, side, side) of 0, from 0 to 1, with a ramp one pixel wide."""
    return (0.5 - distance * distance.shape[-1] / 2).clamp(0, 1)


def coverage(scenes: Scenes, side: int) -> Tensor:
    """(N, side, side): how much of each pixel the shape covers, 0 to 1."""
    return covered(distances(scenes, side))


def render(scenes: Scenes, side: int) -> Tensor:
    """(N, 3, side, side) pictures in [-1, 1], in the palette's exact colours."""
    return painted(scenes, coverage(scenes, side))


def painted(scenes: Scenes, cover: Tensor) -> Tensor:
    """(N, 3, H, W) pictures: the scenes' ground, and their colour where `cover` (N, H, W) says."""
    palette = torch.tensor(list(PALETTE.values()), dtype=torch.float32) / 127.5 - 1
    ink, ground = palette[scenes.combo[:, 0]], palette[scenes.combo[:, 2]]
    return blend(ground[:, :, None, None].expand(-1, -1, *cover.shape[1:]), ink, cover)


def blend(picture: Tensor, ink: Tensor, mask: Tensor) -> Tensor:
    """Paint `ink` (N, 3) over (N, 3, H, W) pictures where `mask` (N, H, W) covers them."""
    return torch.lerp(picture, ink[:, :, None, None], mask[:, None])


def to_bytes(pictures: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1] to (N, H, W, 3) uint8."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
