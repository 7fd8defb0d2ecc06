"""Changing the size of picture and latent batches: the methods of the Upscale nodes."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows it by)
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine.errors import InputError

_INTERPOLATE: Final = {"nearest", "nearest-exact", "bilinear", "area", "bicubic"}
MAX_SIDE: Final = 65536
"""More than this is a typing error, not a picture."""


def resize(samples: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """``samples`` [B,C,h,w] at [B,C,height,width].

    ``method``: nearest-exact, bilinear, area, bicubic, lanczos (8-bit, by Pillow, also where the size stays) or bislerp. With ``crop`` =
    "center" the middle of the wanted aspect ratio is cut out first, else the picture is stretched.
    """
    if max(width, height) > MAX_SIDE:
        raise InputError(
            f"a size of {width}x{height} was asked for; at most {MAX_SIDE} a side can be made, choose a smaller one"
        )
    if crop == "center":
        samples = center_crop_to_aspect(samples, width / height)
    if method == "lanczos":
        return _lanczos(samples, width, height)
    if (samples.shape[3], samples.shape[2]) == (width, height):
        return samples
    if method == "bislerp":
        return bislerp(samples, width, height)
    if method not in _INTERPOLATE:
        raise InputError(
            f"unknown resize method {method!r}; use one of {', '.join(sorted(_INTERPOLATE))}, lanczos, bislerp"
        )
    return F.interpolate(samples, size=(height, width), mode=method)


def center_crop_to_aspect(samples: Tensor, aspect: float) -> Tensor:
    """The largest centred part of [B,C,h,w] whose width over height is ``aspect``."""
    height, width = samples.shape[-2:]
    x = y = 0
    if width / height > aspect:
        x = round((width - width * (aspect / (width / height))) / 2)
    elif width / height < aspect:
        y = round((height - height * ((width / height) / aspect)) / 2)
    return samples[..., y : height - y, x : width - x]


def _lanczos(samples: Tensor, width: int, height: int) -> Tensor:
    pictures = (samples.movedim(1, -1).float().cpu().numpy() * 255.0).clip(0, 255).astype(np.uint8)
    resized = np.stack([_lanczos_bytes(picture, width, height) for picture in pictures])
    levels = torch.from_numpy(resized.astype(np.float32) / 255.0)
    return levels.movedim(-1, 1).to(samples.device, samples.dtype)


def _lanczos_bytes(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """[h,w,C] at [height,width,C]. What is transparent does not colour what is beside it: with alpha, colours count by it."""
    if picture.shape[-1] in (3, 4):
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
    planes = [
        Image.fromarray(picture[..., channel]).resize((width, height), Image.Resampling.LANCZOS)
        for channel in range(picture.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def bislerp(samples: Tensor, width: int, height: int) -> Tensor:
    """Bilinear positions with spherical interpolation of the channel vectors, first along x, then along y.

    Latents of a diffusion model lie near a sphere; a plain mean of two shortens them, a slerp (Shoemake, "Animating rotation with
    quaternion curves", 1985) does not. Lengths are interpolated linearly.
    """
    wide = _slerp_axis(samples.float(), width)
    return _slerp_axis(wide.transpose(2, 3), height).transpose(2, 3).to(samples.dtype)


def _slerp_axis(samples: Tensor, length: int) -> Tensor:
    """[B,C,h,w] to [B,C,h,length]."""
    size = samples.shape[3]
    at = ((torch.arange(length, device=samples.device, dtype=torch.float32) + 0.5) * (size / length) - 0.5).clamp(
        0, size - 1
    )
    low = at.floor().long()
    high = (low + 1).clamp(max=size - 1)
    left, right = samples[..., low].movedim(1, -1), samples[..., high].movedim(1, -1)
    return slerp(left, right, (at - low)[:, None].to(samples.dtype)).movedim(-1, 1)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """From ``a`` (t = 0) to ``b`` (t = 1) along the sphere, over the last dimension.

    Parallel vectors keep ``a``; opposite ones are mixed.
    """
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    unit_a = torch.where(length_a > 0, a / length_a, 0.0)
    unit_b = torch.where(length_b > 0, b / length_b, 0.0)
    dot = (unit_a * unit_b).sum(-1, keepdim=True)
    angle = dot.clamp(-1, 1).acos()
    mixed = (((1 - t) * angle).sin() * unit_a + (t * angle).sin() * unit_b) / angle.sin()
    curved = mixed * (length_a * (1 - t) + length_b * t)
    curved = torch.where(dot > 1 - 1e-5, a, curved)
    return torch.where(dot < 1e-5 - 1, a * (1 - t) + b * t, curved)
