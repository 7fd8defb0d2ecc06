"""MASK tensors: [B,h,w] float32, 1 = masked. What is given may also be [h,w] or [B,1,h,w]."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from engine.errors import InputError
from nodes.diffusion import pictures
from nodes.diffusion.conditioning import for_batch

CHANNELS: Final = ("red", "green", "blue", "alpha")


def checked(mask: Tensor, input: str = "mask") -> Tensor:
    """A mask ([h,w], [B,h,w] or [B,1,h,w]) as [B,h,w]. Raises InputError for one without pixels."""
    if 0 in mask.shape:
        raise InputError(f"expected a mask with pixels, found one of shape {list(mask.shape)}", input=input)
    return mask.reshape(-1, *mask.shape[-2:])


def resized(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask of any of these shapes at [B,height,width], bilinear."""
    planes = checked(mask)
    if planes.shape[1:] == (height, width):
        return planes
    return interpolate(planes[:, None], size=(height, width), mode="bilinear")[:, 0]


def read(path: Path, channel: str) -> Tensor:
    """A channel of a picture file as a mask [1,h,w]: a colour as it is, alpha as 1 - alpha. Of an animation the first frame."""
    image, mask = pictures.read(path, first_only=True, keyed=True)
    if channel != "alpha":
        return image[..., CHANNELS.index(channel)].clone()
    return mask if mask.shape == image.shape[:3] else torch.zeros(image.shape[:3])


def of_channel(image: Tensor, channel: str) -> Tensor:
    """A channel of pictures [B,H,W,C]. Raises InputError where they have none."""
    index = CHANNELS.index(channel)
    if index >= image.shape[-1]:
        raise InputError(
            f"expected a picture with a channel {channel}, found one of {image.shape[-1]} channels; choose another channel",
            input="channel",
        )
    return image[..., index].clone()


def of_colour(image: Tensor, colour: int) -> Tensor:
    """1 where a picture [B,H,W,C] has just this colour, 0xRRGGBB, in 8 bits."""
    wanted = torch.tensor([colour >> shift & 0xFF for shift in (16, 8, 0)])
    found = (image[..., :3].clamp(0, 1) * 255).round().long()
    return (found == wanted).all(-1).float()


def to_image(mask: Tensor) -> Tensor:
    """Grey pictures [B,h,w,3]."""
    return checked(mask)[..., None].expand(-1, -1, -1, 3).clone()


def solid(value: float, width: int, height: int) -> Tensor:
    """[1,height,width] of one value."""
    return torch.full((1, height, width), value)


def cropped(mask: Tensor, *, x: int, y: int, width: int, height: int) -> Tensor:
    """A rectangle; what it has beyond the mask is left out. Raises InputError where all of it is."""
    planes = checked(mask)
    if x >= planes.shape[2] or y >= planes.shape[1]:
        raise InputError(
            f"expected a rectangle that begins inside the mask of {planes.shape[2]} x {planes.shape[1]} pixels, "
            f"found one that begins at ({x}, {y})",
            input="x" if x >= planes.shape[2] else "y",
        )
    return planes[:, y : y + height, x : x + width].clone()


def _logical(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: operation(a.round().bool(), b.round().bool()).float()


_OPERATIONS: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "multiply": lambda a, b: a * b,
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "and": _logical(torch.logical_and),
    "or": _logical(torch.logical_or),
    "xor": _logical(torch.logical_xor),
}


def combined(destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> Tensor:
    """``destination`` with ``operation`` of both where ``source`` lies, its corner at (x, y); cut off outside, and to 0..1.

    multiply, add, subtract; and, or, xor of what rounds to 1. ``source`` is repeated in turn, or cut, to the destination's batch.
    """
    result = checked(destination, "destination").clone()
    place = result[:, y:, x:]
    laid = for_batch(checked(source, "source"), len(result))[:, : place.shape[1], : place.shape[2]]
    place = place[:, : laid.shape[1], : laid.shape[2]]
    place.copy_(_OPERATIONS[operation](place, laid))
    return result.clamp(0, 1)


def feathered(mask: Tensor, *, left: int, top: int, right: int, bottom: int) -> Tensor:
    """The mask fading out over so many pixels at its sides.

    At the left and the top the outermost counts ``1 / n``, the nth wholly. At the right and the bottom the count goes on from the other
    side, as pictures made so far have it: the first column counts ``1 / n``, the last ``2 / n``, the one before it ``3 / n``.
    """
    planes = checked(mask)
    rows = _fade(planes.shape[1], top) * _far_fade(planes.shape[1], bottom)
    columns = _fade(planes.shape[2], left) * _far_fade(planes.shape[2], right)
    return planes * columns * rows[:, None]


def _fade(size: int, pixels: int) -> Tensor:
    return (torch.arange(1, size + 1) / max(1, min(pixels, size))).clamp(max=1.0)


def _far_fade(size: int, pixels: int) -> Tensor:
    return _fade(size, pixels).flip(0).roll(1)


def grown(mask: Tensor, by: int, *, tapered: bool) -> Tensor:
    """Grey dilation ``by`` pixels, erosion where negative: each step takes the largest (smallest) of a pixel and its neighbours.

    Those are the four beside it where ``tapered``, so that a square's corners are cut, else all eight. Beyond the border there is
    nothing to take (Serra, "Image analysis and mathematical morphology", 1982).
    """
    planes = checked(mask)
    sign = 1.0 if by >= 0 else -1.0
    grey = planes[:, None] * sign
    # after as many steps as it takes to cross the mask nothing changes any more
    for _ in range(min(abs(by), sum(planes.shape[1:]))):
        if tapered:
            grey = torch.maximum(max_pool2d(grey, (3, 1), 1, (1, 0)), max_pool2d(grey, (1, 3), 1, (0, 1)))
        else:
            grey = max_pool2d(grey, 3, 1, 1)
    return grey[:, 0] * sign
