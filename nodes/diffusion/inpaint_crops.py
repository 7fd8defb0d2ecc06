"""Crops for inpainting from a picture and a mask; see ``nodes.diffusion.stitching``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.errors import InputError
from nodes.diffusion.conditioning import for_batch
from nodes.diffusion.stitching import (
    Filters,
    Piece,
    blurred,
    context_box,
    cut_out,
    expanded,
    fitted_mask,
    in_proportion,
    packed,
    together,
    up,
    with_holes_filled,
)
from nodes.diffusion.tiles import Box

Crop = tuple[dict[str, Any], Tensor, Tensor]
"""How to put crops back, the crops, and their masks."""

_CONTEXT: Final = "optional_context_mask"
"""What the nodes call the mask that says how much lies around."""


@dataclass(frozen=True, slots=True)
class Extension:
    """How much larger a picture becomes for outpainting, on each side in shares of its own: 1 is not at all."""

    up: float = 1.0
    down: float = 1.0
    left: float = 1.0
    right: float = 1.0


@dataclass(frozen=True, slots=True)
class Marks:
    """What is done to a mask before a picture is cropped around it."""

    fills_holes: bool = True
    expand: int = 0
    inverts: bool = False
    blend: int = 32
    least: float = 0.1

    def made(self, mask: Tensor) -> Tensor:
        """[B,h,w], grown and blurred by what blends it into the picture."""
        if self.fills_holes:
            mask = with_holes_filled(mask)
        mask = expanded(mask, self.expand)
        if self.inverts:
            mask = 1 - mask
        mask = blurred(expanded(mask, self.blend), self.blend * 0.5)
        return torch.where(mask < self.least, 0.0, mask)


@dataclass(frozen=True, slots=True)
class Limits:
    """The least and the most pixels that a picture is brought to before anything else; None for no such limit."""

    least: tuple[int, int] | None = None
    most: tuple[int, int] | None = None

    def factor(self, height: int, width: int) -> float:
        """How many times larger a picture is made. Raises InputError where the least are more than the most."""
        if self.least and self.most and any(low > high for low, high in zip(self.least, self.most, strict=True)):
            raise InputError(
                f"expected preresize_min of at most preresize_max, found {self.least[1]} x {self.least[0]} and "
                f"{self.most[1]} x {self.most[0]}",
                input="preresize_min_width",
            )
        factor = (
            max(1.0, *(low / side for low, side in zip(self.least, (height, width), strict=True)))
            if self.least
            else 1.0
        )
        if self.most:
            factor = min(factor, *(high / side for high, side in zip(self.most, (height, width), strict=True)))
        return factor


def _scaled(pictures: Tensor, masks: list[Tensor], factor: float, filters: Filters) -> tuple[Tensor, list[Tensor]]:
    if factor == 1:
        return pictures, masks
    height, width = (max(1, round(side * factor)) for side in pictures.shape[1:3])
    sized = filters.scaled(pictures.movedim(-1, 1), height, width).movedim(1, -1)
    nearest = Filters("nearest", "nearest")
    return sized, [nearest.scaled(mask[:, None], height, width)[:, 0] for mask in masks]


def extended(pictures: Tensor, mask: Tensor, by: Extension) -> tuple[Tensor, Tensor, tuple[int, int, int, int]]:
    """Pictures [B,H,W,C] with their edges repeated outwards, the mask [B,H,W] 1 there, and how many pixels: left, right, up, down."""
    height, width = pictures.shape[1:3]
    more = (
        int(width * (by.left - 1)),
        int(width * (by.right - 1)),
        int(height * (by.up - 1)),
        int(height * (by.down - 1)),
    )
    if min(height + more[2] + more[3], width + more[0] + more[1]) < 1:
        raise InputError(
            "expected a picture to be left, found factors that cut all of it off", input="extend_up_factor"
        )
    repeated = tuple(max(0, side) for side in more)
    planes = pad(pad(pictures.movedim(-1, 1), repeated, mode="replicate"), tuple(min(0, side) for side in more))
    return planes.movedim(1, -1).contiguous(), pad(mask, more, value=1.0), more


def improved(
    pictures: Tensor,
    mask: Tensor | None,
    context: Tensor | None,
    *,
    filters: Filters,
    marks: Marks,
    limits: Limits,
    extension: Extension | None,
    factor: float,
    target: tuple[int, int] | None,
    padding: int,
) -> Crop:
    """Crops around a mask, ``factor`` times as large as it, at ``target`` height and width or at their own, rounded up to ``padding``."""
    pictures = _many(pictures, mask)
    masks = [fitted_mask(mask, pictures), fitted_mask(context, pictures, _CONTEXT)]
    pictures, (marked, around) = _scaled(pictures, masks, limits.factor(*pictures.shape[1:3]), filters)
    marked = marks.made(marked)
    around = torch.where(around < marks.least, 0.0, around)
    if extension is not None:
        pictures, marked, more = extended(pictures, marked, extension)
        around = pad(around, more)
    pieces = []
    for picture, one, other in zip(pictures.split(1), marked, around, strict=True):
        box = context_box(one, other, factor=factor)
        height, width = (up(side, padding) for side in target or (box.height, box.width))
        through = blurred(one[None], marks.blend * 0.5)
        pieces.append(_piece(picture, one[None], through, box, height, width, filters, grows=target is None))
    return (packed(pieces, filters, marks.blend), *together(pieces))


def _many(pictures: Tensor, mask: Tensor | None) -> Tensor:
    """One picture for each mask."""
    count = 1 if mask is None or mask.ndim == 2 else len(mask)
    return for_batch(pictures, count) if len(pictures) == 1 and count > 1 else pictures


def _piece(
    picture: Tensor, mask: Tensor, blend: Tensor, box: Box, height: int, width: int, filters: Filters, *, grows: bool
) -> Piece:
    """With ``grows`` the cut itself becomes as large as the piece, so that nothing is scaled."""
    if grows:
        centre = Box(box.top, box.top + height, box.left, box.left + width)
        down, across = (height - box.height) // 2, (width - box.width) // 2
        moved = Box(centre.top - down, centre.bottom - down, centre.left - across, centre.right - across)
        box = _inside(moved, picture.shape[1], picture.shape[2])
    return cut_out(picture, mask, blend, box, height, width, filters)


def _inside(box: Box, height: int, width: int) -> Box:
    """``box`` moved into the picture, as far as it is not larger."""
    down = max(0, -box.top) - max(0, box.bottom - height) if box.height <= height else 0
    across = max(0, -box.left) - max(0, box.right - width) if box.width <= width else 0
    return Box(box.top + down, box.bottom + down, box.left + across, box.right + across)


@dataclass(frozen=True, slots=True)
class Sizing:
    """At which size a crop comes out of the older node: ``mode`` forced, ranged or free size, with what each of them goes by."""

    mode: str
    forced: tuple[int, int] = (1024, 1024)
    factor: float = 1.0
    least: tuple[int, int] = (512, 512)
    most: tuple[int, int] = (768, 768)
    padding: int = 32

    def of(self, box: Box) -> tuple[int, int]:
        """Height and width for what is cut out."""
        if self.mode == "forced size":
            return self.forced
        factor = self.factor
        if self.mode == "ranged size":
            factor = max(1.0, self.least[0] / box.height, self.least[1] / box.width)
            factor = min(factor, self.most[0] / box.height, self.most[1] / box.width)
        return up(max(1, round(box.height * factor)), self.padding), up(max(1, round(box.width * factor)), self.padding)


def older(
    pictures: Tensor,
    mask: Tensor,
    context: Tensor | None,
    *,
    algorithm: str,
    sizing: Sizing,
    fills_holes: bool,
    inverts: bool,
    blur: float,
    blend: float,
    factor: float,
    pixels: int,
) -> Crop:
    """Crops as InpaintCrop makes them: the mask's bounds ``factor`` times as large, ``pixels`` more on each side; or with ``context``."""
    filters = Filters(algorithm, algorithm)
    pictures = _many(pictures, mask)
    marked = fitted_mask(mask, pictures)
    if fills_holes:
        marked = with_holes_filled(marked)
    marked = blurred(expanded(marked, blur), blur)
    if inverts:
        marked = 1 - marked
    around = None if context is None else fitted_mask(context, pictures, _CONTEXT)
    pieces = []
    for index, (picture, one) in enumerate(zip(pictures.split(1), marked, strict=True)):
        grown = (1.0, 0) if around is not None else (factor, pixels)
        other = None if around is None else around[index]
        box = context_box(one, other, factor=grown[0], pixels=grown[1])
        height, width = sizing.of(box)
        if sizing.mode == "forced size":
            box = in_proportion(box, height, width, (picture.shape[1], picture.shape[2]))
        through = blurred(expanded(one[None], blend), blend)
        pieces.append(cut_out(picture, one[None], through, box, height, width, filters))
    return (packed(pieces, filters, blend), *together(pieces))
