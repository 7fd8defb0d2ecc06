"""What is masked made softer, cleaner, whole or small: MASK tensors [B,h,w]; what is given may also be [h,w] or [B,1,h,w]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion import pictures
from nodes.diffusion.filters import separable
from nodes.diffusion.masks import checked, grown
from nodes.diffusion.resize import resize


def bell(size: int) -> Tensor:
    """A Gaussian of ``size`` pixels, made odd; its sigma follows from them as 0.15 size + 0.35. Its sum is 1."""
    reach = size // 2
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    sigma = 0.15 * (2 * reach + 1) + 0.35
    weights = torch.exp(-(axis**2) / (2 * sigma**2))
    return weights / weights.sum()


def blurred(mask: Tensor, size: int) -> Tensor:
    """Under ``bell``, mirrored at the border; of 0 pixels as it is."""
    planes = checked(mask)
    return separable(planes, bell(size)) if size > 0 else planes


def smoothed(mask: Tensor, size: int) -> Tensor:
    """What is more than a half, blurred; of 0 pixels as it is."""
    return blurred((checked(mask) > 0.5).float(), size) if size > 0 else checked(mask)


def flipped(mask: Tensor, axis: str) -> Tensor:
    """Mirrored along each axis that is named, ``x`` from left to right, ``y`` from top to bottom."""
    return checked(mask).flip([dimension for name, dimension in (("y", 1), ("x", 2)) if name in axis])


def of_colour(image: Tensor, colour: tuple[int, int, int], tolerance: int) -> Tensor:
    """1 where every channel of a picture [B,H,W,C] is at most ``tolerance`` of 255 levels from ``colour``."""
    levels = (image[..., :3].clamp(0, 1) * 255).round()
    return ((levels - torch.tensor(colour)).abs() <= tolerance).all(-1).float()


def _each(mask: Tensor, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Tensor:
    planes = [change(plane.cpu().numpy().astype(np.float32)) for plane in checked(mask)]
    return torch.from_numpy(np.stack(planes).astype(np.float32))


def filled(mask: Tensor) -> Tensor:
    """Holes filled: what is not masked at all and cannot be reached from the border, neighbours being the four beside a pixel.

    What is masked in part keeps its value, and a hole gets the largest of the mask.
    """

    def fill(plane: NDArray[Any]) -> NDArray[Any]:
        there = plane > 0
        holes = ndimage.binary_fill_holes(there) & ~there
        return np.where(holes, plane.max(initial=0.0), plane)

    return _each(mask, fill)


def repaired(mask: Tensor, *, grow: int, close: int, open_: int, smooth: int, blur: int) -> Tensor:
    """Grown (shrunk where negative), closed, opened, smoothed and blurred, each where it is not 0.

    The first three are grey morphology with squares of so many pixels, mirrored at the border (Serra, "Image analysis and mathematical
    morphology", 1982): closing fills holes that are smaller, opening takes away spots that are.
    """
    square = (abs(grow), abs(grow))
    result = checked(mask)
    if grow > 0:
        result = _each(result, lambda plane: ndimage.grey_dilation(plane, size=square))
    elif grow < 0:
        result = _each(result, lambda plane: ndimage.grey_erosion(plane, size=square))
    if close:
        result = _each(result, lambda plane: ndimage.grey_closing(plane, size=(close, close)))
    if open_:
        result = _each(result, lambda plane: ndimage.grey_opening(plane, size=(open_, open_)))
    return blurred(smoothed(result, smooth), blur)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    x: int
    y: int
    width: int
    height: int


def bounds(mask: Tensor, padding: int = 0) -> Box:
    """The smallest rectangle that holds all that is masked at all, in any mask of the batch, and ``padding`` around it inside the mask.

    Raises InputError where nothing is masked.
    """
    planes = checked(mask)
    found = planes.amax(0) > 0
    if not found.any():
        raise InputError(
            f"expected a mask with something masked, found one of {planes.shape[2]} x {planes.shape[1]} pixels in which "
            "nothing is; check what made it, or invert it",
            input="mask",
        )
    top, bottom = _ends(found.any(1), padding)
    left, right = _ends(found.any(0), padding)
    return Box(left, top, right - left, bottom - top)


def _ends(line: Tensor, padding: int) -> tuple[int, int]:
    places = line.nonzero()
    return max(0, int(places[0]) - padding), min(len(line), int(places[-1]) + 1 + padding)


def cut_out(mask: Tensor, image: Tensor | None, *, padding: int, blur: int) -> tuple[Tensor, Tensor, Box]:
    """The mask (blurred first) and the picture within ``bounds``, and where that was.

    A picture of another size is brought to the mask's, its middle cut out; the last is repeated, or some left out, to match the batch.
    Without a picture it is the mask in grey.
    """
    planes = checked(mask)
    if image is None:
        image = planes[..., None].expand(-1, -1, -1, 3)
    image = pictures.scale(image, planes.shape[2], planes.shape[1], "bicubic", "center")[: len(planes)].clamp(0, 1)
    image = torch.cat([image, image[-1:].expand(len(planes) - len(image), -1, -1, -1)])
    soft = blurred(planes, blur)
    box = bounds(soft, padding)
    rows, columns = slice(box.y, box.y + box.height), slice(box.x, box.x + box.width)
    return soft[:, rows, columns].clone(), image[:, rows, columns].clone(), box


@dataclass(frozen=True, slots=True)
class Growth:
    """How ``grown_in_turn`` changes the masks of a batch, each after the one before."""

    expand: int
    faster: float = 0.0
    """Pixels more for each further mask."""
    tapered: bool = True
    keep: float = 1.0
    """How much of a mask is its own; the rest is what became of the one before."""
    decay: float = 1.0
    """Below 1: how much of what became of the one before is added."""
    fill: bool = False
    radius: float = 0.0
    """Sigma of the blur."""


def grown_in_turn(mask: Tensor, how: Growth) -> Tensor:
    """Masks grown, filled, mixed each with the one before, and blurred (by Pillow, in 8 bits)."""
    result = torch.cat(list(_grown_in_turn(checked(mask).float(), how)))
    return _each(result, lambda plane: _pillow_blur(plane, how.radius)) if how.radius else result


def _grown_in_turn(planes: Tensor, how: Growth) -> Iterator[Tensor]:
    before: Tensor | None = None
    step = float(how.expand)
    for plane in planes:
        now = grown(plane, round(step), tapered=how.tapered)
        step += -abs(how.faster) if step < 0 else abs(how.faster)
        if how.fill:
            now = filled((now > 0).float())
        if before is not None and how.keep < 1:
            now = how.keep * now + (1 - how.keep) * before
        if before is not None and how.decay < 1:
            now = now + how.decay * before
            now = now / now.max().clamp(min=1e-12)
        before = now
        yield now


def _pillow_blur(plane: NDArray[Any], radius: float) -> NDArray[Any]:
    levels = Image.fromarray((255.0 * plane).clip(0, 255).astype(np.uint8))
    return np.asarray(levels.filter(ImageFilter.GaussianBlur(radius))).astype(np.float32) / 255.0


def sized(mask: Tensor, width: int, height: int, *, method: str, crop: str, keep_aspect: bool) -> Tensor:
    """At another size. A side of 0 stays as it is where the aspect is kept, else it follows from the other, as of pictures."""
    planes = checked(mask)
    tall, wide = planes.shape[1:]
    if keep_aspect:
        factor = min((width or wide) / wide, (height or tall) / tall)
        width, height = max(1, round(wide * factor)), max(1, round(tall * factor))
    elif width or height:
        width, height = pictures.missing_side(width, height, planes)
    else:
        return planes
    return resize(planes[:, None], width, height, method, crop)[:, 0].clamp(0, 1)


def joined(first: Tensor, second: Tensor) -> Tensor:
    """Two batches in one; the second is brought to the first's size, its middle cut out."""
    one, other = checked(first, "mask1"), checked(second, "mask2")
    return torch.cat([one, resize(other[:, None], one.shape[2], one.shape[1], "bicubic", "center")[:, 0].clamp(0, 1)])
