"""Pictures for annotators, one after the other: as levels of 0..255, with the shorter side at the resolution asked for, and back.

Networks want sides that are multiples of 64. A picture gets them by repeating its last row and column, and what was added is cut off the
result; nothing is stretched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import InputError, ResourceError, is_out_of_memory

Pixels = NDArray[np.uint8]
"""[H,W,3], RGB."""
Numbers = Any
"""An array [H,W] or [H,W,C]; what OpenCV gives is of no narrower type."""
Detect = Callable[[Pixels], Numbers]
"""From a picture to a map of its size, [H,W] or [H,W,3] of levels."""
Progress = Callable[[int, int], None]

_MULTIPLE: Final = 64
_LONGEST: Final = 32_000
"""Pixels along a side that the tools below can address."""
_BYTES: Final = 4096
"""For each pixel: 64 maps in float32 at the full size, which the widest of these networks have, and what each becomes."""
_MOST: Final = 2**28
"""Pixels of a picture at the resolution asked for: 16384 x 16384."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture at its resolution: ``pixels`` with the rows and columns added, ``height`` and ``width`` without."""

    pixels: Pixels
    height: int
    width: int

    def cropped(self, result: Numbers) -> Numbers:
        """A map of ``pixels`` without what was added, as three channels."""
        return three_channels(result[: self.height, : self.width])


def levels(picture: Tensor) -> Pixels:
    """A picture [H,W,C] in 0..1 as RGB levels, cut off and not rounded, as the field has it.

    One channel is grey; of two and four the last is alpha, which lets white through.
    """
    channels = picture.shape[-1]
    if channels not in (1, 2, 3, 4):
        raise InputError(f"expected a picture of 1 to 4 channels, found {channels}", input="image")
    found = (picture.detach().cpu().float().nan_to_num().clamp(0, 1) * 255).to(torch.uint8).numpy()
    colours = found[..., : channels - 1] if channels in (2, 4) else found
    if channels in (2, 4):
        alpha = found[..., -1:].astype(np.float32) / 255
        colours = (colours.astype(np.float32) * alpha + 255 * (1 - alpha)).clip(0, 255).astype(np.uint8)
    return three_channels(colours)


def three_channels(result: Numbers) -> Pixels:
    """Levels [H,W], [H,W,1] or [H,W,3] as [H,W,3]."""
    whole = result[..., None] if result.ndim == 2 else result
    return np.ascontiguousarray(np.broadcast_to(whole, (*whole.shape[:2], 3)).astype(np.uint8))


def fitted(pixels: Pixels, resolution: int, enlarge: int = cv2.INTER_CUBIC) -> Frame:
    """The picture with its shorter side ``resolution`` long, and sides that are multiples of 64.

    Raises InputError where that is more than can be worked on: a narrow strip becomes a very long one.
    """
    height, width = pixels.shape[:2]
    scale = resolution / min(height, width)
    size = round(height * scale), round(width * scale)
    if max(size) > _LONGEST or size[0] * size[1] > _MOST:
        raise InputError(
            f"expected a picture that is at most {_LONGEST} pixels long at a resolution of {resolution}, found one of "
            f"{width} x {height}, which would be {size[1]} x {size[0]}; crop it or choose a lower resolution",
            input="image",
        )
    resized = cv2.resize(pixels, size[::-1], interpolation=enlarge if scale > 1 else cv2.INTER_AREA)
    added = [(0, -side % _MULTIPLE) for side in size]
    return Frame(np.pad(resized, [*added, (0, 0)], mode="edge"), *size)


def annotated(
    pictures: Tensor, detect: Detect, progress: Progress, resolution: int, *, enlarge: int = cv2.INTER_CUBIC
) -> Tensor:
    """``detect`` of every picture of [B,H,W,C] at ``resolution``; progress is told before each. float32 [B,h,w,3] on the CPU."""

    def at_resolution(pixels: Pixels) -> Numbers:
        frame = fitted(pixels, resolution, enlarge)
        return frame.cropped(detect(frame.pixels))

    return each(pictures, at_resolution, progress)


def each(pictures: Tensor, detect: Detect, progress: Progress) -> Tensor:
    """``detect`` of every picture as it is. float32 [B,h,w,3] on the CPU."""
    check(pictures)
    maps: list[Pixels] = []
    for index, picture in enumerate(pictures):
        progress(index, len(pictures))
        maps.append(three_channels(_afforded(detect, levels(picture))))
    progress(len(pictures), len(pictures))
    return torch.from_numpy(np.stack(maps)).float() / 255


def check(pictures: Tensor) -> None:
    """Raise InputError for a batch without pictures or pixels."""
    if pictures.ndim != 4 or not all(pictures.shape):
        raise InputError(f"expected pictures [B,H,W,C], found {list(pictures.shape)}", input="image")


def working_bytes(pictures: Tensor, resolution: int) -> int:
    """About what a network needs for what it makes of one of the pictures on the way."""
    check(pictures)
    height, width = pictures.shape[1:3]
    return int(height * width * (resolution / min(height, width)) ** 2) * _BYTES


def _afforded(detect: Detect, pixels: Pixels) -> Numbers:
    try:
        return detect(pixels)
    except Exception as error:
        if not (is_out_of_memory(error) or (isinstance(error, cv2.error) and "Insufficient memory" in str(error))):
            raise
        height, width = pixels.shape[:2]
        raise ResourceError(
            f"expected room to work on a picture of {width} x {height}, found too little; choose a lower resolution"
        ) from error
