"""Filters over pictures [B,H,W,C]: blur, sharpening, morphology, colour spaces, palettes, edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from engine.errors import InputError


def gaussian(radius: int, sigma: float) -> Tensor:
    """A Gaussian [2r+1,2r+1] over -1..1 in both directions, so that ``sigma`` counts in radii. Its sum is 1."""
    axis = torch.linspace(-1, 1, 2 * radius + 1)
    distance = (axis[:, None] * axis[:, None] + axis * axis).sqrt()
    bell = torch.exp(-(distance * distance) / (2 * sigma * sigma))
    return bell / bell.sum()


def blurred(image: Tensor, radius: int, sigma: float) -> Tensor:
    """Smoothed with ``gaussian``, mirrored at the border."""
    return _filtered(image, gaussian(radius, sigma))


def sharpened(image: Tensor, radius: int, sigma: float, alpha: float) -> Tensor:
    """Unsharp masking: ``image + 10 alpha (image - blurred)``, cut to 0..1."""
    kernel = gaussian(radius, sigma) * -(10 * alpha)
    kernel[radius, radius] = kernel[radius, radius] - kernel.sum() + 1
    return _filtered(image, kernel).clamp(0, 1)


def _filtered(image: Tensor, kernel: Tensor) -> Tensor:
    """Each channel under ``kernel`` [k,k], k odd.

    Where a picture is flat the result differs from it by rounding alone, and eight bits cut off show whether it is above or below. So all
    channels go through one convolution, as in ComfyUI: the sums are made in the same order.
    """
    reach = kernel.shape[0] // 2
    planes = image.movedim(-1, 1)
    if reach < min(planes.shape[-2:]):
        planes = pad(planes, (reach,) * 4, mode="reflect")
    else:
        rows, columns = (_mirrored(side, reach) for side in planes.shape[-2:])
        planes = planes[:, :, rows][..., columns]
    channels = planes.shape[1]
    done = conv2d(planes, kernel.to(planes.dtype).repeat(channels, 1, 1)[:, None], groups=channels)
    return done.movedim(1, -1).contiguous()


def separable(planes: Tensor, weights: Tensor) -> Tensor:
    """[B,H,W] under ``weights`` [k], k odd, along the rows and along the columns, mirrored at the border."""
    reach = len(weights) // 2
    rows, columns = (_mirrored(side, reach) for side in planes.shape[-2:])
    line = weights.to(planes.dtype)
    down = conv2d(planes[:, None, rows], line[None, None, :, None])
    return conv2d(down[..., columns], line[None, None, None])[:, 0]


def _mirrored(size: int, reach: int) -> Tensor:
    """Indices from ``-reach`` to ``size + reach``, mirrored at the first and last pixel as often as it takes."""
    period = max(1, 2 * (size - 1))
    index = torch.arange(-reach, size + reach) % period
    return torch.minimum(index, period - index)


def _largest(planes: Tensor, before: int, after: int) -> Tensor:
    """Of a square window with so many pixels before and after its middle; nothing counts beyond the border."""
    size = before + 1 + after
    rows = max_pool2d(pad(planes, (0, 0, before, after), value=-math.inf), (size, 1), 1)
    return max_pool2d(pad(rows, (before, after), value=-math.inf), (1, size), 1)


def _dilated(planes: Tensor, size: int) -> Tensor:
    """With the window that ``_eroded`` has turned by half a turn, so that opening and closing move nothing."""
    return _largest(planes, size - 1 - size // 2, size // 2)


def _eroded(planes: Tensor, size: int) -> Tensor:
    """Of an even window one pixel more lies before the middle."""
    return -_largest(-planes, size // 2, size - 1 - size // 2)


def _opened(planes: Tensor, size: int) -> Tensor:
    return _dilated(_eroded(planes, size), size)


def _closed(planes: Tensor, size: int) -> Tensor:
    return _eroded(_dilated(planes, size), size)


_MORPHOLOGY: Final[dict[str, Callable[[Tensor, int], Tensor]]] = {
    "erode": _eroded,
    "dilate": _dilated,
    "open": _opened,
    "close": _closed,
    "gradient": lambda planes, size: _dilated(planes, size) - _eroded(planes, size),
    "bottom_hat": lambda planes, size: _closed(planes, size) - planes,
    "top_hat": lambda planes, size: planes - _opened(planes, size),
}


def morphology(image: Tensor, operation: str, size: int) -> Tensor:
    """Grey morphology with a square (Serra, "Image analysis and mathematical morphology", 1982), each channel for itself."""
    return _MORPHOLOGY[operation](image.movedim(-1, 1), size).movedim(1, -1).contiguous()


_LUMA: Final = (0.299, 0.587, 0.114)
_TO_U, _TO_V = 0.564, 0.713
"""ITU-R BT.601: brightness, and how much of the colour differences."""


def to_yuv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Brightness and the two colour differences around 0.5 (ITU-R BT.601, full range), each as a grey picture [B,H,W,3]."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    y = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    u, v = _TO_U * (blue - y) + 0.5, _TO_V * (red - y) + 0.5
    planes = (plane[..., None].expand(*plane.shape, 3).clone() for plane in (y, u, v))
    return next(planes), next(planes), next(planes)


def from_yuv(y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The picture of ``to_yuv``; of each plane the mean of its channels counts. Raises InputError where their sizes differ."""
    if not y.shape[:3] == u.shape[:3] == v.shape[:3]:
        found = ", ".join(str(list(plane.shape[:3])) for plane in (y, u, v))
        raise InputError(f"expected Y, U and V of one size, found [batch, height, width] {found}; scale them first")
    light, blueness, redness = y.mean(-1), u.mean(-1) - 0.5, v.mean(-1) - 0.5
    red, blue = 1 / _TO_V, 1 / _TO_U
    from_red, from_blue = (share / _LUMA[1] * of for share, of in ((_LUMA[0], red), (_LUMA[2], blue)))
    channels = (light + red * redness, light - from_red * redness - from_blue * blueness, light + blue * blueness)
    return torch.stack(channels, dim=-1).clamp(0, 1)


def quantized(image: Tensor, colours: int, dither: str) -> Tensor:
    """Every picture in a palette of its own of at most so many colours (Heckbert 1982, median cut, by Pillow), [B,H,W,3].

    ``dither``: none, floyd-steinberg, or bayer-2 to bayer-16, ordered dithering by a matrix of that size (Bayer 1973).
    """
    wide = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].expand(*image.shape[:3], 3)
    bytes_ = (wide * 255).clamp(0, 255).to(torch.uint8).cpu().numpy()
    pictures = [_quantized(Image.fromarray(pixels), colours, dither) for pixels in bytes_]
    return torch.from_numpy(np.stack(pictures).astype(np.float32) / 255.0)


def _quantized(picture: Image.Image, colours: int, dither: str) -> NDArray[np.uint8]:
    palette = picture.quantize(colors=colours)
    if dither.startswith("bayer"):
        known = len(palette.getpalette() or []) // 3
        picture = _ordered(picture, int(dither.rpartition("-")[2]), spread=2 * 256 / max(known, 1))
    how = Image.Dither.FLOYDSTEINBERG if dither == "floyd-steinberg" else Image.Dither.NONE
    return np.asarray(picture.quantize(colors=colours, palette=palette, dither=how).convert("RGB"))


def _ordered(picture: Image.Image, order: int, spread: float) -> Image.Image:
    """The picture with Bayer's thresholds added, ``spread`` apart at most."""
    pixels = np.asarray(picture).astype(np.float32)
    height, width = pixels.shape[:2]
    tiles = np.tile(bayer(order) * spread + 0.5, (-(-height // order), -(-width // order)))[:height, :width]
    return Image.fromarray((pixels + tiles[..., None]).clip(0, 255).astype(np.uint8))


def bayer(order: int) -> NDArray[np.float32]:
    """Bayer's matrix [order,order], order a power of two: evenly spaced thresholds around 0, less than 0.5 from it."""
    ranks = np.zeros((1, 1))
    while len(ranks) < order:
        ranks = np.block([[4 * ranks, 4 * ranks + 2], [4 * ranks + 3, 4 * ranks + 1]])
    return ((ranks + 0.5) / ranks.size - 0.5).astype(np.float32)


def noisy(image: Tensor, seed: int, strength: float) -> Tensor:
    """With normal noise of the seed, ``strength`` its standard deviation, drawn on the CPU; cut to 0..1."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return (image + strength * torch.randn(image.shape, generator=generator)).clamp(0, 1)


_SOBEL: Final = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
_AROUND: Final = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""The neighbours (row, column) of a pixel, in eighths of a turn from the right downwards."""
_RIGHT, _BELOW = 0, 2


def canny(image: Tensor, low: float, high: float) -> Tensor:
    """Edges, 0 or 1, as grey pictures [B,H,W,3] (Canny, "A computational approach to edge detection", 1986).

    Grey by BT.601, smoothed by a 5 x 5 Gaussian of sigma 1, Sobel gradients; of these stay the largest across the edge, where they
    exceed ``high``, or exceed ``low`` and hang together with such. Raises InputError where ``low`` is more than ``high``.

    A step between two pixels has gradients of one size on both sides, up to rounding. So what is rounded where decides which side is the
    edge: each sum here is made in the order in which kornia makes it, whose edges ControlNets are usually given.
    """
    if low > high:
        raise InputError(
            f"expected a low_threshold of at most the high_threshold {high:g}, found {low:g}", input="low_threshold"
        )
    padded = pad(_smoothed(_grey(image))[:, None], (1, 1, 1, 1), mode="replicate")
    across, down = conv2d(padded, torch.stack([_SOBEL, _SOBEL.T])[:, None]).unbind(1)
    size = (across * across + down * down + 1e-6).sqrt()
    size = torch.where(_is_ridge(size, torch.atan2(down, across)), size, 0.0)
    edges = torch.stack([_connected(strong, weak) for strong, weak in zip(size > high, size > low, strict=True)])
    return edges.float()[..., None].expand(-1, -1, -1, 3).clone()


def _grey(image: Tensor) -> Tensor:
    """[B,H,W]"""
    if image.shape[-1] < 3:
        return image[..., 0]
    red, green, blue = (torch.tensor(share, dtype=image.dtype) for share in _LUMA)
    return torch.addcmul(torch.addcmul(image[..., 0] * red, image[..., 1], green), image[..., 2], blue)


def _smoothed(grey: Tensor) -> Tensor:
    """[B,H,W] under a Gaussian of sigma 1 and five pixels, along the rows and then along the columns, mirrored at the border."""
    rows, columns = (_mirrored(side, 2) for side in grey.shape[1:])
    bell = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / 2).to(grey.dtype)
    bell = bell / bell.sum()
    along = conv2d(grey[:, None, :, columns], bell[None, None, None])
    return conv2d(along[:, :, rows], bell[None, None, :, None])[:, 0]


def _is_ridge(size: Tensor, angle: Tensor) -> Tensor:
    """Where ``size`` [B,H,W] is larger than at both neighbours in the direction of ``angle``; beyond the border it is 0.

    Of two as large beside or below each other the left or the upper one counts; on slants neither does.
    """
    eighth = (angle / (math.pi / 4)).round().long() % 8
    framed = pad(size, (1, 1, 1, 1))
    height, width = size.shape[1:]
    around = torch.stack([framed[:, 1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in _AROUND])
    is_ridge = torch.ones_like(size, dtype=torch.bool)
    for direction in (eighth, (eighth + 4) % 8):
        neighbour = around.gather(0, direction[None])[0]
        draws = (direction == _RIGHT) | (direction == _BELOW)
        is_ridge &= (size > neighbour) | (draws & (size == neighbour))
    return is_ridge


def _connected(strong: Tensor, weak: Tensor) -> Tensor:
    """Those regions of ``weak`` [H,W], joined over corners too, that hold something of ``strong``."""
    regions, _ = ndimage.label(weak.numpy(), structure=np.ones((3, 3)))
    kept = np.isin(regions, np.unique(regions[strong.numpy()]))
    return torch.from_numpy(kept & weak.numpy())
