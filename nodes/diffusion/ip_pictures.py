"""Pictures made ready to be prompts: squared, sharpened, cut in tiles, or made of noise."""

from __future__ import annotations

import math
from itertools import product
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from nodes.diffusion.masks import resized

SIDE: Final = 224
"""Pixels along the side of what most of CLIP's image encoders see."""

TILE: Final = 256
MOST_TILES: Final = 4
"""In a row of tiles."""
_NEARLY_SQUARE: Final = 4 / 3
"""A picture whose longer side is less than so many times the other is nearly square."""

CropPosition = Literal["top", "bottom", "left", "right", "center", "pad"]
NoiseKind = Literal["fade", "dissolve", "gaussian", "shuffle"]


def squared(pictures: Tensor, method: str, position: CropPosition, sharpening: float, side: int = SIDE) -> Tensor:
    """Pictures [B,H,W,C] as squares of ``side`` pixels: the part at ``position``, or all of it between black bars.

    ``method`` is one of Pillow's resamplings; ``sharpening`` (0..1) is for ``sharpened``.
    """
    height, width = pictures.shape[1:3]
    planes = pictures.movedim(-1, 1)
    if position == "pad":
        bars = max(0, height - width) // 2, max(0, width - height) // 2
        planes = pad(planes, (bars[0], bars[0], bars[1], bars[1]))
    else:
        least = min(height, width)
        top = {"top": 0, "bottom": height - least}.get(position, (height - least) // 2)
        left = {"left": 0, "right": width - least}.get(position, (width - least) // 2)
        planes = planes[..., top : top + least, left : left + least]
    planes = _resampled(planes, side, side, method)
    return (sharpened(planes, sharpening) if sharpening > 0 else planes).movedim(1, -1)


def _resampled(planes: Tensor, height: int, width: int, method: str) -> Tensor:
    """Planes [B,C,h,w] at another size, in 256 levels, by Pillow."""
    levels = (planes.movedim(1, -1).cpu().numpy() * 255.0).clip(0, 255).astype(np.uint8)
    single = levels.shape[-1] == 1
    images = (
        Image.fromarray(it[..., 0] if single else it).resize((width, height), Image.Resampling[method]) for it in levels
    )
    found = torch.from_numpy(np.stack([np.asarray(it) for it in images]).astype(np.float32) / 255.0)
    return found[:, None] if single else found.movedim(-1, 1)


def sharpened(planes: Tensor, amount: float) -> Tensor:
    """Planes [B,C,h,w] of values in 0..1, sharper by ``amount`` (0..1): the less contrast is around a pixel, the more.

    AMD FidelityFX, "Contrast Adaptive Sharpening" (ffx_cas.h: no scaling, better diagonals, each colour by itself). Outside it is black.
    """
    window = (
        pad(planes, (1, 1, 1, 1)).unfold(-2, 3, 1).unfold(-2, 3, 1).flatten(-2)
    )  # row by row, the pixel is the fifth
    beside = window[..., 1::2]
    plus = torch.cat([beside, planes[..., None]], -1)
    least, most = plus.amin(-1) + window.amin(-1), plus.amax(-1) + window.amax(-1)
    room = (torch.minimum(least, 2 - most) / most).nan_to_num().clamp(0, 1)
    weight = -room.sqrt() / torch.lerp(torch.tensor(8.0), torch.tensor(5.0), amount)
    return ((planes + weight * beside.sum(-1)) / (1 + 4 * weight)).clamp(0, 1)


def noise(kind: NoiseKind, strength: float, blur: int, pictures: Tensor | None) -> Tensor:
    """A picture [B,224,224,3] for the negative side: ``pictures`` under noise of ``strength`` (0..1), or black under it.

    The noise follows from the picture, so it can be made again. ``blur`` is the width of a Gaussian in pixels.
    """
    source = torch.zeros(1, 3, SIDE, SIDE) if pictures is None else _middle(pictures)
    image = source.movedim(1, -1)
    draw = torch.Generator().manual_seed(int(image.sum().item()) % 1_000_000_007)
    shape = image.shape
    if kind == "fade":
        found = image * (1 - strength) + torch.rand(shape, generator=draw) * strength
    elif kind == "dissolve":
        mask = (torch.rand(shape, generator=draw) < strength).float()
        found = image * (1 - mask) + torch.rand(shape, generator=draw) * mask
    elif kind == "gaussian":
        found = image + torch.randn(shape, generator=draw) * strength
    else:
        shuffled = _shuffled(source, (1 - strength) * 3.5, draw).movedim(1, -1)
        over = torch.randn(shape, generator=draw) * (strength * 0.75)
        found = shuffled * (1 - over) + over
    found = found.clamp(0, 1)
    return found if blur == 0 else _blurred(found.movedim(-1, 1), blur + 1 - blur % 2).movedim(1, -1)


def _middle(pictures: Tensor) -> Tensor:
    """The middle squares of pictures, [B,3,224,224]."""
    height, width = pictures.shape[1:3]
    least = min(height, width)
    top, left = (round((side - least) / 2) for side in (height, width))
    planes = pictures[:, top : top + least, left : left + least, :3].movedim(-1, 1).float().cpu()
    return interpolate(planes, size=(SIDE, SIDE), mode="bicubic", antialias=True)


def _shuffled(planes: Tensor, sigma: float, draw: torch.Generator) -> Tensor:
    """Planes moved about by a random field, of 75 pixels, that is smooth over ``sigma`` pixels, then turned upside down (Simard et al.
    2003, "Best Practices for Convolutional Neural Networks", elastic distortions)."""
    from torchvision.transforms.v2 import functional

    size = planes.shape[-2:]
    moves = [torch.rand(1, 1, *size, generator=draw) * 2 - 1 for _ in range(2)]
    if sigma > 0:
        kernel = int(8 * sigma + 1) | 1
        moves = [functional.gaussian_blur(it, [kernel, kernel], [sigma, sigma]) for it in moves]
    field = torch.cat([75.0 * it / side for it, side in zip(moves, size, strict=True)], 1).permute(0, 2, 3, 1)
    torch.rand(2, generator=draw)  # what deciding on two flips takes
    moved: Tensor = functional.elastic(planes, field)
    return moved.flip((-2, -1))


def _blurred(planes: Tensor, kernel: int) -> Tensor:
    from torchvision.transforms.v2 import functional

    found: Tensor = functional.gaussian_blur(planes, [kernel, kernel])
    return found


def tiles(pictures: Tensor, mask: Tensor | None, sharpening: float) -> tuple[list[Tensor], list[Tensor]]:
    """Pictures [B,H,W,C] cut in tiles of 256 pixels, and for each its place as a mask [m,h,w] of the whole, within ``mask`` [m,h,w].

    What is nearly square becomes four tiles of the middle square; all else a row of at most four along its longer side, which overlap
    where they do not fit side by side. Of what is longer than four tiles it is the middle.
    """
    height, width = pictures.shape[1:3]
    sides = _sides(height, width)
    planes = _resampled(_middle_part(pictures[..., :3].movedim(-1, 1), sides), *sides, "LANCZOS")
    if sharpening > 0:
        planes = sharpened(planes, sharpening)
    over = torch.ones(1, height, width) if mask is None else resized(mask.float().cpu(), height, width)
    over = resized(_middle_part(over, sides), *sides)
    cut: list[Tensor] = []
    places: list[Tensor] = []
    for top, left in product(*map(_starts, sides)):
        rows, columns = slice(top, top + TILE), slice(left, left + TILE)
        cut.append(planes[..., rows, columns].movedim(1, -1))
        place = torch.zeros_like(over)
        place[:, rows, columns] = over[:, rows, columns]
        places.append(place)
    return cut, places


def _sides(height: int, width: int) -> tuple[int, int]:
    """Height and width of what is cut in tiles, for a picture of this shape."""
    ratio = max(height, width) / min(height, width)
    if ratio < _NEARLY_SQUARE:
        return 2 * TILE, 2 * TILE
    length = round(TILE * min(ratio, MOST_TILES))
    return (TILE, length) if width > height else (length, TILE)


def _middle_part(planes: Tensor, shape: tuple[int, int]) -> Tensor:
    """The largest part [...,h,w] in the middle of planes [...,H,W] whose sides are to each other as those of ``shape``."""
    sides = planes.shape[-2:]
    scale = min(side / wanted for side, wanted in zip(sides, shape, strict=True))
    kept = (max(1, round(scale * wanted)) for wanted in shape)
    spans = [slice((side - part) // 2, (side - part) // 2 + part) for side, part in zip(sides, kept, strict=True)]
    return planes[..., spans[0], spans[1]]


def _starts(length: int) -> list[int]:
    """Where tiles begin that cover ``length`` pixels: as few as can, the first and the last at the ends, evenly apart."""
    count = math.ceil(length / TILE)
    return [round(index * (length - TILE) / max(1, count - 1)) for index in range(count)]


def batch(parts: list[Tensor]) -> Tensor:
    """Tiles or masks one behind the other."""
    return torch.cat(parts)
