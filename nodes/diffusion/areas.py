"""Where in the picture a prompt holds, and how strongly: areas of the latent and masks over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from engine.errors import InputError

FADE: Final = 8
"""Latent cells over which an area fades at its inner edges."""


class Area(NamedTuple):
    """A rectangle of the latent, in cells."""

    height: int
    width: int
    y: int
    x: int

    def of(self, picture: Tensor) -> Tensor:
        """The part of ``picture`` [...,h,w] that it covers."""
        return picture[..., self.y : self.y + self.height, self.x : self.x + self.width]

    def contains(self, other: Area) -> bool:
        below = other.y + other.height <= self.y + self.height and other.x + other.width <= self.x + self.width
        return self.y <= other.y and self.x <= other.x and below

    @property
    def size(self) -> int:
        return self.height * self.width


def mask_of(options: Mapping[str, Any], height: int, width: int, device: torch.device) -> Tensor | None:
    """The entry's mask, [1 or B,h,w], at the latent's size."""
    mask: Tensor | None = options.get("mask")
    if mask is None:
        return None
    mask = mask.to(device, torch.float32)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.shape[-2:] == (height, width):
        return mask
    return interpolate(mask[:, None], size=(height, width), mode="bilinear")[:, 0]


def area_of(options: Mapping[str, Any], mask: Tensor | None, height: int, width: int) -> Area | None:
    """The area that an entry asks for in a latent of so many cells; None for all of it. Raises InputError for one outside."""
    if mask is not None and options.get("set_area_to_bounds", False):
        return _fitted(bounds(mask), height, width)
    given = options.get("area")
    if given is None:
        return None
    if given[0] == "percentage":
        h, w, y, x = given[1:]
        given = (max(1, round(h * height)), max(1, round(w * width)), round(y * height), round(x * width))
    elif given[2] >= height or given[3] >= width:
        raise InputError(
            f"expected the area of a prompt to begin inside the picture of {width} x {height} latent cells, "
            f"found one that begins at cell ({given[3]}, {given[2]}); a cell is 8 pixels, move the area or enlarge the picture"
        )
    return _fitted(Area(*given), height, width)


def _fitted(area: Area, height: int, width: int) -> Area:
    """``area`` moved and cut so that it lies in the latent and is not empty."""
    y, x = min(area.y, height - 1), min(area.x, width - 1)
    return Area(min(area.height, height - y), min(area.width, width - x), y, x)


def bounds(mask: Tensor) -> Area:
    """The bounding box of what is not zero in ``mask`` [B,h,w], at least 8 cells wide and high."""
    marked = mask.abs().amax(dim=0) > 0
    rows, columns = marked.any(dim=1).nonzero(), marked.any(dim=0).nonzero()
    if len(rows) == 0:
        return Area(8, 8, 0, 0)
    y, x = int(rows[0]), int(columns[0])
    return Area(max(8, int(rows[-1]) - y + 1), max(8, int(columns[-1]) - x + 1), y, x)


def weight_of(
    options: Mapping[str, Any], mask: Tensor | None, area: Area | None, height: int, width: int, device: torch.device
) -> Tensor | None:
    """How much an entry counts in each cell of its area, [1 or B,1,h,w]; None for 1 everywhere."""
    strength = float(options.get("strength", 1.0))
    if mask is not None:
        inside = mask if area is None else area.of(mask)
        return inside[:, None] * (float(options.get("mask_strength", 1.0)) * strength)
    if area is not None:
        return faded(area, height, width).to(device)[None, None] * strength
    return None if strength == 1.0 else torch.full((1, 1, height, width), strength, device=device)


def faded(area: Area, height: int, width: int) -> Tensor:
    """Ones over ``area`` [h,w] that fall linearly over at most 8 cells, or a quarter of it, at edges inside the
    picture."""
    rows = _ramp(area.height, before=area.y != 0, after=area.y + area.height < height)
    columns = _ramp(area.width, before=area.x != 0, after=area.x + area.width < width)
    return rows[:, None] * columns[None, :]


def _ramp(size: int, *, before: bool, after: bool) -> Tensor:
    ramp = torch.ones(size)
    cells = min(FADE, size // 4)
    rise = torch.arange(1, cells + 1) / max(cells, 1)
    if before:
        ramp[:cells] *= rise
    if after:
        ramp[size - cells :] *= rise.flip(0)
    return ramp
