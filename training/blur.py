"""What makes drawings less sharp than they are drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def blurred(pictures: Tensor, spread: float) -> Tensor:
    """(N, H, W) pictures under a Gaussian of this spread in pixels."""
    reach = math.ceil(2 * spread)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    bell = torch.softmax(-(steps**2) / (2 * spread**2), 0)
    padded = functional.pad(pictures[:, None], (reach,) * 4, mode="replicate")
    across = functional.conv2d(padded, bell.view(1, 1, 1, -1))
    return functional.conv2d(across, bell.view(1, 1, -1, 1))[:, 0]


def spoiled(pictures: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Blur and roughen a share of small pictures, as an autoencoder leaves them."""
    count, _, height, width = pictures.shape
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < share
    soft = blurred(pictures.reshape(-1, height, width), 0.6).view_as(pictures)
    strength = 0.02 * torch.rand(count, 1, 1, 1, generator=generator)
    return torch.where(chosen, soft + strength * torch.randn(pictures.shape, generator=generator), pictures)
