"""Sizes for hints, and hints at other sizes without what makes them hints getting lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from nodes.diffusion.annotators.frames import Numbers, Pixels, check, levels

Mode = Literal["Just Resize", "Crop and Resize", "Resize and Fill"]

_LETTERS: Final = 40
_FEW: Final = 200
"""Colours of a map of segments, at most."""
_ALONG: Final[Mapping[str, tuple[tuple[int, int], tuple[int, int]]]] = {
    "row": ((0, -1), (0, 1)),
    "column": ((-1, 0), (1, 0)),
    "down": ((-1, -1), (1, 1)),
    "up": ((1, -1), (-1, 1)),
}


def pixel_perfect(height: int, width: int, to_height: int, to_width: int, mode: Mode) -> int:
    """The resolution at which a preprocessor sees a picture as large as it will be generated."""
    scales = to_height / height, to_width / width
    return round((min(scales) if mode == "Resize and Fill" else max(scales)) * min(height, width))


def resized(pixels: Pixels, width: int, height: int, mode: Mode) -> Pixels:
    """A hint at another size: stretched, cropped to fill, or whole with its most usual border colour around it."""
    if mode == "Just Resize":
        return scaled(pixels, width, height)
    old_height, old_width = pixels.shape[:2]
    scales = height / old_height, width / old_width
    scale = min(scales) if mode == "Resize and Fill" else max(scales)
    found = scaled(pixels, max(round(old_width * scale), 1), max(round(old_height * scale), 1))
    if mode == "Crop and Resize":
        top, left = (max(0, (found.shape[i] - side) // 2) for i, side in enumerate((height, width)))
        return found[top : top + height, left : left + width]
    borders = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    canvas = np.tile(np.median(borders, axis=0).astype(np.uint8), (height, width, 1))
    top, left = (max(0, (side - found.shape[i]) // 2) for i, side in enumerate((height, width)))
    canvas[top : top + found.shape[0], left : left + found.shape[1]] = found
    return canvas


def scaled(pixels: Pixels, width: int, height: int) -> Pixels:
    """A hint of another size. Segments keep their colours, and what is black and white stays so, lines of one pixel too."""
    if pixels.shape[:2] == (height, width):
        return pixels
    colours = len(np.unique(pixels.reshape(-1, 3), axis=0))
    is_binary = colours == 2 and pixels.min() < 16 and pixels.max() > 240
    is_smaller = width * height < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_NEAREST if 2 < colours < _FEW else cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC
    found = cv2.resize(pixels, (width, height), interpolation=how)
    if not is_binary:
        return found.astype(np.uint8)
    grey = found.mean(axis=2).clip(0, 255).astype(np.uint8)
    is_thin = _is_thin(pixels)
    lines = cv2.threshold(_ridges(grey) if is_thin else grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    return np.repeat((_thinned(lines) if is_thin else lines)[..., None], 3, axis=2)


def _is_thin(pixels: Pixels) -> bool:
    """Whether most of what is white is gone once a pixel is taken off all around."""
    square = np.ones((3, 3), np.uint8)
    left = cv2.dilate(cv2.erode(pixels, square), square)
    return bool(2 * np.count_nonzero(left < pixels) > np.count_nonzero(pixels > 127))


def _ridges(grey: Numbers) -> Numbers:
    """Only what is highest along a row, a column or a diagonal."""
    padded = np.pad(grey, 1)
    height, width = grey.shape

    def at(offset: tuple[int, int]) -> Numbers:
        return padded[1 + offset[0] : 1 + offset[0] + height, 1 + offset[1] : 1 + offset[1] + width]

    highest = np.zeros(grey.shape, bool)
    for before, behind in _ALONG.values():
        highest |= (grey >= at(before)) & (grey >= at(behind)) & (grey > 0)
    return np.where(highest, grey, 0).astype(np.uint8)


def _thinned(lines: Numbers) -> Numbers:
    """Lines of one pixel (Guo and Hall 1989)."""
    from skimage.morphology import thin

    return thin(lines > 127).astype(np.uint8) * 255


def captioned(pictures: Tensor, text: str) -> Tensor:
    """The first of pictures [B,H,W,C] with a green text in its corner: float32 [1,H,W,3]."""
    from PIL import Image, ImageDraw, ImageFont

    check(pictures)
    canvas = Image.fromarray(levels(pictures[0]))
    ImageDraw.Draw(canvas).text((0, 0), text, fill=(0, 255, 0), font=ImageFont.load_default(size=_LETTERS))
    return torch.from_numpy(np.array(canvas)).float()[None] / 255
