"""Pictures [B,H,W,C] placed on others, beside others and on larger grounds."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.errors import InputError
from nodes.diffusion.compositing import pasted, stretched_to
from nodes.diffusion.masks import resized
from nodes.diffusion.pictures import scale

COLOURS: Final = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
}


def laid_over(
    destination: Tensor, source: Tensor, x: int, y: int, *, mask: Tensor | None, resize_source: bool
) -> Tensor:
    """``source`` over ``destination`` at (x, y) as far as ``mask`` says. It loses channels the other lacks, and gets opaque alpha."""
    source = _with_channels(source[..., : destination.shape[-1]], destination.shape[-1])
    below, above = destination.movedim(-1, 1), source.movedim(-1, 1)
    if resize_source:
        above = stretched_to(above, below)
    return pasted(below, above, x, y, mask).movedim(1, -1).contiguous()


def _with_channels(image: Tensor, channels: int) -> Tensor:
    """With alpha 1 where it is missing."""
    return pad(image, (0, channels - image.shape[-1]), value=1.0)


def split_alpha(image: Tensor) -> tuple[Tensor, Tensor]:
    """The colours [B,H,W,3], and 1 - alpha [B,H,W], which is 0 where there is no alpha."""
    alpha = image[..., 3] if image.shape[-1] > 3 else torch.ones(image.shape[:-1])
    return image[..., :3].clone(), 1.0 - alpha


def join_alpha(image: Tensor, mask: Tensor) -> Tensor:
    """[B,H,W,4] with alpha 1 - ``mask``, fitted to the picture. As many as the shorter batch has."""
    alpha = 1.0 - resized(mask, *image.shape[1:3])
    count = min(len(image), len(alpha))
    return torch.cat([image[:count, ..., :3], alpha[:count, ..., None]], dim=-1)


def crop(image: Tensor, *, x: int, y: int, width: int, height: int) -> Tensor:
    """A rectangle; it begins at the last pixel at the latest and ends where the picture does."""
    left, top = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return image[:, top : top + height, left : left + width].clone()


def to_total_pixels(image: Tensor, megapixels: float, method: str) -> Tensor:
    """At ``megapixels`` times 1024 x 1024 pixels, the aspect kept."""
    height, width = image.shape[1:3]
    factor = math.sqrt(int(megapixels * 1024 * 1024) / (width * height))
    return scale(image, max(1, round(width * factor)), max(1, round(height * factor)), method)


def to_largest_side(image: Tensor, largest: int, method: str) -> Tensor:
    """With its longer side at ``largest`` pixels, the aspect kept. Raises InputError for 0."""
    if largest == 0:
        raise InputError("expected a largest_size of at least 1 pixel, found 0", input="largest_size")
    height, width = image.shape[1:3]
    longer = max(height, width)
    return scale(image, max(1, round(width / longer * largest)), max(1, round(height / longer * largest)), method)


def fitted_into(image: Tensor, width: int, height: int, colour: str, method: str) -> Tensor:
    """Scaled to fit into ``width`` x ``height``, the aspect kept, in the middle of a ground of one colour."""
    tall, wide = image.shape[1:3]
    factor = min(width / wide, height / tall)
    small = scale(image, max(1, int(wide * factor)), max(1, int(tall * factor)), method)
    left, top = (width - small.shape[2]) // 2, (height - small.shape[1]) // 2
    sides = (left, width - small.shape[2] - left, top, height - small.shape[1] - top)
    return pad(small, (0, 0, *sides), value=COLOURS[colour][0])


def stitched(first: Tensor, second: Tensor, direction: str, *, match_size: bool, spacing: int, colour: str) -> Tensor:
    """Two batches side by side, ``second`` to the ``direction`` of ``first``, ``spacing`` pixels (made even) of ``colour`` between.

    With ``match_size`` the second is scaled to the first's height or width, else both get bars up to the larger: white ones where
    ``colour`` is white, else black ones. A shorter batch goes on with its last picture; alpha that one lacks is opaque.
    """
    across = direction in ("left", "right")
    count = max(len(first), len(second))
    first, second = (_lasting(image, count) for image in (first, second))
    if match_size:
        second = _matching(second, first, across)
    side = 1 if across else 2
    longest = max(first.shape[side], second.shape[side])
    channels = max(first.shape[-1], second.shape[-1])
    ground = 1.0 if colour == "white" else 0.0
    first, second = (_with_channels(_barred(image, side, longest, ground), channels) for image in (first, second))
    parts = [first, second] if direction in ("right", "down") else [second, first]
    if spacing:
        parts.insert(1, _gap(first, side, spacing + spacing % 2, colour))
    return torch.cat(parts, dim=3 - side)


def _lasting(image: Tensor, count: int) -> Tensor:
    return torch.cat([image, image[-1:].expand(count - len(image), -1, -1, -1)])


def _matching(image: Tensor, like: Tensor, across: bool) -> Tensor:
    # the quotient is rounded before the side is cut to a whole one: 49 to a 49th is 0.99..., and one pixel less
    aspect = image.shape[2] / image.shape[1]
    if across:
        return scale(image, max(1, int(like.shape[1] * aspect)), like.shape[1], "lanczos")
    return scale(image, like.shape[2], max(1, int(like.shape[2] / aspect)), "lanczos")


def _barred(image: Tensor, side: int, length: int, ground: float) -> Tensor:
    missing = length - image.shape[side]
    bars = (missing // 2, missing - missing // 2)
    return pad(image, (0, 0, 0, 0, *bars) if side == 1 else (0, 0, *bars), value=ground)


def _gap(like: Tensor, side: int, size: int, colour: str) -> Tensor:
    shape = list(like.shape[:3])
    shape[3 - side] = size
    pixel = torch.tensor([*COLOURS[colour], 1.0])[: like.shape[-1]]
    return pixel.expand(*shape, like.shape[-1])
