"""Operations on latents [B,C,h,w], by name with their numbers: on pictures' latents, or on what guidance adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from engine.errors import InputError


def reinhard(latent: Tensor, multiplier: float) -> Tensor:
    """The lengths of the cells' vectors pressed below ``multiplier`` times their mean plus five deviations, by the curve of
    Reinhard et al. 2002, "Photographic Tone Reproduction for Digital Images", eq. 3."""
    length = torch.linalg.vector_norm(latent, dim=1, keepdim=True) + 1e-10
    every = tuple(range(1, length.ndim))
    top = (length.mean(every, keepdim=True) + 5 * length.std(every, keepdim=True)) * multiplier
    pressed: Tensor = latent * (top / (length + top))
    return pressed


def sharpen(latent: Tensor, radius: int, sigma: float, alpha: float) -> Tensor:
    """The directions of the cells' vectors with ten ``alpha`` of their difference from a Gaussian mean added; the lengths
    stay. The Gaussian's coordinates run from -1 to 1 over the kernel of ``2 radius + 1`` cells a side."""
    if radius >= min(latent.shape[-2:]):
        raise InputError(
            f"sharpen_radius must be below the latent's smaller side, {min(latent.shape[-2:])}; found {radius}",
            input="sharpen_radius",
        )
    length: Tensor = torch.linalg.vector_norm(latent, dim=1, keepdim=True) + 1e-6
    axis = torch.linspace(-1, 1, 2 * radius + 1, device=latent.device)
    kernel = torch.exp(-(axis[:, None] ** 2 + axis**2) / (2 * sigma**2))
    kernel = -10 * alpha * kernel / kernel.sum()
    kernel[radius, radius] += 1 - kernel.sum()
    channels = latent.shape[1]
    padded = pad(latent / length, (radius,) * 4, mode="reflect")
    sharpened: Tensor = conv2d(padded, kernel.to(latent).expand(channels, 1, -1, -1), groups=channels)
    return length * sharpened


OPERATIONS: Final[Mapping[str, Callable[..., Tensor]]] = MappingProxyType({"reinhard": reinhard, "sharpen": sharpen})


def operated(latent: Tensor, operation: Mapping[str, Any]) -> Tensor:
    """``latent`` [B,C,h,w] after an operation ``{"name": ..., "numbers": {...}}``."""
    return OPERATIONS[operation["name"]](latent, **operation["numbers"])
