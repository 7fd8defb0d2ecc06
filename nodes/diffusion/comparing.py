"""Pictures [B,H,W,C] beside each other, in a grid, and what differs between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad

from engine.errors import InputError
from nodes.diffusion import layout, pictures
from nodes.diffusion.resize import MAX_SIDE

LABEL: Final = 24
"""Pixels of height of the line under a picture of a grid."""


def alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both with as many pictures and channels, the second at the first's size. The shorter batch goes on with its last picture."""
    count, channels = max(len(first), len(second)), max(first.shape[-1], second.shape[-1])
    one, other = (_filled_up(image, count, channels) for image in (first, second))
    return one, pictures.scale(other, one.shape[2], one.shape[1], "bicubic", "center").clamp(0, 1)


def _filled_up(image: Tensor, count: int, channels: int) -> Tensor:
    more = image[-1:].expand(count - len(image), -1, -1, -1)
    return pad(torch.cat([image, more]), (0, channels - image.shape[-1]), value=1.0)


def difference(first: Tensor, second: Tensor, gain: float, threshold: float) -> tuple[Tensor, Tensor, float, float]:
    """How far two pictures lie apart: the distance of each channel times ``gain`` [B,H,W,C], a mask [B,H,W] of where any channel's is
    more than ``threshold``, the mean distance, and the peak signal-to-noise ratio in decibels, 100 at most."""
    one, other = alike(first, second)
    apart = (one - other).abs()
    squares = float((apart.double() ** 2).mean())
    ratio = 100.0 if squares <= 1e-10 else -10 * math.log10(squares)
    shown = (apart * gain).clamp(0, 1)
    if shown.shape[-1] == 4:
        shown = torch.cat([shown[..., :3], torch.ones_like(shown[..., 3:])], dim=-1)
    return shown, (apart.amax(-1) > threshold).float(), float(apart.double().mean()), ratio


def enhanced(first: Tensor, second: Tensor, exponent: float) -> Tensor:
    """What the first has more than the second, to the power of ``exponent``, which brings out what is faint."""
    one, other = alike(first, second)
    more = (one - other).clamp(0, 1)
    return torch.where(more > 0, more**exponent, 0.0)


def sheet(images: Tensor, columns: int, most: int) -> Tensor:
    """A batch as one picture [1,H,W,C], row by row, what is left over black; with cells made smaller, their sides in eights, where a
    side would be longer than ``most``."""
    rows = math.ceil(len(images) / columns)
    height, width = images.shape[1:3]
    factor = min(most / (rows * height), most / (columns * width), 1.0)
    if factor < 1:
        height, width = (max(8, int(side * factor / 8) * 8) for side in (height, width))
        images = pictures.scale(images, width, height, "lanczos")
    return _tiled(images, columns, 0)


def _tiled(images: Tensor, columns: int, padding: int) -> Tensor:
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    shape = (rows * (height + padding) - padding, columns * (width + padding) - padding)
    if max(shape) > MAX_SIDE:
        raise InputError(
            f"the grid of {count} pictures would have {shape[1]}x{shape[0]} pixels; at most {MAX_SIDE} a side can be made, "
            "make the cells smaller or the columns more even"
        )
    result = torch.zeros(1, *shape, channels)
    for index, image in enumerate(images):
        top, left = (
            place * (side + padding) for place, side in zip(divmod(index, columns), (height, width), strict=True)
        )
        result[0, top : top + height, left : left + width] = image
    return result


def grid(
    batches: Sequence[Tensor], columns: int, cell: tuple[int, int], padding: int, labels: Sequence[str] = ()
) -> Tensor:
    """Pictures of any sizes as one [1,H,W,C]: each as large as fits into a cell (width, height), its aspect kept, on black, with so many
    pixels between. With labels a line of text stands below each; those that are missing are empty."""
    channels = max(batch.shape[-1] for batch in batches)
    fitted = [
        _filled_up(layout.fitted_into(batch, *cell, "black", "lanczos"), len(batch), channels) for batch in batches
    ]
    cells = torch.cat(fitted)
    if any(labels):
        lines = [_line(labels[index] if index < len(labels) else "", cell[0]) for index in range(len(cells))]
        cells = torch.cat([cells, pad(torch.stack(lines), (0, channels - 3), value=1.0)], dim=1)
    return _tiled(cells, min(columns, len(cells)), padding)


def _line(text: str, width: int) -> Tensor:
    """A white line of text in the middle of black [LABEL,width,3], its end left out where it is too long."""
    ground = Image.new("RGB", (width, LABEL))
    draw, font = ImageDraw.Draw(ground), ImageFont.load_default(LABEL * 0.6)
    text = " ".join(text.split())
    shown = text
    while shown and draw.textlength(shown, font) > width - 4:
        text = text[:-1]
        shown = text + "…" if text else ""
    draw.text((width / 2, LABEL / 2), shown, "white", font, anchor="mm")
    return torch.from_numpy(np.asarray(ground).astype(np.float32) / 255.0)
