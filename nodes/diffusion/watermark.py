"""A mark in pictures that is not seen: bits in the low frequencies of a colour difference, as the package invisible-watermark has them.

A picture's blue difference (ITU-R BT.601) goes through one step of Haar's wavelet transform. Of every 4x4 block of the coarse part one
number carries a bit: which half of a step of 36 it lies in. The blocks take the bits in turn, so that every bit is written many times,
and what is read is what most say. The number is the largest value but the first (``dwtDct``), or the largest singular value
(``dwtDctSvd``), which JPEG leaves alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import InputError

STEP: Final = 36.0
BLOCK: Final = 4
FEWEST: Final = 8
"""Blocks a bit; with less what is read is chance."""

Plane = NDArray[np.float64]


def write(image: Tensor, mark: bytes, method: str = "dwtDctSvd") -> Tensor:
    """Pictures [B,H,W,C] with ``mark`` in each. Raises InputError for pictures with too few blocks of 8x8 pixels for it."""
    bits = np.unpackbits(np.frombuffer(mark, np.uint8))
    _check_room(image, len(bits))
    return torch.stack([_written(picture, bits, method) for picture in image])


def read(image: Tensor, length: int, method: str = "dwtDctSvd") -> list[tuple[bytes, float]]:
    """The mark of ``length`` bytes of each picture, and how well its blocks agree: 1 where all do.

    Where there is none it is about 0.1; 0 where all bits are the same, as in a picture of one colour.
    """
    _check_room(image, 8 * length)
    return [_read(picture, 8 * length, method) for picture in image]


def _check_room(image: Tensor, bits: int) -> None:
    height, width = image.shape[1:3]
    blocks = (height // 8) * (width // 8)
    if blocks < FEWEST * bits:
        raise InputError(
            f"expected pictures of at least {FEWEST * bits} blocks of 8x8 pixels for a mark of {bits // 8} bytes, found "
            f"{width}x{height}, which have {blocks}; use a shorter mark or a larger picture",
            input="image",
        )


def _blue_difference(picture: Tensor) -> Plane:
    """[H,W] in 0..255 around 128, the sides cut to whole fours."""
    colours = picture[..., :3].clamp(0, 1).double().cpu().numpy() * 255.0
    if colours.shape[-1] == 1:
        colours = colours.repeat(3, axis=-1)
    light = colours @ np.array([0.299, 0.587, 0.114])
    plane: Plane = 0.492 * (colours[..., 2] - light) + 128.0
    return plane[: plane.shape[0] // 4 * 4, : plane.shape[1] // 4 * 4]


def _coarse(plane: Plane) -> Plane:
    """The low part of Haar's transform in both directions."""
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 2


def _blocks(coarse: Plane) -> Plane:
    """[rows, columns, 16], without what does not fill a block."""
    rows, columns = (side // BLOCK for side in coarse.shape)
    cut = coarse[: rows * BLOCK, : columns * BLOCK]
    return cut.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2).reshape(rows, columns, BLOCK * BLOCK)


def _marked(values: Plane, bits: NDArray[np.uint8]) -> Plane:
    wanted = np.resize(bits, values.size).reshape(values.shape)
    marked: Plane = (np.floor(np.abs(values) / STEP) + 0.25 + 0.5 * wanted) * STEP
    return marked


def _largest(blocks: Plane) -> tuple[NDArray[np.intp], Plane]:
    """Where in its block the largest value but the first is, and that value."""
    places = np.abs(blocks[..., 1:]).argmax(-1)[..., None] + 1
    return places, np.take_along_axis(blocks, places, -1)[..., 0]


def _peaks_marked(blocks: Plane, bits: NDArray[np.uint8]) -> Plane:
    places, values = _largest(blocks)
    marked = _marked(values, bits)
    # what carries the bit has to stay the largest of its block, or it will not be found
    others = np.abs(blocks[..., 1:])
    np.put_along_axis(others, places - 1, 0.0, -1)
    marked += np.where(marked <= others.max(-1) + 1, STEP, 0.0)
    result = blocks.copy()
    np.put_along_axis(result, places, np.copysign(marked, values)[..., None], -1)
    return result


def _sums_marked(blocks: Plane, bits: NDArray[np.uint8]) -> Plane:
    left, sizes, right = np.linalg.svd(blocks.reshape(*blocks.shape[:2], BLOCK, BLOCK))
    gained = _marked(sizes[..., 0], bits) - sizes[..., 0]
    change = gained[..., None, None] * left[..., :, :1] * right[..., :1, :]
    return np.asarray(blocks + change.reshape(blocks.shape))


def _carriers(blocks: Plane, method: str) -> Plane:
    """The number of each block that carries a bit."""
    if method == "dwtDct":
        return np.abs(_largest(blocks)[1])
    # the transform in the method's name is orthogonal: it changes no singular value
    return np.asarray(np.linalg.svd(blocks.reshape(*blocks.shape[:2], BLOCK, BLOCK), compute_uv=False)[..., 0])


def _written(picture: Tensor, bits: NDArray[np.uint8], method: str) -> Tensor:
    blocks = _blocks(_coarse(_blue_difference(picture)))
    marked = (_peaks_marked if method == "dwtDct" else _sums_marked)(blocks, bits)
    return _with_difference(picture, _spread(marked - blocks) / 2)


def _spread(blocks: Plane) -> Plane:
    """Each value of the coarse part over its 2x2 pixels."""
    rows, columns = blocks.shape[:2]
    coarse = blocks.reshape(rows, columns, BLOCK, BLOCK).swapaxes(1, 2).reshape(rows * BLOCK, columns * BLOCK)
    return coarse.repeat(2, axis=0).repeat(2, axis=1)


def _with_difference(picture: Tensor, change: Plane) -> Tensor:
    """The picture with its blue difference changed, brightness and red difference kept; cut to 0..1."""
    blue = change / 0.492
    rest = np.zeros_like(blue)
    # with light kept, what blue gains green has to lose
    step = np.stack([rest, -blue * 0.114 / 0.587, blue], axis=-1) / 255.0
    result = picture.clone()
    if result.shape[-1] == 1:
        result = result.expand(*result.shape[:2], 3).clone()
    height, width = change.shape
    result[:height, :width, :3] += torch.from_numpy(step.astype(np.float32))
    return result.clamp(0, 1)


def _read(picture: Tensor, count: int, method: str) -> tuple[bytes, float]:
    values = _carriers(_blocks(_coarse(_blue_difference(picture))), method)
    votes = (values % STEP > STEP / 2).ravel()
    shares = np.array([votes[bit::count].mean() for bit in range(count)])
    bits = shares * 255 > 127
    agreement = 0.0 if bits.all() or not bits.any() else float(np.abs(2 * shares - 1).mean())
    return np.packbits(bits).tobytes(), agreement
