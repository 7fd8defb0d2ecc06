"""Pictures [B,H,W,C] brought to a size in the ways people ask for: stretched, kept in proportion, filled, padded, on conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch import Tensor
from torch.nn.functional import pad

from engine.errors import InputError
from nodes.diffusion import pictures


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture becomes one of another size: scaled first, then cut out of the middle or put on black."""

    scaled: tuple[int, int]
    """Width and height."""
    final: tuple[int, int]


def fit(own: tuple[int, int], wanted: tuple[int, int], method: str) -> Fit:
    """For a picture of ``own`` width and height; a wanted side of 0 is whatever follows from the other, or the picture's own.

    ``method``: stretch, keep proportion (as large as fits), pad (the same, on black) or fill / crop (as small as covers, cut).
    """
    if method == "stretch":
        size = (wanted[0] or own[0], wanted[1] or own[1])
        return Fit(size, size)
    if method == "fill / crop":
        size = (wanted[0] or own[0], wanted[1] or own[1])
        return Fit(_times(own, max(size[0] / own[0], size[1] / own[1])), size)
    factors = [side / of for side, of in zip(wanted, own, strict=True) if side]
    scaled = _times(own, min(factors, default=1.0))
    return Fit(scaled, (wanted[0] or scaled[0], wanted[1] or scaled[1]) if method == "pad" else scaled)


def _times(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


CONDITIONS: Final[dict[str, Callable[[tuple[int, int], tuple[int, int]], bool]]] = {
    "always": lambda own, to: True,
    "downscale if bigger": lambda own, to: own[0] > to[0] or own[1] > to[1],
    "upscale if smaller": lambda own, to: own[0] < to[0] or own[1] < to[1],
    "if bigger area": lambda own, to: math.prod(own) > math.prod(to),
    "if smaller area": lambda own, to: math.prod(own) < math.prod(to),
}
"""Whether a picture of a size is to be scaled to another, both as width and height."""


def resized(
    image: Tensor, width: int, height: int, *, interpolation: str, method: str, condition: str, multiple: int
) -> Tensor:
    """``fit`` on a condition; with ``multiple`` above 1 the sides come to whole multiples, by cutting from all sides alike."""
    own = (image.shape[2], image.shape[1])
    if multiple > 1:
        width, height = width - width % multiple, height - height % multiple
    how = fit(own, (width, height), method)
    if CONDITIONS[condition](own, how.scaled):
        image = centred(pictures.scale(image, *how.scaled, interpolation), *how.final)
    if multiple > 1:
        image = _in_multiples(image, multiple)
    return image.clamp(0, 1)


def _in_multiples(image: Tensor, multiple: int) -> Tensor:
    width, height = (side - side % multiple for side in (image.shape[2], image.shape[1]))
    if not width or not height:
        raise InputError(
            f"expected a picture of at least {multiple} pixels a side, found one of {image.shape[2]}x{image.shape[1]}",
            input="multiple_of",
        )
    return centred(image, width, height)


def centred(image: Tensor, width: int, height: int) -> Tensor:
    """The middle of the picture, or the picture in the middle of black (or of nothing, with alpha)."""
    across, down = width - image.shape[2], height - image.shape[1]
    left, top = int(across / 2), int(down / 2)  # towards 0: what is odd is cut or added behind
    sides = (left, across - left, top, down - top)
    return pad(image, (0, 0, *sides)) if any(sides) else image


def cropped(image: Tensor, size: tuple[int, int], position: str, offset: tuple[int, int]) -> tuple[Tensor, int, int]:
    """A rectangle of ``size`` (width, height) at a named position such as ``top-left`` or ``center``, moved by ``offset``, and where it
    begins. What it has outside of the picture is left out. Raises InputError where that is all."""
    whole = (image.shape[2], image.shape[1])
    wanted = tuple(min(one, other) for one, other in zip(size, whole, strict=True))
    room = (whole[0] - wanted[0], whole[1] - wanted[1])
    place = [round(room[0] / 2), round(room[1] / 2)]
    for word, axis, share in (("left", 0, 0), ("right", 0, 1), ("top", 1, 0), ("bottom", 1, 1)):
        if word in position:
            place[axis] = room[axis] * share
    starts = [place[axis] + offset[axis] for axis in (0, 1)]
    (x, right), (y, bottom) = (
        (max(0, start), min(start + side, most)) for start, side, most in zip(starts, wanted, whole, strict=True)
    )
    if x >= right or y >= bottom:
        raise InputError(
            f"expected a rectangle of which something lies in the picture of {whole[0]}x{whole[1]} pixels, found "
            f"{wanted[0]}x{wanted[1]} at ({starts[0]}, {starts[1]})",
            input="width" if not wanted[0] else "height" if not wanted[1] else "x_offset" if x >= right else "y_offset",
        )
    return image[:, y:bottom, x:right].clone(), x, y


def extended(batch: Tensor, count: int, method: str) -> Tensor:
    """So many pictures out of those there are: evenly from all (``expand``), all in turn (``repeat all``), or with the first or the last
    as often as it takes."""
    there = len(batch)
    if method == "expand" and count < there:
        places = [min(round(index * (there - 1) / max(count - 1, 1)), there - 1) for index in range(count)]
    elif method == "expand":
        places = [min(int((index + 0.5) * there / count), there - 1) for index in range(count)]
    elif method == "repeat all":
        places = [index % there for index in range(count)]
    elif method == "repeat first" and count > there:
        places = [0] * (count - there) + list(range(there))
    else:
        places = [min(index, there - 1) for index in range(count)]
    return batch[places]
